"""Writing of one shard as a deterministic tar file: the same samples give the same bytes.

Samples are new, or the packed bytes of an earlier shard. Writing is atomic, so a shard with its final name is complete.
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
    """The byte range of a sample in its shard, which is itself a tar without the end marker.

    Attributes:
        digest: Of these bytes (BLAKE3, 128 bits, hex).
    """

    offset: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class PackedSample:
    """The bytes of a sample in a shard, and the fingerprint of its record."""

    content: bytes = field(repr=False)
    fingerprint: str


def pack(sample: Sample) -> PackedSample:
    """Pack a sample into the members of a tar.

    Raises:
        SampleError: The key of the sample is not valid in member names.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in to_members(sample):
            tar.addfile(_header(name, len(content)), io.BytesIO(content))
        end = tar.offset
    return PackedSample(buffer.getvalue()[:end], sample.record.fingerprint)


def write_shard(path: PathLike, samples: Iterable[Sample | PackedSample]) -> tuple[ShardEntry, list[Location]]:
    """Write a shard atomically.

    Args:
        path: The tar file.
        samples: In the order of the shard.

    Returns:
        The entry for the manifest, and the location of each sample.

    Raises:
        SampleError: The key of a sample is not valid in member names.
        OSError: The disk is full, or the folder cannot be written; the temporary file is removed.
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
    """The digest of a packed sample in the index."""
    return blake3(content).hexdigest(length=16)


def _padding(written: int) -> int:
    """Number of zero bytes at the end of a tar: two empty blocks, and the rest of the last record."""
    end = 2 * tarfile.BLOCKSIZE
    return end + -(written + end) % tarfile.RECORDSIZE


def _header(name: str, size: int) -> tarfile.TarInfo:
    """A member header with fixed time, owner and mode, which would differ between machines."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info
