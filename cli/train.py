"""`smile-pipe train`: shards in, a trained model out."""

import time
from typing import Any

import typer
from rich.console import Console

from cli.options import Result, command
from cli.progress import StageProgress
from pipeline.training.config import TrainConfig


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "train", TrainConfig)
    def train(config: TrainConfig, console: Console) -> Result:
        """Train a recipe on shards, with Ray Train; the test side of the split is never read."""
        from pipeline.train import run

        started = time.monotonic()
        with StageProgress(console, "train") as progress:
            manifest = run(config, lambda row: progress.update(row["step"], row["num_steps"], _note(row)))
        if manifest.num_skipped:
            console.print(
                f"{manifest.num_skipped} damaged samples were left out; {config.out / 'skipped.json'} has their keys, "
                f"and `smile-pipe verify {config.shards}` tells what is wrong",
                highlight=False,
                markup=False,
            )
        if not progress.began:
            console.print(f"Nothing to do: {config.out} is finished", highlight=False)
            return manifest
        losses = ", ".join(f"{n.removeprefix('loss_')} {v:.3f}" for n, v in manifest.final_losses.items())
        console.print(
            f"{manifest.num_steps} steps on {manifest.num_train_samples} samples of "
            f"{len(manifest.train_subjects)} subjects in {time.monotonic() - started:.0f} s; losses: {losses}\n"
            f"{config.out / 'checkpoints' / manifest.checkpoint}",
            highlight=False,
        )
        return manifest


def _note(row: dict[str, Any]) -> str:
    return f"epoch {row['epoch'] + 1}, loss {row['loss_total']:.3f}"
