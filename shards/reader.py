"""Random access to the samples of a shard set, which is named by a directory, manifest, glob, brace pattern or URL.

A `ShardSet` knows all samples from the index and reads each with one byte range request. Nothing is unpickled. A
storage failure and a damaged shard raise different errors.
"""

import errno
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from glob import has_magic
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from braceexpand import braceexpand
from fsspec.core import url_to_fs
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from smile_pipe.shards.cache import CopyRequests, ShardCache, default_folder
from smile_pipe.shards.errors import StorageError, UsageError, describe_error, storage_errors
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import INDEX_NAME, MANIFEST_NAME, SHARDS_FOLDER, ShardManifest
from smile_pipe.shards.mapped_index import read_samples
from smile_pipe.shards.sample import Sample, from_members
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.urls import check_no_credentials, split_sets
from smile_pipe.shards.writer import digest_of

# Larger than any sample that the render stage writes; an index with a larger size is invalid.
MAX_SAMPLE_BYTES = 1 << 30

# Errors of a local disk that concern one file. Others, such as too many open files, concern the process or the machine,
# and an error of a URL may come from an expired token.
_FILE_ERRORS = frozenset((errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENOTDIR))

# The member headers of our writer differ only in name, size and checksum, so they can be recognised by comparison. That
# takes a sixth of the time of `tarfile`, which takes a sixth of the time of reading a sample and decoding its JPEGs.
_HEADER = tarfile.TarInfo().tobuf(tarfile.PAX_FORMAT)
_BASE_CHECKSUM = int(_HEADER[148:154], 8) - sum(_HEADER[124:135])
_NAME = re.compile(rb"[A-Za-z0-9_.-]+")
_OCTAL = re.compile(rb"[0-7]{11}")


class ShardError(ValueError):
    """The bytes of a shard do not match the index."""


@dataclass(frozen=True)
class ShardSet:
    """An open shard set.

    Attributes:
        spec: The text that named the shard set.
        filesystem: The fsspec file system of the shards.
        root: Directory of the manifest, as a path of `filesystem`.
        rows: The samples that the spec covers.
        cache: Copies of the shards on this machine; None if every sample is read from the storage.
    """

    spec: str
    filesystem: fsspec.AbstractFileSystem
    root: str
    manifest: ShardManifest
    rows: SampleTable
    cache: ShardCache | None = None

    @classmethod
    def open(cls, spec: str) -> "ShardSet":
        """Open a shard set.

        Args:
            spec: A directory, a `manifest.json`, tar files as a glob or brace pattern, or one of these as a URL.

        Raises:
            UsageError: There are no shards, or the manifest or the index is missing or cannot be read.
        """
        check_no_credentials(spec)
        if len(split_sets(spec)) > 1:
            raise UsageError("names several shard sets; name one", field="shards", value=spec)
        filesystem, root, names = _locate(spec)
        manifest = ShardManifest.parse(_read(filesystem, f"{root}/{MANIFEST_NAME}", spec), f"{root}/{MANIFEST_NAME}")
        index = _open(filesystem, f"{root}/{INDEX_NAME}", spec)
        rows = read_samples(index, f"{root}/{INDEX_NAME}", manifest.num_samples)
        known = {entry.name for entry in manifest.shards}
        if len(rows) != manifest.num_samples or not known.issuperset(rows.distinct("shard")):
            raise UsageError(f"manifest and index of {root} do not match; render again", field="shards", value=spec)
        if names is not None and not names <= known:
            raise UsageError(f"{min(names - known)} is not in the manifest of {root}", field="shards", value=spec)
        rows = rows if names is None else rows.where("shard", names)
        if not rows:
            raise UsageError("contains no samples", field="shards", value=spec)
        return cls(spec, filesystem, root, manifest, rows)

    @property
    def parts(self) -> "tuple[ShardSet, ...]":
        """The sets that this one consists of: itself, or those that were joined."""
        return (self,)

    @property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of the sets that this one consists of."""
        return frozenset(part.manifest.fingerprint for part in self.parts)

    @property
    def joined_fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the sets that were joined, in their order; none for a single set."""
        return tuple(part.manifest.fingerprint for part in self.parts if len(self.parts) > 1)

    @property
    def is_near(self) -> bool:
        """Whether samples are read from a disk of this machine."""
        return isinstance(self.filesystem, LocalFileSystem) or self.cache is not None

    @property
    def copies(self) -> CopyRequests | None:
        """Where copies of shards are requested before their samples are read; None without a cache."""
        return self.cache

    def with_cache(self, folder: Path | None, max_bytes: int) -> "ShardSet":
        """The same set, read through copies on this machine: for readers of many samples of a remote storage.

        Args:
            folder: For the copies; None for `default_folder`, and for no copies of shards that are on a local disk, or
                that fsspec copies itself (simplecache::).
            max_bytes: Largest size of the folder; 0 for no copies.
        """
        is_near = isinstance(self.filesystem, LocalFileSystem | MemoryFileSystem | CachingFileSystem)
        if not max_bytes or (is_near and folder is None):
            return self
        cache = ShardCache(
            self.filesystem, f"{self.root}/{SHARDS_FOLDER}", self.manifest.shards, folder or default_folder(), max_bytes
        )
        return replace(self, cache=cache)

    def read(self, row: SampleRow) -> Sample:
        """Read one sample and check its digest.

        Raises:
            ShardError: The bytes of the shard do not match the index.
            SampleError: The members are not a sample.
            StorageError: The storage failed; the shard itself may be intact.
        """
        sample = from_members(read_members(self.read_bytes(row), f"{row.shard} at {row.offset}"))
        check_key(sample, row)
        return sample

    def read_bytes(self, row: SampleRow) -> bytes:
        """Read the bytes of one sample, which are a tar without its end, and check their digest; see `read`."""
        if not 0 < row.bytes <= MAX_SAMPLE_BYTES or row.offset < 0:
            raise ShardError(
                f"{row.shard}: invalid index entry for {row.key}: {row.bytes} bytes at {row.offset}; render again"
            )
        copied = self.cache.read(row.shard, row.offset, row.offset + row.bytes) if self.cache else None
        if copied is not None and digest_of(copied) == row.digest:
            return copied
        content = self._content(row)
        if len(content) != row.bytes:
            raise ShardError(f"{row.shard}: ends before the end of {row.key}; copy it again or render again")
        if digest_of(content) != row.digest:
            raise ShardError(f"{row.shard} at {row.offset}: {row.key} is damaged; copy it again or render again")
        if self.cache and copied is not None:
            self.cache.discard(row.shard)
        return content

    def _content(self, row: SampleRow) -> bytes:
        """The bytes of a sample, fewer if the shard ends earlier; see `read` for the errors."""
        path = self.shard_path(row.shard)
        try:
            with storage_errors(path):
                return self.filesystem.cat_file(path, start=row.offset, end=row.offset + row.bytes)
        except FileNotFoundError:
            raise ShardError(f"{row.shard}: listed in the manifest but missing in {self.root}; render again") from None
        except StorageError as error:
            # Some storages raise an error for a range that starts at the end of an object.
            if self._ends_before(path, row.offset):
                return b""
            cause = error.__cause__
            if isinstance(self.filesystem, LocalFileSystem) and getattr(cause, "errno", None) in _FILE_ERRORS:
                reason = describe_error(cause or error)
                raise ShardError(f"{row.shard}: {row.key} at {row.offset} cannot be read: {reason}") from None
            raise

    def _ends_before(self, path: str, offset: int) -> bool:
        """Whether the file is known to end at or before `offset`."""
        with suppress(FileNotFoundError, StorageError), storage_errors(path):
            size = self.filesystem.size(path)
            return size is not None and size <= offset
        return False

    def shard_path(self, name: str) -> str:
        """The path of a shard within `filesystem`."""
        return f"{self.root}/{SHARDS_FOLDER}/{name}"

    def of_subjects(self, subjects: Sequence[str]) -> SampleTable:
        """The samples of some subjects."""
        return self.rows.where("subject", subjects)

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """All subjects, sorted."""
        return tuple(self.rows.distinct("subject"))


def check_key(sample: Sample, row: SampleRow) -> None:
    """Raise `ShardError` if a sample is not the one that the index names."""
    if sample.record.key != row.key:
        raise ShardError(
            f"{row.shard} at {row.offset}: contains {sample.record.key} instead of {row.key}; render again"
        )


def read_members(content: bytes, origin: str) -> dict[str, bytes]:
    """Read the members of a part of a tar.

    Args:
        content: The bytes of one or more complete members.
        origin: Name of the part in error messages.

    Returns:
        Contents by member name.

    Raises:
        ShardError: The bytes are not complete members, or a member is not a regular file.
    """
    members = _read_own_members(content)
    if members is not None:
        return members
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            return dict(_regular_members(tar))
    except (tarfile.TarError, ValueError, OverflowError) as error:
        # `ValueError` and `OverflowError` come from negative and huge sizes.
        raise ShardError(f"{origin}: {error}") from None


def _read_own_members(content: bytes) -> dict[str, bytes] | None:
    """The members if all headers have the form of our writer; None if `tarfile` has to parse them."""
    members, start = {}, 0
    while start < len(content):
        header = content[start : start + tarfile.BLOCKSIZE]
        name, size = header[:100].rstrip(b"\0"), header[124:135]
        checksum = b"%06o" % (_BASE_CHECKSUM + sum(name) + sum(size))
        expected = (name.ljust(100, b"\0"), _HEADER[100:124], size, _HEADER[135:148], checksum, _HEADER[154:])
        if header != b"".join(expected) or not _NAME.fullmatch(name) or not _OCTAL.fullmatch(size):
            return None
        first = start + tarfile.BLOCKSIZE
        last = first + int(size, 8)
        start = last + -last % tarfile.BLOCKSIZE
        if start > len(content):
            return None
        members[name.decode()] = content[first:last]
    return members or None


def _regular_members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for info in tar:
        file = tar.extractfile(info) if info.isreg() else None
        if file is None:
            raise tarfile.ReadError(f"member {info.name!r} is not a regular file")
        yield info.name, file.read()


def _locate(spec: str) -> tuple[Any, str, set[str] | None]:
    """The file system, the directory of the manifest, and the names of the selected shards (None for all)."""
    # An existing path is taken literally, even if it contains wildcard characters.
    filesystem, path = _filesystem(spec)
    if filesystem.isdir(path):
        return filesystem, path, None
    if path.endswith(MANIFEST_NAME):
        return filesystem, path.rpartition("/")[0], None
    paths = [path] if filesystem.isfile(path) else _matches(filesystem, spec)
    folders = {path.rpartition("/")[0] for path in paths}
    if len(folders) > 1:
        raise UsageError(
            f"matches several shard sets ({', '.join(sorted(folders)[:3])}); name one", field="shards", value=spec
        )
    return filesystem, folders.pop().rpartition("/")[0], {path.rpartition("/")[2] for path in paths}


def _filesystem(spec: str) -> tuple[Any, str]:
    try:
        return url_to_fs(spec)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error), field="shards", value=spec) from None


def _matches(filesystem: Any, spec: str) -> list[str]:
    """The files that match a brace and wildcard pattern; each alternative of the braces must match at least one."""
    try:
        patterns = list(braceexpand(spec))
    except ValueError as error:
        raise UsageError(str(error), field="shards", value=spec) from None
    matches: list[str] = []
    for pattern in patterns:
        path = _filesystem(pattern)[1]
        paths = sorted(filesystem.glob(path)) if has_magic(path) else [path] * filesystem.isfile(path)
        if not paths:
            raise UsageError(
                "matches nothing; name a directory, a manifest.json, or tar files", field="shards", value=pattern
            )
        matches += paths
    return matches


def _read(filesystem: Any, path: str, spec: str) -> bytes:
    with _usage_errors(path, spec):
        return filesystem.cat_file(path)


def _open(filesystem: Any, path: str, spec: str) -> pa.NativeFile:
    """A file of a disk, or the content of a remote one."""
    with _usage_errors(path, spec):
        if isinstance(filesystem, LocalFileSystem):
            return pa.OSFile(path)
        return pa.BufferReader(filesystem.cat_file(path))


@contextmanager
def _usage_errors(path: str, spec: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        name = path.rpartition("/")[2]
        raise UsageError(
            f"no {name} at {path}; run `smile-pipe render`, which writes it at the end", field="shards", value=spec
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(f"{path} cannot be read: {reason}", field="shards", value=spec) from None
