"""The console that commands print on: a name from someone's data or disk comes out as it is.

Promised: no bracket is taken for markup and no `:name:` for an emoji, in lines as in tables; and where the console is
no terminal, nothing is folded or cut off, so that each path in a pipe is whole.
"""

import os

from rich.console import Console
from rich.text import Text

# More than any table needs; none is wider than what it holds.
_NO_LIMIT = 100_000


def plain_console(stderr: bool = False) -> Console:
    """A console on stdout or stderr."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    # Of what is no terminal the width is unknown, unless whoever reads the pipe has said it.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _NO_LIMIT
    return console


def print_line(console: Console, text: str) -> None:
    """Print lines; ones that are too long for a terminal are left to it, which knows that they are one."""
    console.print(text, soft_wrap=True)


def print_error(kind: str, text: str) -> None:
    """Print one line about what went wrong on stderr, such as "error: --out is required"."""
    plain_console(stderr=True).print(Text.assemble((f"{kind}:", "bold red"), " ", text), soft_wrap=True)
