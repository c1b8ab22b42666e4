"""Writing of one shard as a deterministic tar file: the same samples give the same bytes.

Samples are new, or the packed bytes of an earlier shard. Writing is atomic, so a shard with its final name is complete.
"""

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from blake3 import blake3

from smile_pipe.shards.manifest import ShardEntry, fingerprint
from smile_pipe.shards.sample import Sample, SampleError, to_members
from smile_pipe.shards.storage import PathLike, StoragePath

if TYPE_CHECKING:
    from webdataset.writer import TarWriter


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
    return PackedSample(pack_members(dict(to_members(sample))), sample.record.fingerprint)


def pack_members(members: Mapping[str, bytes]) -> bytes:
    """Pack the members of one sample into a tar without the end marker.

    Args:
        members: Contents by member name, in any order; the tar has them in alphabetical order.

    Raises:
        SampleError: The names do not have one key and different suffixes.
    """
    keys = {name.partition(".")[0] for name in members}
    by_suffix = {name.partition(".")[2]: content for name, content in members.items()}
    if len(keys) != 1 or "" in by_suffix:
        raise SampleError(f"members {sorted(members)} are not one sample")
    buffer = io.BytesIO()
    # Time, owner and mode are fixed: they would differ between machines. Without `keep_meta` the images of a view whose
    # name starts with "_" would be left out.
    fixed = {"mtime": 0, "user": "", "group": "", "mode": 0o644}
    with _tar_writer()(buffer, encoder=False, keep_meta=True, **fixed) as writer:
        writer.write({"__key__": keys.pop(), **by_suffix})
        end = writer.tarstream.offset
    buffer.truncate(end)
    return buffer.getvalue()


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


@cache
def _tar_writer() -> "type[TarWriter]":
    """`webdataset.TarWriter`, imported from its own module under another package name.

    `import webdataset` imports PyTorch, which nothing in a render uses: 1.4 s and 280 MB in each process.
    """
    spec = find_spec("webdataset")
    assert spec is not None and spec.submodule_search_locations is not None
    package = ModuleType("smile_pipe_webdataset")
    package.__path__ = spec.submodule_search_locations
    sys.modules[package.__name__] = package
    return import_module(f"{package.__name__}.writer").TarWriter
