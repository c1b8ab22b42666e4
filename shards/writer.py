"""Writing one shard: deterministic tar, temporary name, rename.

Goes in: a path and samples in the order that they shall have. Comes out: the shard, its entry for the manifest, and
where each sample lies in it. Promised: the same samples give the same bytes; under its final name a shard is whole.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.manifest import ShardEntry, fingerprint, replacing
from shards.sample import Sample, to_members


@dataclass(frozen=True)
class Location:
    """Where a sample lies in its shard: a byte range that is itself a tar without its end mark."""

    offset: int
    bytes: int


def write_shard(path: Path, samples: Iterable[Sample]) -> tuple[ShardEntry, list[Location]]:
    """Write `samples` to `path` by way of a temporary name beside it.

    Raises:
        SampleError: a sample whose key cannot name members.
        OSError: the disk is full, or the folder cannot be written; the temporary file is removed.
    """
    locations: list[Location] = []
    fingerprints: list[str] = []
    with replacing(path) as temporary, open(temporary, "wb") as file:
        stream = _HashingStream(file)
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for sample in samples:
                start = tar.offset
                for name, content in to_members(sample):
                    tar.addfile(_header(name, len(content)), io.BytesIO(content))
                locations.append(Location(start, tar.offset - start))
                fingerprints.append(sample.record.fingerprint)
    entry = ShardEntry(
        name=path.name,
        num_samples=len(locations),
        bytes=stream.written,
        sha256=stream.digest.hexdigest(),
        fingerprint=fingerprint(fingerprints),
    )
    return entry, locations


def _header(name: str, size: int) -> tarfile.TarInfo:
    """A member's header without the time, owner and mode that differ between machines."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info


class _HashingStream:
    """Counts and hashes what passes, so that a shard is not read again to learn its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.written = 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.written += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self.written
