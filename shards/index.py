"""The tables of a shard set: `index.parquet` (one row per sample) and `failures.parquet` (one row per failed sample).

With the index, stages know the labels and the location of each sample without opening a shard. The render stage reads
it as a list of `IndexRow`, in the order of shards and offsets, or as `IndexRows`, which take a fifth of the memory. All
other stages read it as a `SampleTable`.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import groupby, islice, pairwise
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import SHARD_NAME, Frozen, ShardName
from smile_pipe.shards.storage import PathLike, StoragePath

SOURCE = pa.struct(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("blake3", pa.string()),
        ("named", pa.bool_()),
    ]
)
_SOURCE_NAMES = [field.name for field in SOURCE]
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("subject", pa.string()),
        ("expression", pa.string()),
        ("level", pa.int32()),
        ("num_frames", pa.int32()),
        ("frame_rate", pa.float64()),
        ("layout", pa.string()),
        ("labels", pa.map_(pa.string(), pa.string())),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("digest", pa.string()),
        ("images", pa.string()),
        ("fingerprint", pa.string()),
        ("framed_by", pa.string()),
        ("surface", pa.string()),
        ("sources", pa.list_(SOURCE)),
    ]
)
# These have few distinct values. As codes they take four bytes, and selections compare numbers instead of texts.
CODED = ("subject", "expression", "layout", "shard", "framed_by", "surface")
_ROWS_PER_GROUP = 1 << 15


# The next classes are never modified, but not frozen: creating a frozen one takes four times as long, and the index
# of a large dataset has hundreds of thousands of rows.
@dataclass(slots=True)
class SourceFile:
    """A source file of a sample, in its state at the time of reading.

    Attributes:
        path: Relative to the data directory.
        size: In bytes; -1 for a missing file.
        mtime_ns: Modification time in nanoseconds; -1 for a missing file.
        blake3: Digest of the content; "" if the file could not be read.
        named: True if another file of the sample refers to it, as a mesh to a texture; the dataset adapter lists all
            other files.
    """

    path: str
    size: int
    mtime_ns: int
    blake3: str
    named: bool = False


@dataclass(slots=True)
class SampleRow:
    """One sample of a shard set, as readers see it.

    Attributes:
        num_frames: Number of rendered frames of a sequence; 1 for a scan.
        frame_rate: Recorded frames per second of a sequence; 0 for a scan.
        offset: First byte of the sample in its shard.
        bytes: Length of the sample in its shard.
        digest: Of these bytes (BLAKE3, 128 bits, hex).
        fingerprint: Of all inputs of the sample, as in its record.
        framed_by: Alignment method, as in the record.
        surface: Source of the colours: texture, vertex-colors or plain.
    """

    key: str
    subject: str
    expression: str
    level: int | None
    num_frames: int
    frame_rate: float
    layout: str
    labels: Mapping[str, str]
    shard: ShardName
    offset: int
    bytes: int
    digest: str
    fingerprint: str
    framed_by: str
    surface: str


@dataclass(slots=True)
class IndexRow(SampleRow):
    """One sample as the render stage sees it; the columns of `index.parquet`.

    Attributes:
        images: Fingerprint of the images alone; images are reused where only labels or prompt change.
        sources: Source files of the sample.
    """

    images: str
    sources: tuple[SourceFile, ...]


class IndexRows(Sequence[IndexRow]):
    """Rows of an index as Arrow columns; each access creates objects."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[IndexRow]:
        return iter(_to_rows(self._table))

    @overload
    def __getitem__(self, at: int) -> IndexRow: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[IndexRow]: ...
    def __getitem__(self, at: int | slice) -> IndexRow | Sequence[IndexRow]:
        return _to_rows(self._table)[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(operator.eq, self, other))


def write_index(path: PathLike, rows: Iterable[IndexRow]) -> None:
    """Write the index atomically; equal rows give equal bytes."""
    # Sorted: labels that passed through JSON may be in another order.
    write_table(path, (_as_dict(row) | {"labels": sorted(row.labels.items())} for row in rows), INDEX_SCHEMA)


def _as_dict(row: IndexRow) -> dict[str, Any]:
    # Not `asdict`, which takes ten times as long.
    values = {name: getattr(row, name) for name in INDEX_SCHEMA.names}
    return values | {"sources": [{name: getattr(file, name) for name in _SOURCE_NAMES} for file in row.sources]}


def read_index(source: PathLike | pa.NativeFile, origin: str = "") -> list[IndexRow]:
    """Read `index.parquet`.

    Raises:
        UsageError: See `read_columns`.
    """
    return _to_rows(read_columns(source, INDEX_SCHEMA, origin or str(source)))


def read_index_by_shard(path: PathLike) -> dict[str, IndexRows]:
    """Read `index.parquet` as the rows of each shard; see `read_columns` for the errors."""
    table, parts, start = read_columns(path, INDEX_SCHEMA, str(path)), dict[str, list[pa.Table]](), 0
    for name, group in groupby(table["shard"].to_pylist()):
        count = sum(1 for _ in group)
        parts.setdefault(name, []).append(table.slice(start, count))
        start += count
    return {name: IndexRows(pa.concat_tables(tables)) for name, tables in parts.items()}


def _to_rows(table: pa.Table) -> list[IndexRow]:
    # Column by column: row by row, Arrow would create a dict for each row and for each source file, which would take
    # longer than all other work of a render with nothing to do.
    columns = {name: table[name].to_pylist() for name in INDEX_SCHEMA.names if name not in ("labels", "sources")}
    columns["labels"] = _nested(table["labels"], zip, dict)
    columns["sources"] = _nested(table["sources"], partial(map, SourceFile), tuple)
    return list(map(IndexRow, *(columns[field.name] for field in fields(IndexRow))))


def write_table(path: PathLike, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as parquet, atomically; at most `_ROWS_PER_GROUP` of them are in memory."""
    remaining = iter(rows)
    with (
        StoragePath(path).replacing() as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        # A table without rows has an empty group, as `pq.write_table` would write it.
        group = list(islice(remaining, _ROWS_PER_GROUP))
        while True:
            writer.write_table(pa.Table.from_pylist(group, schema))
            if not (group := list(islice(remaining, _ROWS_PER_GROUP))):
                break


def read_table(source: PathLike | pa.NativeFile, schema: pa.Schema, origin: str) -> list[dict[str, Any]]:
    """Read the rows of a table; see `read_columns` for the errors."""
    return read_columns(source, schema, origin).to_pylist()


def read_columns(
    source: PathLike | pa.NativeFile, schema: pa.Schema, origin: str, only: Sequence[str] = (), coded: bool = False
) -> pa.Table:
    """Read a table as Arrow columns.

    Args:
        source: The parquet file by its path, or open.
        schema: The expected columns.
        origin: Name of the table in error messages.
        only: Names of the columns that are read; all without any.
        coded: Whether columns of `CODED` are dictionary arrays.

    Raises:
        UsageError: The table is missing, damaged, has other columns, or has an invalid shard name.
    """
    try:
        # Not `pq.read_table`: an Arrow thread may release the bytes, which belong to Python, while the interpreter
        # shuts down, and that aborts the process.
        content = source if isinstance(source, pa.NativeFile) else pa.BufferReader(StoragePath(source).read_bytes())
        with pq.ParquetFile(content, read_dictionary=CODED if coded else None) as file:
            names = file.schema_arrow.names
            # With `schema=`, Arrow would fill missing columns with nulls.
            if names != schema.names:
                differing = sorted(set(names) ^ set(schema.names)) or ["order of columns"]
                raise UsageError(
                    f"{origin}: the columns differ from those of this release: {', '.join(differing)}; render again"
                )
            table = file.read(list(only) or None, use_threads=False)
        expected = map(schema.field, table.column_names)
        table = table.cast(pa.schema(map(as_coded, expected) if coded else expected))
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{origin}: not a readable table: {str(error).splitlines()[0]}; render again") from None
    for name in table["shard"].unique().to_pylist():
        if name is None or not SHARD_NAME.fullmatch(name):
            raise UsageError(f"{origin}: invalid shard name {name!r:.80}; render again")
    return table


def as_coded(field: pa.Field) -> pa.Field:
    """The column with codes for its values, if it is one of `CODED`."""
    return field.with_type(pa.dictionary(pa.int32(), field.type)) if field.name in CODED else field


def _nested(column: pa.ChunkedArray, entries: Callable[..., Iterable[Any]], collect: Callable[[Any], Any]) -> list[Any]:
    """Convert a column of lists or maps to Python values.

    Args:
        column: The Arrow column.
        entries: Creates the entries of all rows from their parts, each part as one list.
        collect: Creates the value of a row from its entries.
    """
    built: list[Any] = []
    for chunk in column.chunks:
        is_map = pa.types.is_map(chunk.type)
        parts = [chunk.keys, chunk.items] if is_map else chunk.values.flatten()
        ends = chunk.offsets.to_pylist()
        # Of a slice of a column, Arrow gives the entries of the whole column.
        first, count = ends[0], ends[-1] - ends[0]
        # All entries at once, then sliced: creating them row by row takes three times as long.
        flat = list(entries(*(part.slice(first, count).to_pylist() for part in parts)))
        built += [collect(flat[start - first : end - first]) for start, end in pairwise(ends)]
    return built


FAILURES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "source", "stage", "reason", "shard", "fingerprint")]
    + [("sources", pa.list_(SOURCE))]
)


class FailureRow(Frozen):
    """One failed sample; the columns of `failures.parquet`.

    Attributes:
        stage: `read`, `render`, `encode` or `text`.
        reason: The error message.
        shard: The shard that would have contained the sample.
        fingerprint: As in `IndexRow`; with `sources` it shows whether a file has been repaired since.
    """

    key: str
    source: str
    stage: str
    reason: str
    shard: ShardName
    fingerprint: str
    sources: tuple[SourceFile, ...]


def write_failures(path: PathLike, failures: Sequence[FailureRow]) -> None:
    """Write the table of failures atomically; equal rows give equal bytes."""
    write_table(path, [failure.model_dump() for failure in failures], FAILURES_SCHEMA)


def read_failures(path: PathLike) -> list[FailureRow]:
    """Read the table of failures; see `read_columns` for the errors."""
    return [FailureRow.model_validate(row) for row in read_table(path, FAILURES_SCHEMA, str(path))]
