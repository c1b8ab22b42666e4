"""The progress bar of a stage: what it waits for; then number done, total, rate, a note, elapsed and remaining time.

It is drawn on stderr, so the output of a command can be piped.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from smile_pipe.cli.console import plain_console, print_line
from smile_pipe.cli.signals import raise_if_stopped

# Without a terminal, lines are printed only for work that takes longer.
QUIET_SECONDS = 2.0


class StageProgress:
    """Progress bar of one stage, used as a context manager.

    If stderr is not a terminal, it prints a line for each tenth of long work.

    Attributes:
        began: whether the stage has reported any progress.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.console, self.title = console or plain_console(stderr=True), title
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            # The note takes the remaining width, and is shortened first.
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            expand=True,
            disable=not self.console.is_terminal,
            # Stdout carries results only.
            redirect_stdout=False,
        )
        self.task = self.bar.add_task(title, total=None, note="")
        self.waiting = self.console.status("")
        self.printed_tenth = -1
        self.began, self.first_done, self.started = False, 0, 0.0

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.stop()
        self.bar.stop()

    def wait_for(self, what: str, is_short: bool = False) -> None:
        """Show what the stage waits for, until `update` or `clear`.

        Args:
            what: what it waits for.
            is_short: it is mostly too short to print a line if stderr is not a terminal.

        Raises:
            KeyboardInterrupt: a signal has stopped the command.
        """
        raise_if_stopped()
        if self.console.is_terminal:
            self.waiting.update(f"{self.title}: {what}")
            self.waiting.start()
        elif not is_short:
            print_line(self.console, f"{self.title}: {what}")

    def clear(self) -> None:
        """Remove what `wait_for` shows, so that lines can be printed on stdout."""
        self.waiting.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` are done.

        Raises:
            KeyboardInterrupt: a signal has stopped the command.
        """
        raise_if_stopped()
        if not self.began:
            # Work of an earlier run does not count for the rate.
            self.began, self.first_done, self.started = True, done, time.monotonic()
            self.clear()
            self.bar.start()
        rate = (done - self.first_done) / max(time.monotonic() - self.started, 1e-9)
        note = f"{rate:.1f}/s  {note}" if done > self.first_done else note
        self.bar.update(self.task, completed=done, total=total, note=note)
        tenth = 10 * done // max(total, 1)
        is_long = time.monotonic() - self.started > QUIET_SECONDS
        if not self.console.is_terminal and is_long and tenth > self.printed_tenth:
            self.printed_tenth = tenth
            print_line(self.console, f"{self.title}: {done} of {total}  {note}".rstrip())
