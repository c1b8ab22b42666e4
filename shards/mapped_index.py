"""Large indexes as Arrow files in the cache folder, which the processes of a machine map into memory and share.

A parquet file has to be decoded, so each process would hold a copy of its own: 180 bytes per sample, in every worker
and loader. The first process decodes it once. A file has the digest of its index as its name, so a set that is rendered
again gets another one.
"""

import logging
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from smile_pipe.shards.cache import default_folder
from smile_pipe.shards.errors import describe_error
from smile_pipe.shards.sample_table import TABLE_SCHEMA, SampleTable

# A smaller index is read as fast as a file of its own is found.
MIN_SAMPLES = 100_000
# Files that were not used for longest are removed.
_MAX_FILES = 16
_CHUNK, _DAY = 1 << 22, 86_400.0

_log = logging.getLogger(__name__)


def read_samples(index: pa.NativeFile, origin: str, num_samples: int) -> SampleTable:
    """Read the columns of an `index.parquet`; those of a large one are mapped from a file of the cache folder.

    Args:
        index: The parquet file.
        origin: Name of the index in error messages.
        num_samples: Number of samples by the manifest.

    Raises:
        UsageError: See `SampleTable.read`.
    """
    if num_samples < MIN_SAMPLES:
        return SampleTable.read(index, origin)
    path = default_folder() / "indexes" / f"{_digest(index)}.arrow"
    with suppress(OSError, pa.ArrowException):
        return _map(path)
    table = SampleTable.read(index, origin)
    try:
        _write(path, table)
        return _map(path)
    except (OSError, pa.ArrowException) as error:
        _log.warning("%s is not shared with other processes: %s", origin, describe_error(error))
        return table


def _digest(index: pa.NativeFile) -> str:
    digest = blake3()
    while chunk := index.read(_CHUNK):
        digest.update(chunk)
    index.seek(0)
    return digest.hexdigest(length=16)


def _map(path: Path) -> SampleTable:
    columns = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if columns.schema != TABLE_SCHEMA or any(column.num_chunks > 1 for column in columns.columns):
        raise pa.ArrowInvalid(f"{path}: written by another version")
    with suppress(OSError):
        os.utime(path)
    return SampleTable(columns)


def _write(path: Path, table: SampleTable) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        with pa.ipc.new_file(str(temporary), table.columns.schema) as file:
            file.write_table(table.columns)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _remove_old(path.parent)


def _remove_old(folder: Path) -> None:
    """Remove the files that were not used for longest, and what killed processes have left."""
    # Where another process maps a file, some systems do not remove it.
    with suppress(OSError):
        newest_first = sorted(folder.glob("*.arrow"), key=lambda path: -path.stat().st_mtime)
        left = [path for path in folder.glob(".*.tmp") if path.stat().st_mtime < time.time() - _DAY]
        for path in (*newest_first[_MAX_FILES:], *left):
            path.unlink(missing_ok=True)
