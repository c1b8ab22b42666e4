"""`smile-pipe train`: train a recipe on shards."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.data.integrity import verify_hint
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.storage import StoragePath

if TYPE_CHECKING:
    from smile_pipe.pipeline.train.dry_run import TrainPlan


class TrainCommandOptions(TrainConfig):
    """Options of the stage, with a default for `out`, and `dry_run`."""

    out: StoragePath = Field(
        default_factory=lambda: StoragePath("runs"),
        description="Directory of the run, or its URL: checkpoints, metrics, manifest. "
        "[default: runs/RECIPE-FINGERPRINT]",
    )
    dry_run: bool = Field(
        False, description="Print what would be trained, with an estimate from a few steps; write nothing."
    )


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "train",
        TrainCommandOptions,
        resume_hint="the same command with --resume",
        examples=(
            "smile-pipe train --shards shards",
            "smile-pipe train --shards shards --out run --recipe supervised --split kfold:10:3 --resume",
        ),
    )
    def train(options: TrainCommandOptions, console: Console) -> Result:
        """Train a recipe on shards; several workers and GPUs need Ray. The test side of the split is never read."""
        names_out = "out" in options.model_fields_set
        # Without the options of the command alone, which have no influence on the result.
        config = TrainConfig.model_validate({name: getattr(options, name) for name in TrainConfig.model_fields})
        if options.dry_run:
            with StageProgress("train") as progress:
                progress.wait_for("taking a few steps, to measure them")
                from smile_pipe.pipeline.train.dry_run import plan

                found = plan(config, names_out)
            console.print(_plan_table(found))
            return found
        started, latest = time.monotonic(), dict[str, Any]()

        def on_metrics(row: dict[str, Any]) -> None:
            latest.update(row)
            progress.update(row["step"], row["num_steps"], _note(latest))

        with StageProgress("train") as progress:
            progress.wait_for("importing PyTorch", is_short=True)
            from smile_pipe.pipeline.train.run_identity import default_out
            from smile_pipe.pipeline.train.stage import prepare, run

            if not names_out:
                config = config.model_copy(update={"out": default_out(config, *prepare(config, in_process=False)[::2])})
                print_line(console, f"run: {config.out}")
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


def _plan_table(plan: "TrainPlan") -> Table:
    losses = " + ".join(f"{weight:g} {name}" for name, weight in plan.losses.items())
    held_out = f", and {plan.num_validation_subjects} held out" if plan.num_validation_subjects else ""
    rows = {
        "run": plan.out,
        "recipe": f"{plan.recipe}: {losses}; text from {plan.text_source}",
        "model": f"{plan.arch}, {plan.num_parameters:,} parameters, {plan.precision}; input {', '.join(plan.channels)}",
        "data": f"{pluralize(plan.num_samples, 'sample')} of {pluralize(plan.num_subjects, 'subject')}{held_out}",
        "steps": f"{plan.num_steps:,} of {pluralize(plan.joined_batch_size, 'sample')}",
    }
    if plan.step_seconds is None or plan.total_seconds is None or plan.memory_bytes is None:
        rows["time"] = "not estimated: workers use GPUs"
    else:
        total = timedelta(seconds=max(1, round(plan.total_seconds)))
        rows["time"] = f"about {total} (estimate: {1000 * plan.step_seconds:.0f} ms a step, measured here)"
        rows["memory"] = f"about {plan.memory_bytes / 2**30:.1f} GiB, and up to the cache of decoded images"
    table = Table(show_header=False, box=None)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


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
