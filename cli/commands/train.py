"""`smile-pipe train`: train a recipe on shards."""

import time
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.data.integrity import verify_hint
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.formatting import pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "train",
        TrainConfig,
        resume_hint="the same command with --resume",
        examples=(
            "smile-pipe train --shards shards --out run --split kfold:10:0",
            "smile-pipe train --shards shards --out run --recipe supervised --epochs 60 --resume",
        ),
    )
    def train(config: TrainConfig, console: Console) -> Result:
        """Train a recipe on shards; several workers and GPUs need Ray. The test side of the split is never read."""
        started, latest = time.monotonic(), dict[str, Any]()

        def on_metrics(row: dict[str, Any]) -> None:
            latest.update(row)
            progress.update(row["step"], row["num_steps"], _note(latest))

        with StageProgress("train") as progress:
            progress.wait_for("importing PyTorch", is_short=True)
            from smile_pipe.pipeline.train.stage import run

            manifest = run(config, on_metrics, on_wait=progress.wait_for)
        if manifest.num_skipped:
            print_line(
                console,
                f"{pluralize(manifest.num_skipped, 'damaged sample')} left out; {config.out / 'skipped.json'} has the "
                f"keys, and {verify_hint(config.shards)} the damage",
            )
        if manifest.num_skipped_steps:
            print_line(
                console,
                f"{pluralize(manifest.num_skipped_steps, 'step')} of {manifest.num_steps} skipped, because loss or "
                "gradient were not finite; a lower --learning-rate may help",
            )
        if not progress.began:
            print_line(console, f"Nothing to do: {config.out} is finished")
            return manifest
        losses = ", ".join(f"{n.removeprefix('loss_')} {v:.3f}" for n, v in manifest.final_losses.items())
        print_line(
            console,
            f"{pluralize(manifest.num_steps, 'step')} on {pluralize(manifest.num_train_samples, 'sample')} of "
            f"{pluralize(len(manifest.train_subjects), 'subject')} in {time.monotonic() - started:.0f} s, "
            f"waited {_percent(latest.get('data_wait', 0.0))} for data; losses: {losses}{_validation(latest)}\n"
            f"{config.out / 'checkpoints' / manifest.checkpoint}",
        )
        return manifest


def _note(latest: Mapping[str, Any]) -> str:
    """Epoch, loss, skipped steps, speed and validation accuracy, from the latest value of each metric."""
    terms = {name.removeprefix("loss_"): value for name, value in latest.items() if name.startswith("loss_")}
    total = terms.pop("total", None)
    parts = [f"epoch {latest['epoch'] + 1}"]
    if total is not None:
        parts += [f"loss {total:.3f}", f"{latest['samples_per_second']:.0f} samples/s"]
    if skipped_steps := latest.get("skipped_steps"):
        parts.insert(1, f"{pluralize(skipped_steps, 'step')} skipped (not finite)")
    # The terms come last, since the bar cuts a long note at its end.
    each = [f"{name} {value:.3f}" for name, value in terms.items()] if len(terms) > 1 else []
    return ", ".join(parts) + _validation(latest) + (f" ({', '.join(each)})" if each else "")


def _validation(latest: Mapping[str, Any]) -> str:
    return f", validation kNN {_percent(latest['validation_knn'])}" if "validation_knn" in latest else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
