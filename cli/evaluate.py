"""`smile-pipe evaluate`: a run in, scores and a report out."""

import typer
from rich.console import Console
from rich.table import Table

from cli.options import Result, command
from cli.progress import StageProgress
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.manifest import EvaluationManifest


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "evaluate", EvaluateConfig, arguments=("run",))
    def evaluate(config: EvaluateConfig, console: Console) -> Result:
        """Score a trained RUN on subjects that it has not seen, and write a report into RUN/evaluation."""
        from pipeline.evaluate import run

        with StageProgress(console, "evaluate") as progress:
            manifest = run(config, progress.update)
        console.print(_table(manifest))
        for note in manifest.notes:
            console.print(note, highlight=False)
        console.print(f"{config.run / 'evaluation' / 'report.html'}", highlight=False)
        return manifest


def _table(manifest: EvaluationManifest) -> Table:
    kinds = ((manifest.num_scans, "scans"), (manifest.num_sequences, "sequences"))
    samples = " and ".join(f"{number} {kind}" for number, kind in kinds if number)
    subjects = f"{samples} of {manifest.num_subjects} subjects"
    table = Table(title=f"percent, {subjects}, split {manifest.split}, text: {manifest.text_source}")
    for column in ("protocol", "accuracy", "F1", *manifest.classes):
        table.add_column(column, justify="left" if column == "protocol" else "right", no_wrap=True)
    for name, score in manifest.protocols.items():
        recalls = [score.per_class.get(expression) for expression in manifest.classes]
        cells = ["-" if recall is None else f"{100 * recall:.0f}" for recall in recalls]
        table.add_row(name, f"{100 * score.accuracy:.1f}", f"{100 * score.macro_f1:.1f}", *cells)
    return table
