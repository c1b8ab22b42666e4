"""The command `smile-pipe synth`: a labelled set of synthetic faces in the layout of BU-3DFE or BU-4DFE."""

import typer
from rich.console import Console

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.shards.formatting import pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "synth",
        SynthConfig,
        arguments=("out",),
        examples=(
            "smile-pipe synth faces",
            "smile-pipe synth faces4d --kind sequences --subjects 4 --frames 8",
        ),
    )
    def synth(config: SynthConfig, console: Console) -> Result:
        """Generate labelled face scans or sequences of neutral and the six basic expressions, without a download."""
        from smile_pipe.pipeline.synth.stage import run

        with StageProgress("synth") as progress:
            manifest = run(config, progress.update)
        summary = pluralize(manifest.num_scans, "scan")
        if manifest.sequences:
            frames = pluralize(manifest.frames, "frame")
            summary = f"{pluralize(len(manifest.sequences), 'sequence')} of {frames} each,"
        print_line(console, f"{summary} of {pluralize(manifest.num_subjects, 'subject')} in {config.out}")
        return manifest
