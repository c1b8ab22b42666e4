"""`smile-pipe train`: shards in, a trained model out."""

import time
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.formatting import pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "train", TrainConfig, goes_on="the same command with --resume")
    def train(config: TrainConfig, console: Console) -> Result:
        """Train a recipe on shards, with Ray Train; the test side of the split is never read."""
        from smile_pipe.pipeline.train.stage import run

        started, told = time.monotonic(), dict[str, Any]()

        def tell(row: dict[str, Any]) -> None:
            told.update(row)
            progress.update(row["step"], row["num_steps"], _note(told))

        with StageProgress("train") as progress:
            manifest = run(config, tell)
        if manifest.num_skipped:
            print_line(
                console,
                f"{pluralize(manifest.num_skipped, 'damaged sample')} left out; {config.out / 'skipped.json'} has the "
                f"keys, and `smile-pipe verify {config.shards}` tells what is wrong",
            )
        if not progress.began:
            print_line(console, f"Nothing to do: {config.out} is finished")
            return manifest
        losses = ", ".join(f"{n.removeprefix('loss_')} {v:.3f}" for n, v in manifest.final_losses.items())
        print_line(
            console,
            f"{pluralize(manifest.num_steps, 'step')} on {pluralize(manifest.num_train_samples, 'sample')} of "
            f"{pluralize(len(manifest.train_subjects), 'subject')} in {time.monotonic() - started:.0f} s, "
            f"waited {_percent(told.get('data_wait', 0.0))} for data; losses: {losses}{_validation(told)}\n"
            f"{config.out / 'checkpoints' / manifest.checkpoint}",
        )
        return manifest


def _note(told: Mapping[str, Any]) -> str:
    """What is known of a run so far: each value as it was told last."""
    terms = {name.removeprefix("loss_"): value for name, value in told.items() if name.startswith("loss_")}
    total = terms.pop("total", None)
    parts = [f"epoch {told['epoch'] + 1}"]
    if total is not None:
        parts += [f"loss {total:.3f}", f"{told['samples_per_second']:.0f} samples/s"]
    # The terms last: where there is little room they are cut off.
    each = [f"{name} {value:.3f}" for name, value in terms.items()] if len(terms) > 1 else []
    return ", ".join(parts) + _validation(told) + (f" ({', '.join(each)})" if each else "")


def _validation(told: Mapping[str, Any]) -> str:
    return f", validation kNN {_percent(told['validation_knn'])}" if "validation_knn" in told else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
