"""Write CSV tables that are safe to open in a spreadsheet: no text from file names becomes a formula."""

import csv
import io
from collections.abc import Iterable, Sequence

# First characters of a formula; a spreadsheet may drop spaces before them.
_FORMULA = ("=", "+", "-", "@")


def csv_table(rows: Iterable[Sequence[object]]) -> bytes:
    """Return a table as UTF-8.

    Args:
        rows: cells, the head first; numbers are written with all digits.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    """Put an apostrophe before a text that looks like a formula."""
    if not isinstance(value, str):
        return value
    # The csv module does not quote a carriage return, and cannot read it back.
    text = value.replace("\r", " ")
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
