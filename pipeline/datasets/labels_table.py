"""The table that names the samples of a `folder`: `labels.csv` or `labels.parquet`, as rows of text.

Goes in: the file. Comes out: `TableRow`s, whatever the format. Promised: memory that is bounded by `MAX_BYTES` and
`MAX_CELLS`, and no code from the data.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

NAMES = ("labels.csv", "labels.parquet")
MAX_BYTES = 256 << 20
MAX_CELLS = 1 << 24
"""Rows by columns. A cell in which nothing stands takes no room in a file, and some tens of bytes in memory."""

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        where: the file and the line (of CSV) or row (of parquet, from 1), for messages.
        cells: text without the blanks around it, by column; "" where there is nothing.
    """

    where: str
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def table_names(listing: FileIndex) -> list[str]:
    """The labels tables at the top of a data directory."""
    return [name for name in NAMES if name in listing.files]


def read_table(path: PathLike) -> list[TableRow]:
    """All rows of a table, each with all its columns.

    What stands beyond the last column of a CSV has no name and is left out.

    Raises:
        UsageError: it cannot be read, takes more than `MAX_BYTES`, or has more than `MAX_CELLS`.
    """
    path = StoragePath(path)
    try:
        if path.size() > MAX_BYTES:
            raise UsageError(f"{path}: is over {MAX_BYTES >> 20} MB; split the dataset")
        return list(_csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path))
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        if isinstance(error, UsageError):
            raise
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be read as a {path.suffix[1:].upper()} table ({reason})") from None


def _csv_rows(path: StoragePath) -> Iterator[TableRow]:
    with path.open("r", newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for number, row in enumerate(reader, 1):
            _check_cells(path, number * len(reader.fieldnames or ()))
            cells = {name.strip(): (value or "").strip() for name, value in row.items() if name}
            yield TableRow(f"{path}, line {reader.line_num}", cells)


def _parquet_rows(path: StoragePath) -> Iterator[TableRow]:
    num_bytes = number = 0
    with path.open("rb") as content, pq.ParquetFile(content) as file:
        for column in file.schema_arrow:
            # Of nothing but missing values, a list takes no room either.
            if pa.types.is_nested(column.type):
                raise UsageError(f"{path}: the column {column.name} holds lists or records; give each cell one value")
        for batch in file.iter_batches(_BATCH_ROWS):
            # A column of one repeated text takes next to nothing in the file.
            num_bytes += sum(map(_size, batch.columns))
            if num_bytes > MAX_BYTES:
                raise UsageError(f"{path}: takes over {MAX_BYTES >> 20} MB; split the dataset")
            _check_cells(path, (number + batch.num_rows) * batch.num_columns)
            for row in batch.to_pylist():
                number += 1
                yield TableRow(f"{path}, row {number}", {name.strip(): _text(row[name]) for name in row})


def _size(column: pa.Array) -> int:
    """Bytes of the values, of which those of a dictionary count wherever they stand."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary.cast(pa.string())
    return pc.sum(pc.binary_length(values).take(column.indices)).as_py() or 0


def _check_cells(path: StoragePath, num_cells: int) -> None:
    if num_cells > MAX_CELLS:
        raise UsageError(f"{path}: has over {MAX_CELLS:,} cells; leave out columns or split the dataset")


def _text(value: Any) -> str:
    if isinstance(value, float):
        # A column of whole numbers in which some are missing is stored as floats, and those missing as NaN.
        return "" if value != value else str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None else str(value).strip()
