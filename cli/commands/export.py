"""`smile-pipe export`: a run in, the same model in formats that others read out."""

import typer
from rich.console import Console

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.export.config import ExportConfig
from smile_pipe.shards.formatting import pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "export", ExportConfig, arguments=("run",))
    def export(config: ExportConfig, console: Console) -> Result:
        """Write a trained RUN for open_clip, as an ONNX graph, or its embeddings as a table."""
        from smile_pipe.pipeline.export.stage import run

        with StageProgress("export") as progress:
            exported = run(config, progress.update)
        if exported.open_clip:
            print_line(console, f"{exported.open_clip}: README.md in it says how to use it")
        if exported.onnx:
            agreement = f"ONNX Runtime differs from PyTorch by {exported.onnx_difference:.1e} at most"
            print_line(console, f"{exported.onnx}: {agreement}")
        if exported.embeddings:
            skipped = f", without {pluralize(exported.num_skipped, 'damaged sample')}" if exported.num_skipped else ""
            print_line(console, f"{exported.embeddings}: {pluralize(exported.num_embeddings, 'row')}{skipped}")
        for note in exported.notes:
            print_line(console, note)
        return exported
