"""`smile-pipe evaluate`: score a trained run and write a report."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import typer
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, Interval, single_view
from smile_pipe.pipeline.runs.question_scores import VIEW_SEPARATOR, QuestionPart
from smile_pipe.shards.formatting import describe_samples, pluralize


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "evaluate",
        EvaluateConfig,
        arguments=("run",),
        examples=(
            "smile-pipe evaluate run --shards shards",
            "smile-pipe evaluate run --shards shards --protocol zero-shot,analogy,missing-views",
        ),
    )
    def evaluate(config: EvaluateConfig, console: Console) -> Result:
        """Score a trained RUN on unseen subjects, and write a report into RUN/evaluation."""
        from smile_pipe.pipeline.evaluate.stage import run

        with StageProgress("evaluate") as progress:
            manifest = run(config, progress.update)
        if manifest.protocols:
            console.print(_table(manifest))
        if manifest.questions:
            console.print(_question_table(manifest))
        if manifest.rig_differences:
            print_line(console, f"the run was trained on another rig: {'; '.join(manifest.rig_differences)}")
        for note in manifest.notes:
            print_line(console, note)
        print_line(console, str(config.run / "evaluation" / "report.html"))
        return manifest


def _table(manifest: EvaluationManifest) -> Table:
    samples = describe_samples(manifest.num_scans, manifest.num_sequences)
    subjects = f"{samples} of {pluralize(manifest.num_subjects, 'subject')}"
    title = f"percent, {subjects}, split {manifest.split}, text: {manifest.text_source}"
    title += f", {view}" if (view := single_view(manifest.views)) else ""
    has_intervals = any(score.accuracy_interval for score in manifest.protocols.values())
    table = Table(title=title, caption="below each score: 95 % interval over subjects" if has_intervals else None)
    for column in ("protocol", "accuracy", "F1", *manifest.classes):
        table.add_column(column, justify="left" if column == "protocol" else "right", no_wrap=True)
    for name, score in manifest.protocols.items():
        recalls = [score.per_class.get(expression) for expression in manifest.classes]
        cells = ["-" if recall is None else f"{100 * recall:.0f}" for recall in recalls]
        accuracy, macro_f1 = (score.accuracy, score.accuracy_interval), (score.macro_f1, score.macro_f1_interval)
        table.add_row(name, _score_cell(*accuracy), _score_cell(*macro_f1), *cells)
    return table


def _question_table(manifest: EvaluationManifest) -> Table:
    """The main answers; all of them are in the report."""
    table = Table(title="answers to questions, percent")
    for column in ("question", "of", "answers", "correct", "chance"):
        table.add_column(column, justify="right" if column in ("answers", "correct", "chance") else "left")
    for question, score in manifest.questions.items():
        for name, part in _main_parts(question, score.parts):
            cells = (_score_cell(part.accuracy, part.interval), f"{100 * part.chance:.1f}")
            table.add_row(question, f"{part.group}: {name}", str(part.num_questions), *cells)
    return table


def _main_parts(question: str, parts: Sequence[QuestionPart]) -> Iterator[tuple[str, QuestionPart]]:
    """Yield parts with their names: of missing views, each single view, the best subset of each size and all views."""
    if question != "missing-views":
        yield from ((part.name, part) for part in parts if ": " not in part.name)
        return
    by_size: dict[tuple[str, int], list[QuestionPart]] = defaultdict(list)
    for part in parts:
        by_size[part.group, part.name.count(VIEW_SEPARATOR)].append(part)
    for part in parts:
        subsets = by_size[part.group, part.name.count(VIEW_SEPARATOR)]
        if VIEW_SEPARATOR not in part.name or len(subsets) == 1:
            yield part.name, part
        elif part is max(subsets, key=lambda subset: subset.accuracy):
            yield f"{part.name} (best of {len(subsets)})", part


def _score_cell(share: float, interval: Interval | None) -> str:
    """Return a score in percent; its interval is on a second line, since one line would be too wide."""
    ends = f"\n{100 * interval[0]:.1f}-{100 * interval[1]:.1f}" if interval else ""
    return f"{100 * share:.1f}{ends}"
