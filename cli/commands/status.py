"""`smile-pipe status`: the state of shards, runs and evaluations, and the next commands."""

from collections.abc import Iterator

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.next_command import next_command
from smile_pipe.cli.options import Result, command
from smile_pipe.pipeline.runs.status import StatusReport, StatusRow, status
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath

FINGERPRINT_LENGTH = 8


class StatusOptions(Frozen):
    """Options of `smile-pipe status`."""

    directory: StoragePath = Field(
        description="A shard set, a run, or a folder that holds some, at most two levels deep; or its URL."
    )


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "status",
        StatusOptions,
        arguments=("directory",),
        examples=(
            "smile-pipe status out",
            "smile-pipe status . --json",
        ),
    )
    def show_status(config: StatusOptions, console: Console) -> Result:
        """Show what DIRECTORY holds, what was made from what, what is stale, and the next commands."""
        report = status(config.directory)
        if not report.rows:
            print_line(console, f"{config.directory}: holds no shards and no run; `smile-pipe render` makes shards")
            return report
        console.print(_table(report))
        for row in report.rows:
            if row.next:
                print_line(console, f"next: {next_command(row.next)}")
        rows = [row.model_dump(mode="json") | {"next": next_command(row.next)} for row in report.rows]
        return {"root": report.root, "rows": rows}


def _table(report: StatusReport) -> Table:
    table = Table("what", "where, and what it holds", "state", "finished", "fingerprint", box=None)
    for column in table.columns:
        # Paths and names are never cut, however narrow the terminal is.
        column.overflow = "fold"
    for row in report.rows:
        finished = f"{row.finished.astimezone():%Y-%m-%d %H:%M}" if row.finished else "-"
        contents = "\n  ".join((row.path, *_details(row)))
        cells = (row.kind, contents, row.state, finished, row.fingerprint[:FINGERPRINT_LENGTH] or "-")
        table.add_row(*(_printable(cell) for cell in cells))
    return table


def _details(row: StatusRow) -> Iterator[str]:
    shown = ((name, count) for name, count in row.counts.items() if count or name not in ("skipped", "failures"))
    if row.counts:
        yield ", ".join(f"{count} {name}" for name, count in shown)
    if row.made_from:
        yield f"made from {row.made_from}"
    if row.about:
        yield row.about


def _printable(text: str) -> str:
    """Remove characters that a terminal may interpret."""
    return "".join(sign for sign in text if sign.isprintable() or sign == "\n")
