"""Files and folders on a local disk or under any URL that fsspec knows (s3://, gs://, memory://), behind one class.

Writes are atomic: a name appears only when its content is complete. A URL never carries credentials; the storage
libraries take them from the environment, so no credential reaches a log or a manifest. A storage that fails raises
`StorageError`, which differs from a file that is missing.
"""

import errno
import os
import posixpath
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pydantic_core import core_schema
from upath import UPath
from upath.extensions import ProxyUPath

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.urls import parse_path, scheme_of

# These give an object its name when they have received all of it; on other storages a file grows under its name.
ATOMIC_PUT_SCHEMES = frozenset(("memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci"))


class StoragePath(ProxyUPath):
    """An immutable path on a local disk or under a URL.

    It has the methods of `pathlib.Path`, and the operations of this project that differ between a disk and an object
    store. It can be hashed, compared and pickled, and is a field type for pydantic. `str()` gives the path or the URL.
    A local path is also accepted by `open` and `os`.

    Args:
        path: A path or URL as text, a `pathlib.Path`, or another `StoragePath`. In text, `~` at the start of a path is
            the home directory, as fsspec reads it in a spec of shards.

    Raises:
        UsageError: The URL has an unknown scheme, or carries credentials.
        TypeError: `path` is something else.
    """

    __slots__ = ()
    __wrapped__: UPath

    def __init__(self, path: "PathLike | UPath") -> None:
        if isinstance(path, StoragePath):
            self.__wrapped__ = path.__wrapped__
        else:
            self.__wrapped__ = parse_path(path) if isinstance(path, str) else UPath(path)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validate,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string"}

    def __repr__(self) -> str:
        return f"StoragePath({str(self)!r})"

    def __fspath__(self) -> str:
        return str(self.local)

    def __eq__(self, other: object) -> bool:
        return self.__wrapped__ == (other.__wrapped__ if isinstance(other, StoragePath) else other)

    __ne__ = object.__ne__
    __hash__ = ProxyUPath.__hash__

    @property
    def is_local(self) -> bool:
        """True for a path on a disk of this machine."""
        return isinstance(self.__wrapped__, Path)

    @property
    def local(self) -> Path:
        """The path on a disk of this machine.

        Raises:
            TypeError: It is a URL.
        """
        if not isinstance(self.__wrapped__, Path):
            raise TypeError(f"{self}: a URL is not a path on this machine")
        # A plain path: joining those of upath takes four times as long.
        return Path(self.__wrapped__)

    @property
    def is_in_memory(self) -> bool:
        """True where no other process can see the files, as with memory://."""
        return self.scheme == "memory"

    @property
    def scheme(self) -> str:
        """The scheme of the URL; "" for a local path."""
        return "" if self.is_local else self.protocol

    @property
    def fs(self) -> AbstractFileSystem:
        """The fsspec file system that holds the path."""
        return LocalFileSystem() if self.is_local else self.__wrapped__.fs

    @property
    def path(self) -> str:
        """The path within `fs`."""
        return str(self) if self.is_local else self.__wrapped__.path

    def seen_from(self, folder: "StoragePath") -> str:
        """A reference to this path for a file in `folder`; `resolve_reference` is the inverse.

        Returns:
            A relative path if both are on this machine or both in one bucket, so that they can be moved together; else
            the URL.
        """
        if folder.is_local:
            return os.path.relpath(self.resolve(), folder.resolve()) if self.is_local else str(self)
        # A relative path must not cross the border of a bucket.
        if (self.scheme, self.drive) != (folder.scheme, folder.drive):
            return str(self)
        return posixpath.relpath(self.path, folder.path)

    def resolve_reference(self, reference: str) -> str:
        """The path or URL that `seen_from` referred to from this folder; the storage is not accessed.

        Raises:
            UsageError: The reference is a URL with an unknown scheme or with credentials.
        """
        if scheme_of(reference):
            return str(StoragePath(reference))
        return os.path.normpath(self.resolve() / reference) if self.is_local else str((self / reference).resolve())

    def is_writable(self) -> bool:
        """False for a local folder whose permissions forbid writing. The storage of a URL reports this on writing."""
        return not self.is_local or os.access(self, os.W_OK | os.X_OK)

    def size(self) -> int:
        """Size in bytes.

        Raises:
            FileNotFoundError: There is no file.
        """
        return self.stat().st_size

    def modified_time(self) -> float:
        """Time of the last modification, in seconds since 1970; 0 where the storage does not know it.

        Raises:
            FileNotFoundError: There is no file.
        """
        return self.stat().st_mtime or 0.0

    def file_sizes(self) -> dict[str, int]:
        """Sizes in bytes of the files directly in the folder, by name, from one listing; {} without a folder."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if self.is_local:
                with os.scandir(self) as entries:
                    return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            entries = self.fs.ls(self.path, detail=True)
            return {info["name"].rpartition("/")[2]: info["size"] or 0 for info in entries if info["type"] == "file"}
        return {}

    def names_below(self) -> set[str]:
        """Relative paths of all files in the folder and in the folders below it."""
        if self.is_local:
            return {str(path.relative_to(self.local)) for path in self.local.rglob("*") if not path.is_dir()}
        return {name.removeprefix(self.path).strip("/") for name in self.fs.find(self.path)}

    def read_range(self, start: int, size: int) -> bytes:
        """At most `size` bytes from byte `start`; fewer where the file ends earlier."""
        try:
            return self.fs.cat_file(self.path, start=start, end=start + size)
        except OSError as error:
            # Some storages raise an error for a range that starts at the end of an object.
            if error.errno == errno.EINVAL:
                return b""
            raise

    def write_atomically(self, content: bytes) -> None:
        """Write the file so that it holds either its old content or all of the new content."""
        with self.replacing() as temporary:
            temporary.write_bytes(content)

    def create(self, content: bytes) -> None:
        """Write a file that must not exist yet; of several processes one succeeds.

        Raises:
            FileExistsError: There is a file already.
        """
        self.fs.pipe_file(self.path, content, mode="create")

    @contextmanager
    def replacing(self) -> Iterator[Path]:
        """A local file to write to. It replaces this path at the end of the block, and is removed after an error."""
        if not self.is_local:
            with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
                temporary = Path(folder) / self.name
                yield temporary
                self._put(temporary)
            return
        temporary = self._temporary_sibling().local
        try:
            yield temporary
            # Without this a power cut could leave the new name on a file whose content never reached the disk.
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.local)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _put(self, file: Path) -> None:
        if self.scheme in ATOMIC_PUT_SCHEMES:
            self.fs.put_file(str(file), self.path)
            return
        temporary = self._temporary_sibling()
        try:
            self.parent.mkdir(parents=True, exist_ok=True)
            self.fs.put_file(str(file), temporary.path)
            self.fs.mv(temporary.path, self.path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def _temporary_sibling(self) -> "StoragePath":
        """A random name: a writer that was taken for dead, but is alive, must not write into the file of another."""
        return self.with_name(f".{self.name}.{secrets.token_hex(4)}.tmp")

    def ensure_folder(self) -> None:
        """Make the folder and its parents on a disk. `write_atomically` needs no folder under a URL."""
        if self.is_local:
            self.mkdir(parents=True, exist_ok=True)

    def remove_tree(self) -> None:
        """Remove the folder with all its content, if it exists."""
        if self.is_local:
            shutil.rmtree(self, ignore_errors=True)
            return
        # `rm` with `recursive` would take wildcard characters in the name for a pattern.
        entries = self.fs.find(self.path, withdirs=True, detail=True)
        for name, info in entries.items():
            if info["type"] != "directory":
                self.fs.rm_file(name)
        if self.is_in_memory or self.scheme not in ATOMIC_PUT_SCHEMES:
            # On an object store a folder is only the common start of the names of its files.
            folders = [name for name, info in entries.items() if info["type"] == "directory"]
            for name in (*sorted(folders, reverse=True), self.path):
                with suppress(OSError):
                    self.fs.rmdir(name)

    def remove_leftovers(self) -> None:
        """Remove the temporary files that killed writers have left in the folder."""
        for name in self.file_sizes():
            if name.startswith(".") and name.endswith(".tmp"):
                (self / name).unlink(missing_ok=True)

    def check_output_folder(self) -> None:
        """Check that files can be written to this folder, before any work is done.

        For a URL nothing is checked here: its storage reports an error on writing.

        Raises:
            UsageError: It is a file, is inside a file, or must not be written.
        """
        if not self.is_local:
            return
        existing = next(path for path in (self, *self.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise UsageError(f"{existing} is a file; name a directory", field="out", value=self)
        if not existing.is_writable():
            raise UsageError(f"{existing} cannot be written; check its permissions", field="out", value=self)


PathLike = str | os.PathLike[str] | StoragePath
"""What public functions accept as a path: text (a path or a URL), a `pathlib.Path`, or a `StoragePath`."""


def _validate(value: Any) -> StoragePath:
    try:
        return StoragePath(value)
    except TypeError:
        raise ValueError("not a path or URL") from None
