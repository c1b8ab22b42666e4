"""`smile-pipe synth`: a labelled set of parametric faces, laid out as BU-3DFE or BU-4DFE."""

import typer
from rich.console import Console

from cli.console import say
from cli.options import Result, command
from cli.progress import StageProgress
from pipeline.synth import SynthConfig
from shards.words import counted


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "synth", SynthConfig, arguments=("out",))
    def synth(config: SynthConfig, console: Console) -> Result:
        """Make labelled face scans, or sequences, of neutral and the six basic expressions, without a download."""
        from pipeline.synth import run

        with StageProgress("synth") as progress:
            manifest = run(config, progress.update)
        made = counted(manifest.num_scans, "scan")
        if manifest.sequences:
            made = f"{counted(len(manifest.sequences), 'sequence')} of {counted(manifest.frames, 'frame')} each,"
        say(console, f"{made} of {counted(manifest.num_subjects, 'subject')} in {config.out}")
        return manifest
