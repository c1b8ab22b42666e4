"""The index: one row a sample, so that stages know what lies where without opening a shard.

On disk it is `index.parquet`; in memory, a list of `IndexRow` in the order of shards and offsets.

The table of failures: one row a sample that could not be rendered, `failures.parquet`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

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


# These two are not frozen, though nobody changes one: a frozen one takes four times as long to make, and the index of a
# large dataset holds hundreds of thousands.
@dataclass(slots=True)
class SourceFile:
    """One file that a sample was made from, as it was when it was read.

    Attributes:
        path: relative to the data directory.
        size, mtime_ns: of the file, -1 where there was none.
        blake3: digest of its content, "" where it could not be read.
        named: whether a file of the sample names it, as meshes do textures; the layout knows of all others.
    """

    path: str
    size: int
    mtime_ns: int
    blake3: str
    named: bool = False


@dataclass(slots=True)
class IndexRow:
    """One sample of a shard set; the columns of `index.parquet`.

    Attributes:
        num_frames: how many frames of a sequence its images show; 1 for a scan.
        frame_rate: frames a second of a sequence as it was recorded; 0 for a scan.
        digest: of the sample's bytes in its shard (BLAKE3, 128 bits, hex).
        images: mark of the images alone, which are kept where only the labels or the prompt change.
        fingerprint: of all that the sample was made from; as in its record.
        surface: where the colours come from: texture, vertex-colors or plain.
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
    images: str
    fingerprint: str
    framed_by: str
    surface: str
    sources: tuple[SourceFile, ...]


def write_index(path: PathLike, rows: Iterable[IndexRow]) -> None:
    """Write the index by way of a temporary name; equal rows give equal bytes."""
    # Labels that passed through JSON come in another order, and are equal all the same.
    write_table(path, [asdict(row) | {"labels": sorted(row.labels.items())} for row in rows], INDEX_SCHEMA)


def read_index(source: PathLike | pa.BufferReader, origin: str = "") -> list[IndexRow]:
    """Read `index.parquet`.

    Raises:
        UsageError: see `read_columns`.
    """
    table = read_columns(source, INDEX_SCHEMA, origin or str(source))
    # Column by column: row by row, Arrow would make a dict of each row and of each file in it, which takes longer than
    # everything else that a render with nothing to do does.
    columns = {name: table[name].to_pylist() for name in INDEX_SCHEMA.names if name not in ("labels", "sources")}
    columns["labels"] = _nested(table["labels"], zip, dict)
    columns["sources"] = _nested(table["sources"], partial(map, SourceFile), tuple)
    return list(map(IndexRow, *(columns[field.name] for field in fields(IndexRow))))


def write_table(path: PathLike, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as parquet by way of a temporary name."""
    with StoragePath(path).replacing() as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), temporary, compression="zstd")


def read_table(source: PathLike | pa.BufferReader, schema: pa.Schema, origin: str) -> list[dict[str, Any]]:
    """The rows that `write_table` wrote; see `read_columns`."""
    return read_columns(source, schema, origin).to_pylist()


def read_columns(source: PathLike | pa.BufferReader, schema: pa.Schema, origin: str) -> pa.Table:
    """The table that `write_table` wrote.

    Raises:
        UsageError: it is missing, damaged, has other columns, or names a shard that no render would have written;
            `origin` names it in the message.
    """
    try:
        # On this thread, and not by `pq.read_table`: a thread of Arrow may still be letting go of the bytes, which are
        # Python's, when the interpreter ends, and that aborts the process.
        content = source if isinstance(source, pa.BufferReader) else pa.BufferReader(StoragePath(source).read_bytes())
        with pq.ParquetFile(content) as file:
            table = file.read(use_threads=False)
        # Asked for by schema, Arrow would fill a column that is not there with nulls.
        if table.column_names != schema.names:
            odd = sorted(set(table.column_names) ^ set(schema.names)) or ["their order"]
            raise UsageError(f"{origin}: has not the columns of this release ({', '.join(odd)}); render again")
        table = table.cast(schema)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{origin}: not a readable table ({str(error).splitlines()[0]}); render again") from None
    for name in table["shard"].unique().to_pylist():
        if name is None or not SHARD_NAME.fullmatch(name):
            raise UsageError(f"{origin}: names the shard {name!r:.80}, as no render does; render again")
    return table


def _nested(column: pa.ChunkedArray, entries: Callable[..., Iterable[Any]], collect: Callable[[Any], Any]) -> list[Any]:
    """A column of lists (or maps), each row collected from its entries, which are made of their parts as lists."""
    built: list[Any] = []
    for chunk in column.chunks:
        is_map = pa.types.is_map(chunk.type)
        parts = [chunk.keys, chunk.items] if is_map else chunk.values.flatten()
        # All entries at once, and then cut: making them row by row takes three times as long.
        flat, ends = list(entries(*(part.to_pylist() for part in parts))), chunk.offsets.to_pylist()
        built += [collect(flat[start:end]) for start, end in pairwise(ends)]
    return built


FAILURES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "source", "stage", "reason", "shard", "fingerprint")]
    + [("sources", pa.list_(SOURCE))]
)


class FailureRow(Frozen):
    """Which sample failed, at what stage (`read`, `render`, `encode` or `text`), and why; the columns of the table.

    `shard` is where the sample would have stood; `fingerprint` and `sources` tell what it would have been made from, so
    that a mended file is noticed.
    """

    key: str
    source: str
    stage: str
    reason: str
    shard: ShardName
    fingerprint: str
    sources: tuple[SourceFile, ...]


def write_failures(path: PathLike, failures: Sequence[FailureRow]) -> None:
    """Write the table; equal rows give equal bytes."""
    write_table(path, [failure.model_dump() for failure in failures], FAILURES_SCHEMA)


def read_failures(path: PathLike) -> list[FailureRow]:
    """Read the table; see `smile_pipe.shards.index.read_table` for the errors."""
    return [FailureRow.model_validate(row) for row in read_table(path, FAILURES_SCHEMA, str(path))]
