"""Progress bars of one look: what is done, of how much, how fast, how long to go, and a note."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from cli.stopping import stop_if_asked


class StageProgress:
    """A bar for one stage, used as a context; on a stream that is no terminal it prints a line now and then."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            # It takes the place that is left, and gives way where there is little.
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=None, note="")
        self.printed = -1
        self.began, self.first, self.started = False, 0, 0.0

    def __enter__(self) -> "StageProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`; without a terminal, a line for each tenth.

        Raises:
            KeyboardInterrupt: the command was asked to stop.
        """
        stop_if_asked()
        if not self.began:
            # What an earlier run did is not counted into the rate of this one.
            self.began, self.first, self.started = True, done, time.monotonic()
        rate = (done - self.first) / max(time.monotonic() - self.started, 1e-9)
        note = f"{rate:.1f}/s  {note}" if done > self.first else note
        self.bar.update(self.task, completed=done, total=total, note=note)
        tenth = 10 * done // max(total, 1)
        if not self.console.is_terminal and tenth > self.printed:
            self.printed = tenth
            self.console.print(f"{self.title}: {done} of {total}  {note}".rstrip(), highlight=False)
