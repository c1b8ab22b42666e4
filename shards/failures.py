"""The table of failures: one row a sample that could not be rendered, `failures.parquet`."""

from collections.abc import Sequence

import pyarrow as pa

from shards.index import SOURCE, SourceFile, read_table, write_table
from shards.manifest import Frozen, ShardName
from shards.places import Place

SCHEMA = pa.schema(
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


def write_failures(path: Place, failures: Sequence[FailureRow]) -> None:
    """Write the table; equal rows give equal bytes."""
    write_table(path, [failure.model_dump() for failure in failures], SCHEMA)


def read_failures(path: Place) -> list[FailureRow]:
    """Read the table; see `shards.index.read_table` for the errors."""
    return [FailureRow.model_validate(row) for row in read_table(path, SCHEMA, str(path))]
