"""`smile-pipe compare`: tables of systems from cross-validations over the same folds."""

from collections import Counter
from collections.abc import Mapping

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.pipeline.runs.compare import ComparedRow, Comparison, Difference, compare
from smile_pipe.pipeline.runs.crossval_manifest import MeanStd
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, Protocol, single_view
from smile_pipe.pipeline.runs.question_scores import HEADLINES
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath


class CompareOptions(Frozen):
    """Options of `smile-pipe compare`."""

    directory: StoragePath = Field(
        description="A folder that holds cross-validations, at most two levels deep; or its URL."
    )
    reference: str | None = Field(
        None,
        description="Cross-validation, by its folder in DIRECTORY, that the others are compared with: differences, "
        "their 95 % intervals over subjects, and p-values. Choose it before you see the scores.",
    )
    protocol: Protocol | None = Field(
        None,
        description="Evaluation protocol that orders the rows and whose differences are printed. "
        "[default: probe, or the first that all have]",
    )
    markdown: bool = Field(False, description="Print tables as Markdown.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "compare",
        CompareOptions,
        arguments=("directory",),
        examples=(
            "smile-pipe compare tables",
            "smile-pipe compare tables --reference clip --protocol zero-shot --markdown",
        ),
    )
    def compare_systems(config: CompareOptions, console: Console) -> Result:
        """Compare the cross-validations in DIRECTORY over the same folds; those of several seeds are one row."""
        tables = compare(config.directory, config.reference, config.protocol)
        for table in tables:
            if config.markdown:
                print_line(console, _markdown(table))
            else:
                console.print(_table(table))
            for note in _notes(table):
                print_line(console, note)
        return {"comparisons": [table.model_dump(mode="json") for table in tables]}


def _title(table: Comparison) -> str:
    subset = f", subset {table.subset}" if table.subset else ""
    return (
        f"accuracy in percent, mean and deviation of {pluralize(table.num_folds, 'fold')} ({table.protocol}{subset}), "
        f"{pluralize(table.num_samples, 'sample')} of {pluralize(table.num_subjects, 'subject')}"
    )


def _cells(table: Comparison) -> tuple[list[str], list[list[str]]]:
    known = {name for row in table.rows for name in row.accuracy}
    names = [name for name in PROTOCOL_TITLES if name in known]
    questions = [title for title in HEADLINES if any(title in row.questions for row in table.rows)]
    num_runs = Counter((row.system, row.text_source) for row in table.rows)
    body = [
        [
            _name(row, num_runs),
            row.text_source,
            *([str(len(row.seeds))] if _has_seeds(table) else []),
            *(_percent(row.accuracy.get(name)) for name in names),
            *(_percent(row.questions.get(title)) for title in questions),
            *(_difference_cells(row.differences.get(table.ordered_by)) if table.reference else []),
        ]
        for row in table.rows
    ]
    seeds = ["seeds"] if _has_seeds(table) else []
    compared = f"difference to {table.reference}, {table.ordered_by}"
    differences = [compared, "p, subjects", "p, folds"] if table.reference else []
    return ["system", "text", *seeds, *names, *questions, *differences], body


def _notes(table: Comparison) -> list[str]:
    """Describe what the differences are, and what they do not include."""
    if table.reference is None:
        return ["For differences with intervals, choose the row to compare with: --reference FOLDER"]
    seeds = "subjects and seeds" if _has_seeds(table) else "subjects"
    notes = [
        f"Difference: accuracy minus that of {table.reference} on the same samples, with its 95 % interval by a "
        f'bootstrap over {seeds}; "p, subjects" is of the same bootstrap, "p, folds" of a t-test corrected for the '
        "training samples that folds share. No p-value is corrected for the number of rows."
    ]
    if any(len(row.seeds) == 1 for row in table.rows):
        notes.append("With one seed, an interval does not include the variation between trainings.")
    return notes


def _has_seeds(table: Comparison) -> bool:
    return any(len(row.seeds) > 1 for row in table.rows)


def _name(row: ComparedRow, num_runs: Mapping[tuple[str, str], int]) -> str:
    """Return the system, with its path if several rows are of the same system."""
    system = ", ".join(filter(None, (row.system, single_view(row.views))))
    return system if num_runs[row.system, row.text_source] == 1 else f"{system} ({', '.join(row.paths)})"


def _difference_cells(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["-", "-", "-"]
    low, high = difference.interval
    interval = f"{100 * difference.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [interval, _p_value(difference.p_subjects), _p_value(difference.p_folds)]


def _p_value(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _percent(score: MeanStd | None) -> str:
    return "-" if score is None else score.in_percent


def _table(table: Comparison) -> Table:
    head, body = _cells(table)
    printed = Table(title=_title(table))
    for number, name in enumerate(head):
        printed.add_column(name, justify="left" if number < 2 else "right", no_wrap=number > 1)
    for cells in body:
        printed.add_row(*cells)
    return printed


def _markdown(table: Comparison) -> str:
    head, body = _cells(table)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join([f"{_title(table)}:", "", *(f"| {' | '.join(cells)} |" for cells in lines), ""])
