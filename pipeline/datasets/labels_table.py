"""The labels table of the `folder` layout, `labels.csv` or `labels.parquet`, as rows of text.

Both forms of a table give the same text. Names of columns that have a meaning are recognised in any case.

Memory is bounded by `MAX_BYTES` and `MAX_CELLS`. No code from the data is executed.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Self, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smile_pipe.pipeline.common.content import HEAD_BYTES, UTF_16_MARKS, describe_content
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

NAMES = ("labels.csv", "labels.parquet")
FILE_COLUMNS = frozenset(("path", "glob", "texture", "landmarks"))
KNOWN_COLUMNS = FILE_COLUMNS | {"subject", "expression", "level", "sequence", "frame", "frame_rate", "up", "axes"}
MAX_BYTES = 256 << 20
MAX_CELLS = 1 << 24
"""Limit of rows times columns. An empty cell takes no space in a file, and some tens of bytes in memory."""

_BATCH_ROWS = 1024
_FLOAT_OF_INTEGER = re.compile(r"(-?[0-9]+)\.0+")


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        location: file and line (CSV) or row from 1 (parquet), for messages.
        cells: stripped text by column; "" for an empty cell.
    """

    location: str
    cells: Mapping[str, str]

    @classmethod
    def of(cls, location: str, names: Sequence[str], cells: Iterable[str]) -> Self:
        """Name the cells. Columns without a name, such as the row numbers of pandas, are left out."""
        return cls(location, {name: cell for name, cell in zip_longest(names, cells, fillvalue="") if name})

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def find_tables(index: FileIndex) -> list[str]:
    """Return the labels tables at the top of a data directory."""
    return [name for name in NAMES if name in index.files]


def read_table(path: StoragePath) -> list[TableRow]:
    """Read all rows of a table, each with all columns.

    Raises:
        UsageError: the table cannot be read, takes more than `MAX_BYTES`, or has more than `MAX_CELLS` cells; a row has
            more cells than there are columns, or two columns have the same name.
    """
    path = StoragePath(path)
    try:
        if path.size() > MAX_BYTES:
            raise UsageError(f"{path}: table too large: over {MAX_BYTES >> 20} MB; split the dataset")
        return list(_csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path))
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        if isinstance(error, UsageError):
            raise
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be read as a {path.suffix[1:].upper()} table ({reason})") from None


def open_csv(path: StoragePath) -> TextIO:
    """Open a CSV table as text: UTF-8 with or without a byte order mark, or UTF-16 with one, as spreadsheets write it.

    Raises:
        UsageError: the file is something else, such as a web page.
        OSError: it cannot be read.
    """
    encoding = "utf-16" if _check_content(path).startswith(UTF_16_MARKS) else "utf-8-sig"
    return path.open("r", newline="", encoding=encoding)


def _check_content(path: StoragePath) -> bytes:
    """Return the first bytes of a table.

    Raises:
        UsageError: the file is something else.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if what := describe_content(head):
        raise UsageError(f"{path}: is {what}")
    return head


def _csv_rows(path: StoragePath) -> list[TableRow]:
    rows: list[TableRow] = []
    with open_csv(path) as file:
        reader = csv.reader(file)
        names = _column_names(path, next(reader, []))
        for number, row in enumerate(filter(None, reader), 1):
            _check_cells(path, number * len(names))
            location = f"{path}, line {reader.line_num}"
            cells = [cell.strip() for cell in row]
            if any(cells[len(names) :]):
                raise UsageError(
                    f"{location}: {len(cells)} cells for {len(names)} columns ({', '.join(names)}); quote a cell that "
                    "holds a comma"
                )
            # Spreadsheets write rows that are shorter or, with empty cells, longer than the first.
            rows.append(TableRow.of(location, names, cells))
    return _without_float_integers(rows, names)


def _parquet_rows(path: StoragePath) -> Iterator[TableRow]:
    num_bytes = number = 0
    _check_content(path)
    with path.open("rb") as content, pq.ParquetFile(content) as file:
        names = _column_names(path, file.schema_arrow.names)
        for column in file.schema_arrow:
            # A list of missing values takes no space, so a size check would not limit it.
            if pa.types.is_nested(column.type):
                raise UsageError(
                    f"{path}: unsupported column {column.name}: it holds lists or records; use one value per cell"
                )
        for batch in file.iter_batches(_BATCH_ROWS):
            # A column of one repeated text takes almost no space in the file.
            num_bytes += sum(map(_size, batch.columns))
            if num_bytes > MAX_BYTES:
                raise UsageError(f"{path}: table too large: over {MAX_BYTES >> 20} MB in memory; split the dataset")
            _check_cells(path, (number + batch.num_rows) * batch.num_columns)
            for row in batch.to_pylist():
                number += 1
                yield TableRow.of(f"{path}, row {number}", names, map(_text, row.values()))


def _column_names(path: StoragePath, header: Sequence[str]) -> list[str]:
    """Return the names of columns without blanks around them, and those that have a meaning in lower case."""
    names = [name if (name := given.strip()).lower() not in KNOWN_COLUMNS else name.lower() for given in header]
    (name, count), *_ = Counter(filter(None, names)).most_common(1) or [("", 1)]
    if count > 1:
        raise UsageError(f"{path}: {count} columns are called {name}; rename or remove all but one")
    while names and not names[-1]:
        names.pop()
    return names


def _without_float_integers(rows: Sequence[TableRow], names: Sequence[str]) -> list[TableRow]:
    """Write 3.0 as 3 in columns that hold nothing else: pandas writes integers with gaps in that way."""
    columns = [
        name
        for name in names
        if name not in FILE_COLUMNS and all(not row[name] or _FLOAT_OF_INTEGER.fullmatch(row[name]) for row in rows)
    ]
    if not columns:
        return list(rows)
    integers = ({name: row[name].partition(".")[0] for name in columns} for row in rows)
    return [TableRow(row.location, {**row.cells, **cells}) for row, cells in zip(rows, integers, strict=True)]


def _size(column: pa.Array) -> int:
    """Bytes of the values. Values of a dictionary count at each use."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary.cast(pa.string())
    return pc.sum(pc.binary_length(values).take(column.indices)).as_py() or 0


def _check_cells(path: StoragePath, num_cells: int) -> None:
    if num_cells > MAX_CELLS:
        raise UsageError(f"{path}: too many cells: over {MAX_CELLS:,}; remove columns or split the dataset")


def _text(value: Any) -> str:
    if isinstance(value, float):
        # A column of integers with missing values is stored as floats, with NaN for the missing ones.
        return "" if value != value else str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None else str(value).strip()
