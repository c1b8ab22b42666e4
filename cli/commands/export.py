"""`smile-pipe export`: write a trained model for other tools: open_clip, ONNX, a table of embeddings."""

import typer
from rich.console import Console

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.export.config import ExportConfig
from smile_pipe.shards.formatting import pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "export",
        ExportConfig,
        arguments=("run",),
        examples=(
            "smile-pipe export run --open-clip clip",
            "smile-pipe export run --embeddings table.parquet --shards shards",
        ),
    )
    def export(config: ExportConfig, console: Console) -> Result:
        """Export a trained RUN for open_clip or as an ONNX graph, or embeddings of shards as a table."""
        from smile_pipe.pipeline.export.stage import run

        with StageProgress("export") as progress:
            result = run(config, progress.update)
        if result.open_clip:
            print_line(console, f"{result.open_clip}: see README.md in it for how to use it")
        if result.onnx:
            difference = f"maximum difference of ONNX Runtime from PyTorch: {result.onnx_difference:.1e}"
            print_line(console, f"{result.onnx}: {difference}")
        if result.embeddings:
            skipped = f", without {pluralize(result.num_skipped, 'damaged sample')}" if result.num_skipped else ""
            print_line(console, f"{result.embeddings}: {pluralize(result.num_embeddings, 'row')}{skipped}")
        for note in result.notes:
            print_line(console, note)
        return result
