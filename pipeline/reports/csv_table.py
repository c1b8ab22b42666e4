"""Tables as CSV, for people who open them in a spreadsheet.

Goes in: rows of texts and figures. Comes out: bytes. Promised: figures stay figures, to the last digit; no cell is a
formula to a spreadsheet, whatever files and folders are called that names come from.
"""

import csv
import io
from collections.abc import Iterable, Sequence

# What a spreadsheet takes for the beginning of a formula, also after blanks, which it may drop.
_FORMULA = ("=", "+", "-", "@")


def csv_table(rows: Iterable[Sequence[object]]) -> bytes:
    """The rows as UTF-8, the first of which is the head."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    """A text with an apostrophe before what would be a formula: subjects and expressions come from names of files."""
    if not isinstance(value, str):
        return value
    # The csv module leaves a carriage return without quotes, and then does not read it back.
    text = value.replace("\r", " ")
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
