"""The console that commands print on. It prints file names and labels unchanged.

Brackets are not markup and `:name:` is not an emoji, in lines and in tables. If the output is not a terminal, no line
is folded or cut, so a path in a pipe is complete.
"""

import os

from rich.console import Console
from rich.text import Text

# Wider than any table; a table is as wide as its contents.
_UNLIMITED_WIDTH = 100_000


def plain_console(stderr: bool = False) -> Console:
    """Create a console on stdout or stderr."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    # A pipe has no width, unless the user set one.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED_WIDTH
    return console


def print_line(console: Console, text: str) -> None:
    """Print lines without breaking long ones; the terminal wraps them, and copies them as one line."""
    console.print(text, soft_wrap=True)


def print_error(kind: str, text: str) -> None:
    """Print one line on stderr, such as "error: --out is required"."""
    plain_console(stderr=True).print(Text.assemble((f"{kind}:", "bold red"), " ", text), soft_wrap=True)
