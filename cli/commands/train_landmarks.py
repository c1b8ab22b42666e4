"""The command `smile-pipe train-landmarks`: the weights of the landmark detector."""

import typer
from rich.console import Console

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.landmark_training.config import LandmarkTrainingConfig
from smile_pipe.shards.formatting import pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "train-landmarks",
        LandmarkTrainingConfig,
        examples=(
            "smile-pipe train-landmarks --out detector.npz",
            "smile-pipe train-landmarks --out detector.npz --face-model parametric --face-model ict_facekit.npz",
        ),
    )
    def train_landmarks(config: LandmarkTrainingConfig, console: Console) -> Result:
        """Train the detector of landmarks on random views of face models, and write its weights."""
        from smile_pipe.pipeline.landmark_training.stage import run

        with StageProgress("train-landmarks") as progress:
            manifest = run(config, progress.update)
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in manifest.losses.items())
        print_line(console, f"{pluralize(manifest.num_scenes, 'scene')}, losses {losses}; weights in {config.out}")
        return manifest
