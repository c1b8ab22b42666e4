"""`smile-pipe compare`: tables of systems from cross-validations over the same folds."""

from collections import Counter
from collections.abc import Mapping

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.pipeline.runs.compare import ComparedRow, Comparison, compare
from smile_pipe.pipeline.runs.crossval_manifest import MeanStd
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath


class CompareOptions(Frozen):
    """Options of `smile-pipe compare`."""

    directory: StoragePath = Field(
        description="A folder that holds cross-validations, at most two levels deep; or its URL."
    )
    markdown: bool = Field(False, description="Print tables as Markdown.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "compare", CompareOptions, arguments=("directory",))
    def compare_systems(config: CompareOptions, console: Console) -> Result:
        """Compare the cross-validations in DIRECTORY over the same folds, the best first."""
        tables = compare(config.directory)
        for table in tables:
            if config.markdown:
                print_line(console, _markdown(table))
            else:
                console.print(_table(table))
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
    num_runs = Counter((row.system, row.text_source) for row in table.rows)
    body = [
        [
            _name(row, num_runs),
            row.text_source,
            *(_percent(row.accuracy.get(name)) for name in names),
            _percent(row.gap_to_best),
        ]
        for row in table.rows
    ]
    return ["system", "text", *names, f"gap to best, {table.ordered_by}"], body


def _name(row: ComparedRow, num_runs: Mapping[tuple[str, str], int]) -> str:
    """Return the system, with its path if several cross-validations are of the same system."""
    return row.system if num_runs[row.system, row.text_source] == 1 else f"{row.system} ({row.path})"


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
