"""The labels table of the `folder` layout, `labels.csv` or `labels.parquet`, as rows of text.

Memory is bounded by `MAX_BYTES` and `MAX_CELLS`. No code from the data is executed.
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
from smile_pipe.shards.storage import StoragePath

NAMES = ("labels.csv", "labels.parquet")
MAX_BYTES = 256 << 20
MAX_CELLS = 1 << 24
"""Limit of rows times columns. An empty cell takes no space in a file, and some tens of bytes in memory."""

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        location: file and line (CSV) or row from 1 (parquet), for messages.
        cells: stripped text by column; "" for an empty cell.
    """

    location: str
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def find_tables(index: FileIndex) -> list[str]:
    """Return the labels tables at the top of a data directory."""
    return [name for name in NAMES if name in index.files]


def read_table(path: StoragePath) -> list[TableRow]:
    """Read all rows of a table, each with all columns.

    Cells beyond the last column of a CSV have no name and are ignored.

    Raises:
        UsageError: the table cannot be read, takes more than `MAX_BYTES`, or has more than `MAX_CELLS` cells.
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
                yield TableRow(f"{path}, row {number}", {name.strip(): _text(row[name]) for name in row})


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
