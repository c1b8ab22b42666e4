"""Access to the files of a data directory on a local disk or under a URL: listing, size, time and local copies.

Mesh readers need files on this machine, below one folder. For a local data directory this is the directory itself. A
file under a URL is copied to a scratch folder, at the same relative path, before it is read, and the scratch folder is
emptied after each scan. Paths from data cannot leave the directory or the scratch folder. Nothing larger than
`MAX_BYTES` is downloaded. A storage failure and a missing file raise different errors.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from smile_pipe.pipeline.meshes.paths import MAX_BYTES
from smile_pipe.pipeline.meshes.sidecar_files import list_names
from smile_pipe.shards.errors import UsageError, describe_error, storage_errors
from smile_pipe.shards.storage import PathLike, StoragePath

Stat = tuple[int, int]
"""Size in bytes, and modification time in nanoseconds since 1970."""

MISSING: Stat = (-1, -1)
"""`Stat` of a file that is missing or cannot be read."""

# Names of the modification time in the metadata of various storages; memory:// has only the creation time.
_TIME_FIELDS = ("LastModified", "last_modified", "mtime", "updated", "created")
_NANOSECONDS = 10**9
_MAX_NAME_BYTES = 255
_MAX_LISTED_FOLDERS = 4


class DataDir:
    """A data directory on a local disk.

    Attributes:
        root: Folder from which files are read, by their paths relative to the data directory.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._listed = root, dict[str, Sequence[str]]()

    def fetch(self, path: str) -> Stat:
        """Make a file available at `root / path`.

        Returns:
            Its size and modification time; `MISSING` if there is no readable file.

        Raises:
            StorageError: The storage failed, so it is unknown whether the file exists.
        """
        return stat_source(self.root, path)

    def has(self, path: str) -> bool:
        """True if `path` can be read without `fetch`."""
        return True

    def list_folder(self, path: str) -> Sequence[str]:
        """Return the names of the files directly in a folder; none if there is no such folder.

        The folders that were listed last are kept in memory, since scans that miss a file share their folder.

        Raises:
            StorageError: The storage failed.
        """
        if path not in self._listed:
            while len(self._listed) >= _MAX_LISTED_FOLDERS:
                del self._listed[next(iter(self._listed))]
            self._listed[path] = self._list(path)
        return self._listed[path]

    def _list(self, path: str) -> Sequence[str]:
        return list_names(self.root, path)

    def clear(self) -> None:
        """Remove the local copies of fetched files."""


class RemoteDir(DataDir):
    """A data directory under a URL; files are copied to a local scratch folder."""

    def __init__(self, url: StoragePath, scratch: Path) -> None:
        super().__init__(scratch)
        self._url, self._fetched = url, set[str]()

    def fetch(self, path: str) -> Stat:
        """See `DataDir.fetch`. A file over `MAX_BYTES` is replaced by an empty (sparse) file of the same size."""
        self._fetched.add(path)
        if not _is_file_path(path):
            return MISSING
        source = f"{self._url.path.rstrip('/')}/{path}"
        target = self.root / path
        try:
            with storage_errors(self._url / path):
                info = self._url.fs.info(source)
                if info.get("type") == "directory":
                    return MISSING
                size, mtime_ns = _stat_from_info(info)
                if _make_folder_for(target):
                    self._copy(source, size, target)
                return size, mtime_ns
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            return MISSING

    def _copy(self, source: str, size: int, target: Path) -> None:
        if size > MAX_BYTES:
            # Readers refuse it for its size, as on a disk; a sparse file takes no space.
            target.touch()
            os.truncate(target, size)
            return
        self._url.fs.get_file(source, str(target))

    def _list(self, path: str) -> Sequence[str]:
        folder = f"{self._url.path.rstrip('/')}/{path}".rstrip("/")
        try:
            with storage_errors(self._url / path):
                entries = self._url.fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        names = [str(entry).removeprefix(f"{folder}/") for entry in entries]
        return [name for name in names if _is_file_path(name) and "/" not in name]

    def has(self, path: str) -> bool:
        """See `DataDir.has`."""
        return path in self._fetched

    def clear(self) -> None:
        """See `DataDir.clear`."""
        if self._fetched:
            for entry in self.root.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self._fetched.clear()


@contextmanager
def open_data_dir(root: PathLike) -> Iterator[DataDir]:
    """Open a data directory for reading; local copies of fetched files are removed after the block."""
    root = StoragePath(root)
    if root.is_local:
        yield DataDir(root.local)
        return
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as scratch:
        yield RemoteDir(root, Path(scratch))


def stat_source(root: Path | str, path: str) -> Stat:
    """Size and modification time of a local file; `MISSING` if there is no readable file."""
    try:
        status = os.stat(f"{root}/{path}")
    except (OSError, ValueError):
        return MISSING
    return status.st_size, status.st_mtime_ns


def list_files(root: StoragePath) -> dict[str, Stat]:
    """List all files under a URL.

    Returns:
        Size and modification time by path relative to `root`; {} if there is nothing.

    Raises:
        UsageError: The storage cannot be listed, or the name of an object is not a valid file path.
    """
    base = root.path.rstrip("/")
    try:
        infos: Mapping[str, Any] = root.fs.find(base, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # storages raise arbitrary exceptions
        raise UsageError(f"{root}: cannot be listed: {describe_error(error)}; check your read permission") from None
    files: dict[str, Stat] = {}
    for name, info in infos.items():
        path = name.removeprefix(f"{base}/")
        # An object whose name ends in "/" represents an empty folder. One with the name of the root is a file.
        if info.get("type") == "directory" or name.endswith("/") or name == base:
            continue
        if not _is_file_path(path):
            raise UsageError(f"{root}: the name of the object {path[:200]!a} is not a valid file path; rename it")
        files[path] = _stat_from_info(info)
    return files


def _is_file_path(path: str) -> bool:
    """Whether a relative path always stays within its folder."""
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _make_folder_for(target: Path) -> bool:
    """Make the folder of a file; False if the name is too long, or one of the folders is a file."""
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        return len(os.fsencode(target.name)) <= _MAX_NAME_BYTES and not target.is_dir()
    return False


def _stat_from_info(info: Mapping[str, Any]) -> Stat:
    """Size and modification time of an object.

    The time is rounded to seconds, since it is more exact in a listing than in the metadata of one object.
    """
    moment = next((info[name] for name in _TIME_FIELDS if info.get(name)), 0)
    if isinstance(moment, str):
        with suppress(ValueError):
            moment = datetime.fromisoformat(moment)
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment if isinstance(moment, int | float) else 0
    return int(info.get("size") or 0), int(seconds) * _NANOSECONDS
