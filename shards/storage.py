"""Files and folders on disk or under any URL that fsspec knows (s3://, gs://, memory://), handled alike.

Writes are atomic: a name appears only when its content is complete. A URL never carries credentials; the storage
libraries take them from the environment, so none reaches a log or a manifest. A storage that fails raises
`StorageError`, which differs from a file that is missing.
"""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl, urlsplit

from fsspec import get_filesystem_class
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from upath import UPath

from smile_pipe.shards.errors import UsageError

StoragePath = Path | UPath
P = TypeVar("P", Path, UPath)

# What an object store has received in whole, and nothing else, gets the name; elsewhere a file grows under its name.
ATOMIC_PUT_SCHEMES = frozenset(("memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci"))
_SECRET = re.compile(r"key|token|secret|password|signature|credential|^sig$", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class StorageError(ConnectionError):
    """The storage failed, which says nothing of the file that it was asked for: a job ends with it."""


def storage_path(text: str | StoragePath) -> StoragePath:
    """The place that `text` names; `~` at the head of a path is the home, as it is to fsspec in a spec of shards.

    Raises:
        UsageError: a URL of an unknown kind, or one that carries credentials.
    """
    if not isinstance(text, str):
        return text
    check_no_credentials(text)
    scheme = scheme_of(text)
    if scheme == "":
        # Not `Path.expanduser`, which raises where there is no user of that name.
        return Path(os.path.expanduser(text))
    if scheme == "file":
        return Path(text.removeprefix("file://"))
    try:
        get_filesystem_class(scheme)
        # Listings are not remembered: other processes write to the same place.
        return UPath(text, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{text}: {error}") from None


StoragePathField = Annotated[
    StoragePath, PlainValidator(storage_path), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
"""A field of a config that is a place."""


def scheme_of(text: str) -> str:
    """The scheme of a URL, in lower case; "" of a path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def check_no_credentials(text: str) -> None:
    """Refuse a URL with credentials in it; the message does not repeat them.

    Raises:
        UsageError: it has a password, or a parameter such as a signature.
    """
    # fsspec chains several: simplecache::s3://bucket/shards
    for parts in map(urlsplit, text.split("::")):
        if parts.password is not None or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query)):
            bare = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
            raise UsageError(f"{bare}: credentials do not belong in a URL; set them in the environment")


def absolute(text: str) -> str:
    """A path or URL as it is named from any working directory; workers have another one than the user."""
    return text if scheme_of(text) else str(Path(os.path.expanduser(text)).absolute())


def check_folder(out: StoragePath) -> None:
    """See that files can lie in `out`, before any work is done; of a URL its storage tells when it is written to.

    Raises:
        UsageError: it is a file, lies in one, or may not be written.
    """
    if isinstance(out, Path):
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise UsageError(f"{existing} is a file; name a directory", field="out", value=out)
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"{existing} cannot be written; check its permissions", field="out", value=out)


def is_in_memory(where: StoragePath) -> bool:
    """Whether no other process can see the place, as is so with memory://."""
    return isinstance(where, UPath) and where.protocol == "memory"


@contextmanager
def storage_errors(where: StoragePath | str) -> Iterator[None]:
    """Tell a storage that fails from a file that is missing; storages raise what they like, `OSError` or not.

    Raises:
        FileNotFoundError, MemoryError: as they came.
        StorageError: in place of any other exception.
    """
    try:
        yield
    except (FileNotFoundError, MemoryError, StorageError):
        raise
    except Exception as error:
        reason = describe_error(error)
        raise StorageError(f"{where}: the storage failed ({reason}); run the same command to go on") from error


def describe_error(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def write_atomically(path: StoragePath, content: bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: StoragePath) -> Iterator[Path]:
    """A file of this machine to write to: it takes the place of `path` at the end, or is removed after an error."""
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            _put(temporary, path)
        return
    temporary = _temporary(path)
    try:
        yield temporary
        # Without this a power cut could leave the new name on a file whose content never reached the disk.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: P) -> P:
    """A name of this writer's own: one that was thought dead, and is not, must not write into another one's file."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: StoragePath) -> None:
    """Remove what writers that were killed have left in a folder."""
    for path in files_in(folder, ".*.tmp"):
        path.unlink(missing_ok=True)


def _put(file: Path, path: UPath) -> None:
    if path.protocol in ATOMIC_PUT_SCHEMES:
        path.fs.put_file(str(file), path.path)
        return
    beside = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.fs.put_file(str(file), beside.path)
        path.fs.mv(beside.path, path.path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def read_range(path: StoragePath, start: int, size: int) -> bytes:
    """At most `size` bytes from byte `start` on; less where the file ends before."""
    if not isinstance(path, Path):
        try:
            return path.fs.cat_file(path.path, start=start, end=start + size)
        except OSError as error:
            # A range that begins at the end of an object is an error to some storages.
            if error.errno == errno.EINVAL:
                return b""
            raise
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def remove_tree(folder: StoragePath) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    # Not `rm` with `recursive`, which takes signs in the name for those of a pattern.
    found = folder.fs.find(folder.path, withdirs=True, detail=True)
    for name, info in found.items():
        if info["type"] != "directory":
            folder.fs.rm_file(name)
    if folder.protocol == "memory" or folder.protocol not in ATOMIC_PUT_SCHEMES:
        # Elsewhere a folder is no more than the names of what is in it.
        folders = [name for name, info in found.items() if info["type"] == "directory"]
        for name in (*sorted(folders, reverse=True), folder.path):
            with suppress(OSError):
                folder.fs.rmdir(name)


def files_in(folder: StoragePath, pattern: str) -> list[StoragePath]:
    """What lies in a folder under a name that fits a pattern, sorted; none where there is no folder."""
    if isinstance(folder, Path):
        return sorted(folder.glob(pattern))
    # Not `glob`, which takes signs in the name of the folder for those of a pattern.
    with suppress(FileNotFoundError, NotADirectoryError):
        fitting = (path for path in folder.iterdir() if fnmatchcase(path.name, pattern))
        return sorted(fitting, key=lambda path: path.name)
    return []


def sizes_in(folder: StoragePath) -> dict[str, int]:
    """Sizes in bytes of the files that lie in a folder itself, by name, in one look; none where there is no folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if isinstance(folder, Path):
            with os.scandir(folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        found = folder.fs.ls(folder.path, detail=True)
        return {info["name"].rpartition("/")[2]: info["size"] for info in found if info["type"] == "file"}
    return {}
