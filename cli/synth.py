"""`smile-pipe synth`: a labelled set of parametric faces, laid out as BU-3DFE."""

import typer
from rich.console import Console

from cli.options import Result, command
from cli.progress import StageProgress
from pipeline.synth import SynthConfig


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "synth", SynthConfig, arguments=("out",))
    def synth(config: SynthConfig, console: Console) -> Result:
        """Make labelled face scans without a download: subjects x (neutral + six expressions at four levels)."""
        from pipeline.synth import run

        with StageProgress(console, "synth") as progress:
            manifest = run(config, progress.update)
        console.print(
            f"{manifest.num_scans} scans of {manifest.num_subjects} subjects in {config.out}", highlight=False
        )
        return manifest
