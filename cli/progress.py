"""Progress bars of one look: what is done, of how much, how fast, how long to go, and a note.

They go to stderr, so that what a command prints can be piped.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from smile_pipe.cli.console import plain_console, print_line
from smile_pipe.cli.signals import stop_if_asked

# What is done sooner needs no lines about it.
QUIET_SECONDS = 2.0


class StageProgress:
    """A bar for one stage, used as a context; where stderr is no terminal, a line now and then on long work."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.console, self.title = console or plain_console(stderr=True), title
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            # It takes the place that is left, and gives way where there is little.
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            expand=True,
            disable=not self.console.is_terminal,
            # What is printed meanwhile is a result, and not the bar's to take.
            redirect_stdout=False,
        )
        self.task = self.bar.add_task(title, total=None, note="")
        self.printed = -1
        self.began, self.first, self.started = False, 0, 0.0

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`; without a terminal, a line for each tenth once it takes long.

        Raises:
            KeyboardInterrupt: the command was asked to stop.
        """
        stop_if_asked()
        if not self.began:
            # What an earlier run did is not counted into the rate of this one.
            self.began, self.first, self.started = True, done, time.monotonic()
            self.bar.start()
        rate = (done - self.first) / max(time.monotonic() - self.started, 1e-9)
        note = f"{rate:.1f}/s  {note}" if done > self.first else note
        self.bar.update(self.task, completed=done, total=total, note=note)
        tenth = 10 * done // max(total, 1)
        is_long = time.monotonic() - self.started > QUIET_SECONDS
        if not self.console.is_terminal and is_long and tenth > self.printed:
            self.printed = tenth
            print_line(self.console, f"{self.title}: {done} of {total}  {note}".rstrip())
