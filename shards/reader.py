"""Reading shards: a directory, a manifest, a glob, a brace pattern or a URL -> the samples that it names.

Goes in: a spec as a user gives it. Comes out: a `ShardSet`, which knows all samples from the index and reads any of
them, one range of bytes each. Promised: nothing is unpickled, no more of a shard is read than what is asked for, and a
storage that fails is no shard that is damaged.
"""

import errno
import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from glob import has_magic
from typing import Any

import fsspec
import pyarrow as pa
from braceexpand import braceexpand
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow, read_index
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.sample import Sample, from_members
from smile_pipe.shards.storage import StorageError, check_no_credentials, describe_error, storage_errors
from smile_pipe.shards.writer import digest_of

# Larger than any sample that the render stage writes; an index that promises more is not believed.
MAX_SAMPLE_BYTES = 1 << 30

# What a disk says of a file that it cannot read. All else, such as too many open files, it says of us or of itself, and
# whatever a storage under a URL says may be of a token that expired.
_OF_THE_FILE = frozenset((errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENOTDIR))

# The headers of our writer's members differ in name, size and checksum alone, so that they are known by comparing. That
# takes a sixth of the time of `tarfile`, which is a sixth of that of reading a sample and decoding its JPEGs.
_HEADER = tarfile.TarInfo().tobuf(tarfile.PAX_FORMAT)
_REST = int(_HEADER[148:154], 8) - sum(_HEADER[124:135])
_NAME = re.compile(rb"[A-Za-z0-9_.-]+")
_OCTAL = re.compile(rb"[0-7]{11}")


class ShardError(ValueError):
    """A shard whose bytes are not what the index says."""


@dataclass(frozen=True)
class ShardSet:
    """An open shard set.

    Attributes:
        root: the directory of the manifest, as a path of `filesystem`.
        rows: the index of the samples that the spec covers.
    """

    spec: str
    filesystem: fsspec.AbstractFileSystem
    root: str
    manifest: ShardManifest
    rows: tuple[IndexRow, ...]

    @classmethod
    def open(cls, spec: str) -> "ShardSet":
        """Open what `spec` names.

        Raises:
            UsageError: nothing there, no manifest beside the shards, or a manifest or an index that cannot be read.
        """
        check_no_credentials(spec)
        filesystem, root, names = _locate(spec)
        manifest = ShardManifest.parse(_read(filesystem, f"{root}/manifest.json", spec), f"{root}/manifest.json")
        content = _read(filesystem, f"{root}/index.parquet", spec)
        rows = read_index(pa.BufferReader(content), f"{root}/index.parquet")
        known = {entry.name for entry in manifest.shards}
        if len(rows) != manifest.num_samples or not {row.shard for row in rows} <= known:
            raise UsageError(
                f"manifest and index of {root} are not of one render; render again", field="shards", value=spec
            )
        if names is not None and not names <= known:
            raise UsageError(f"{min(names - known)} is not in the manifest of {root}", field="shards", value=spec)
        rows = [row for row in rows if names is None or row.shard in names]
        if not rows:
            raise UsageError("holds no sample", field="shards", value=spec)
        return cls(spec, filesystem, root, manifest, tuple(rows))

    def read(self, row: IndexRow) -> Sample:
        """Read one sample.

        Raises:
            ShardError: the range does not hold the members that it should.
            SampleError: the members are not a sample.
            StorageError: the storage failed, which says nothing of the shard.
        """
        if not 0 < row.bytes <= MAX_SAMPLE_BYTES or row.offset < 0:
            raise ShardError(f"{row.shard}: {row.key} claims {row.bytes} bytes at {row.offset}; render again")
        content = self._content(row)
        if len(content) != row.bytes:
            raise ShardError(f"{row.shard}: ends before {row.key} does; copy it again or render again")
        if digest_of(content) != row.digest:
            raise ShardError(f"{row.shard} at {row.offset}: {row.key} is damaged; copy it again or render again")
        sample = from_members(read_members(content, f"{row.shard} at {row.offset}"))
        if sample.record.key != row.key:
            raise ShardError(f"{row.shard} at {row.offset}: holds {sample.record.key}, not {row.key}; render again")
        return sample

    def _content(self, row: IndexRow) -> bytes:
        """The bytes of a sample, or fewer where its shard ends before; see `read` for the errors."""
        path = f"{self.root}/shards/{row.shard}"
        try:
            with storage_errors(path):
                return self.filesystem.cat_file(path, start=row.offset, end=row.offset + row.bytes)
        except FileNotFoundError:
            raise ShardError(f"{row.shard}: is in the manifest but not in {self.root}; render again") from None
        except StorageError as error:
            # To some storages a range that begins at the end of an object is an error.
            if self._ends_before(path, row.offset):
                return b""
            cause = error.__cause__
            if isinstance(self.filesystem, LocalFileSystem) and getattr(cause, "errno", None) in _OF_THE_FILE:
                reason = describe_error(cause or error)
                raise ShardError(f"{row.shard}: {row.key} at {row.offset} cannot be read ({reason})") from None
            raise

    def _ends_before(self, path: str, offset: int) -> bool:
        """Whether a file is known to have nothing from `offset` on."""
        with suppress(FileNotFoundError, StorageError), storage_errors(path):
            size = self.filesystem.size(path)
            return size is not None and size <= offset
        return False

    def of_subjects(self, subjects: Sequence[str]) -> list[IndexRow]:
        """Rows of the samples of `subjects`."""
        wanted = set(subjects)
        return [row for row in self.rows if row.subject in wanted]

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """All subjects, sorted."""
        return tuple(sorted({row.subject for row in self.rows}))


def read_members(content: bytes, origin: str) -> dict[str, bytes]:
    """The members of a piece of a tar, by name.

    Raises:
        ShardError: not a whole piece of a tar, or a member that is no plain file.
    """
    members = _written_by_us(content)
    if members is not None:
        return members
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            return dict(_plain_members(tar))
    except (tarfile.TarError, ValueError, OverflowError) as error:
        # Sizes below nothing, or beyond what a machine can count, come back as they are.
        raise ShardError(f"{origin}: {error}") from None


def _written_by_us(content: bytes) -> dict[str, bytes] | None:
    """The members where all headers are those of our writer; None where `tarfile` has to tell what they mean."""
    members, start = {}, 0
    while start < len(content):
        header = content[start : start + tarfile.BLOCKSIZE]
        name, size = header[:100].rstrip(b"\0"), header[124:135]
        checksum = b"%06o" % (_REST + sum(name) + sum(size))
        usual = (name.ljust(100, b"\0"), _HEADER[100:124], size, _HEADER[135:148], checksum, _HEADER[154:])
        if header != b"".join(usual) or not _NAME.fullmatch(name) or not _OCTAL.fullmatch(size):
            return None
        first = start + tarfile.BLOCKSIZE
        last = first + int(size, 8)
        start = last + -last % tarfile.BLOCKSIZE
        if start > len(content):
            return None
        members[name.decode()] = content[first:last]
    return members or None


def _plain_members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for info in tar:
        file = tar.extractfile(info) if info.isreg() else None
        if file is None:
            raise tarfile.ReadError(f"member {info.name!r} is no plain file")
        yield info.name, file.read()


def _locate(spec: str) -> tuple[Any, str, set[str] | None]:
    """The filesystem, the directory of the manifest, and the names of the shards asked for (None for all)."""
    # What is there under this very name is meant, even if its name has the characters of a pattern.
    filesystem, path = _filesystem(spec)
    if filesystem.isdir(path):
        return filesystem, path, None
    if path.endswith("manifest.json"):
        return filesystem, path.rpartition("/")[0], None
    paths = [path] if filesystem.isfile(path) else _matches(filesystem, spec)
    folders = {path.rpartition("/")[0] for path in paths}
    if len(folders) > 1:
        raise UsageError(
            f"covers several shard sets ({', '.join(sorted(folders)[:3])}); name one", field="shards", value=spec
        )
    return filesystem, folders.pop().rpartition("/")[0], {path.rpartition("/")[2] for path in paths}


def _filesystem(spec: str) -> tuple[Any, str]:
    try:
        return url_to_fs(spec)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{error}", field="shards", value=spec) from None


def _matches(filesystem: Any, spec: str) -> list[str]:
    """The files that a pattern of braces and wildcards names; each alternative of the braces must name some."""
    try:
        patterns = list(braceexpand(spec))
    except ValueError as error:
        raise UsageError(f"{error}", field="shards", value=spec) from None
    found: list[str] = []
    for pattern in patterns:
        path = _filesystem(pattern)[1]
        paths = sorted(filesystem.glob(path)) if has_magic(path) else [path] * filesystem.isfile(path)
        if not paths:
            raise UsageError(
                "matches nothing; name a directory, a manifest.json, or tar files", field="shards", value=pattern
            )
        found += paths
    return found


def _read(filesystem: Any, path: str, spec: str) -> bytes:
    try:
        return filesystem.cat_file(path)
    except (FileNotFoundError, NotADirectoryError):
        name = path.rpartition("/")[2]
        raise UsageError(
            f"no {name} at {path}; `smile-pipe render` writes one when it is done", field="shards", value=spec
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error})", field="shards", value=spec) from None
