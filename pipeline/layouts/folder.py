"""Any tree of meshes with a `labels.csv` at its top: columns `path`, `subject`, `expression`, and what else there is.

`level` (an integer), `texture` and `landmarks` (paths) are understood; every further column is kept as a label.
"""

import csv
import re
from pathlib import PurePosixPath

from pipeline.expressions import expression_code
from pipeline.layouts.layout import Listing, ScanSource
from shards.errors import UsageError

TABLE = "labels.csv"
_REQUIRED = ("path", "subject", "expression")
_KNOWN = {*_REQUIRED, "level", "texture", "landmarks"}


class Folder:
    """Reads the labels table; a mesh that it does not name is not a sample."""

    name = "folder"

    def fits(self, listing: Listing) -> bool:
        """Whether there is a labels table at the top."""
        return TABLE in listing.files

    def samples(self, listing: Listing) -> list[ScanSource]:
        """One sample a row of the table."""
        table = listing.root / TABLE
        try:
            with open(table, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows = [(reader.line_num, row) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{table}: cannot be read as a CSV table ({error})") from None
        if not rows or not set(_REQUIRED) <= rows[0][1].keys():
            raise UsageError(f"{table}: needs rows with the columns {', '.join(_REQUIRED)}")
        return [_source(row, f"{table}, line {line}") for line, row in rows]


def _source(row: dict[str, str], where: str) -> ScanSource:
    if any(not (row[column] or "").strip() for column in _REQUIRED):
        raise UsageError(f"{where}: path, subject and expression must all be given")
    path = _inside(row["path"], where)
    level = (row.get("level") or "").strip()
    if level and not level.isdecimal():
        raise UsageError(f"{where}: level {level!r} is not a whole number")
    return ScanSource(
        key=re.sub(r"[^A-Za-z0-9_-]+", "-", path.removesuffix(PurePosixPath(path).suffix)),
        subject=row["subject"].strip(),
        expression=expression_code(row["expression"]),
        level=int(level) or None if level else None,
        mesh=path,
        texture=_optional(row, "texture", where),
        landmarks=_optional(row, "landmarks", where),
        # All samples have the same labels, so that a short row has empty ones; what stands beyond the last column has
        # no name and is left out.
        labels={name: value or "" for name, value in row.items() if name and name not in _KNOWN},
    )


def _optional(row: dict[str, str], column: str, where: str) -> str | None:
    path = (row.get(column) or "").strip()
    return _inside(path, where) if path else None


def _inside(path: str, where: str) -> str:
    pure = PurePosixPath(path.strip().replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts:
        raise UsageError(f"{where}: {path!r} leads out of the data directory; give paths relative to it")
    return pure.as_posix()
