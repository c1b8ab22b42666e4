"""Writing one shard: deterministic tar, temporary name, rename.

Goes in: samples in the order that they shall have, new ones or the bytes of earlier ones. Comes out: the shard, its
entry for the manifest, and where each sample lies in it. Promised: the same samples give the same bytes; under its
final name a shard is whole.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from blake3 import blake3

from smile_pipe.shards.manifest import ShardEntry, fingerprint
from smile_pipe.shards.sample import Sample, to_members
from smile_pipe.shards.storage import PathLike, StoragePath


@dataclass(frozen=True)
class Location:
    """Where a sample lies in its shard: a byte range that is itself a tar without its end mark.

    `digest` is that of these bytes (BLAKE3, 128 bits, hex).
    """

    offset: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class PackedSample:
    """A sample as the bytes that it is in a shard, and the fingerprint of its record."""

    content: bytes = field(repr=False)
    fingerprint: str


def pack(sample: Sample) -> PackedSample:
    """A sample as members of a tar.

    Raises:
        SampleError: a sample whose key cannot name members.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in to_members(sample):
            tar.addfile(_header(name, len(content)), io.BytesIO(content))
        end = tar.offset
    return PackedSample(buffer.getvalue()[:end], sample.record.fingerprint)


def write_shard(path: PathLike, samples: Iterable[Sample | PackedSample]) -> tuple[ShardEntry, list[Location]]:
    """Write `samples` to `path` by way of a temporary name beside it.

    Raises:
        SampleError: a sample whose key cannot name members.
        OSError: the disk is full, or the folder cannot be written; the temporary file is removed.
    """
    target = StoragePath(path)
    locations: list[Location] = []
    fingerprints: list[str] = []
    digest, written = hashlib.sha256(), 0
    with target.replacing() as temporary, open(temporary, "wb") as file:
        for sample in samples:
            packed = pack(sample) if isinstance(sample, Sample) else sample
            file.write(packed.content)
            digest.update(packed.content)
            locations.append(Location(written, len(packed.content), digest_of(packed.content)))
            fingerprints.append(packed.fingerprint)
            written += len(packed.content)
        end = bytes(_padding(written))
        file.write(end)
        digest.update(end)
    entry = ShardEntry(
        name=target.name,
        num_samples=len(locations),
        bytes=written + len(end),
        sha256=digest.hexdigest(),
        fingerprint=fingerprint(fingerprints),
    )
    return entry, locations


def digest_of(content: bytes) -> str:
    """The digest by which the index knows a sample's bytes."""
    return blake3(content).hexdigest(length=16)


def _padding(written: int) -> int:
    """How many zeros end a tar: two empty blocks, then as many as fill its last record."""
    end = 2 * tarfile.BLOCKSIZE
    return end + -(written + end) % tarfile.RECORDSIZE


def _header(name: str, size: int) -> tarfile.TarInfo:
    """A member's header without the time, owner and mode that differ between machines."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info
