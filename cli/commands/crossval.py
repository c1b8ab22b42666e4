"""`smile-pipe crossval`: train and score every fold of a split protocol."""

import typer
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.pipeline.runs.evaluation_manifest import single_view
from smile_pipe.pipeline.runs.question_scores import VIEW_SEPARATOR
from smile_pipe.shards.formatting import pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "crossval",
        CrossvalConfig,
        resume_hint="the same command",
        examples=(
            "smile-pipe crossval --shards shards --out folds --split-protocol bu3dfe",
            "smile-pipe crossval --train-on BU-4DFE-shards --test-on BP4D-shards --out across",
        ),
    )
    def crossval(config: CrossvalConfig, console: Console) -> Result:
        """Train and score each fold, and report mean and deviation; run again to continue after a stop."""
        from smile_pipe.pipeline.crossval.stage import run

        with StageProgress("crossval") as progress:
            manifest = run(config, progress.update)
        if not progress.began:
            print_line(console, f"Nothing to do: {config.out} is finished")
        console.print(_table(manifest))
        if manifest.questions:
            console.print(_question_table(manifest))
        print_line(console, str(config.out / "report.html"))
        return manifest


def _table(manifest: CrossvalManifest) -> Table:
    num_subjects = sum(len(fold.subjects) for fold in manifest.folds)
    num_samples = sum(fold.num_samples for fold in manifest.folds)
    is_mean = len(manifest.folds) > 1
    folds = f"accuracy: mean and deviation of {len(manifest.folds)} folds, " if is_mean else ""
    title = f"percent, {folds}{pluralize(num_samples, 'sample')} of {pluralize(num_subjects, 'subject')}"
    title += f", {view}" if (view := single_view(manifest.views)) else ""
    caption = "F1: macro-F1 of the samples of all folds together" if is_mean else None
    table = Table(title=f"{title}, text: {manifest.text_source}", caption=caption)
    for column in ("protocol", "accuracy", "F1", *manifest.classes):
        table.add_column(column, justify="left" if column == "protocol" else "right", no_wrap=True)
    for name in manifest.ordered_protocols:
        score = manifest.scores[name]
        recalls = [score.per_class.get(expression) for expression in manifest.classes]
        cells = ["-" if recall is None else f"{100 * recall:.0f}" for recall in recalls]
        table.add_row(name, score.accuracy.in_percent, f"{100 * score.pooled.macro_f1:.1f}", *cells)
    return table


def _question_table(manifest: CrossvalManifest) -> Table:
    """The main answers; all of them are in the report."""
    table = Table(title="answers to questions, percent")
    for column in ("question", "of", "correct", "chance"):
        table.add_column(column, justify="right" if column in ("correct", "chance") else "left")
    for question, parts in manifest.questions.items():
        for part in parts:
            if ": " not in part.name and VIEW_SEPARATOR not in part.name:
                cells = (f"{part.group}: {part.name}", part.accuracy.in_percent, f"{100 * part.chance:.1f}")
                table.add_row(question, *cells)
    return table
