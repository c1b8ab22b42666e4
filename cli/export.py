"""`smile-pipe export`: a run in, the same model in formats that others read out."""

import typer
from rich.console import Console

from cli.console import say
from cli.options import Result, command
from cli.progress import StageProgress
from pipeline.exporting.config import ExportConfig
from shards.words import counted


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "export", ExportConfig, arguments=("run",))
    def export(config: ExportConfig, console: Console) -> Result:
        """Write a trained RUN for open_clip, as an ONNX graph, or its embeddings as a table."""
        from pipeline.export import run

        with StageProgress("export") as progress:
            exported = run(config, progress.update)
        if exported.open_clip:
            say(console, f"{exported.open_clip}: README.md in it says how to use it")
        if exported.onnx:
            agreement = f"ONNX Runtime differs from PyTorch by {exported.onnx_difference:.1e} at most"
            say(console, f"{exported.onnx}: {agreement}")
        if exported.embeddings:
            skipped = f", without {counted(exported.num_skipped, 'damaged sample')}" if exported.num_skipped else ""
            say(console, f"{exported.embeddings}: {counted(exported.num_embeddings, 'row')}{skipped}")
        for note in exported.notes:
            say(console, note)
        return exported
