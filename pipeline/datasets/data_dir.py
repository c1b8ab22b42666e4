"""A data directory, on a disk or under a URL: what lies there, how large and how old it is, and local files to read.

Readers of meshes want files of this machine, below a folder that they never leave. For a directory on a disk that is
the directory itself. What lies under a URL is copied to a scratch folder, at the same relative path, before it is read,
and the scratch folder is emptied after each scan. Promised: no path from data leads out of the directory or of the
scratch folder, nothing larger than `MAX_BYTES` is fetched, and a storage that fails is no file that is missing.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from smile_pipe.pipeline.meshes.paths import MAX_BYTES
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath, describe_error, storage_errors

Stat = tuple[int, int]
"""Size in bytes and time of modification in nanoseconds."""

GONE: Stat = (-1, -1)
"""Of a file that cannot be had."""

# What storages call the time of an object. Memory has no other than that of its making, which is made anew.
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
_NANOSECONDS = 10**9


class DataDir:
    """A data directory on a disk of this machine.

    Attributes:
        root: the folder that files are read from, by their paths relative to the data directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def fetch(self, path: str) -> Stat:
        """Have the file at `root / path`, if it is to be had; its size and time, `GONE` where it is not.

        Raises:
            StorageError: whether it is there cannot be told.
        """
        return stat_source(self.root, path)

    def has(self, path: str) -> bool:
        """Whether `path` need not be fetched before it is read."""
        return True

    def clear(self) -> None:
        """Let go of the files that were fetched."""


class RemoteDir(DataDir):
    """A data directory under a URL; its files are copied to a folder of this machine."""

    def __init__(self, url: StoragePath, scratch: Path) -> None:
        super().__init__(scratch)
        self._url, self._fetched = url, set[str]()

    def fetch(self, path: str) -> Stat:
        """See `DataDir.fetch`. Of what is too large to be read, an empty file of the same size is made."""
        self._fetched.add(path)
        if not _names_a_file(path):
            return GONE
        source = f"{self._url.path.rstrip('/')}/{path}"
        target = self.root / path
        try:
            with storage_errors(self._url / path):
                info = self._url.fs.info(source)
                if info.get("type") == "directory":
                    return GONE
                size, mtime_ns = _stat_of(info)
                if _room_for(target):
                    self._copy(source, size, target)
                return size, mtime_ns
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            return GONE

    def _copy(self, source: str, size: int, target: Path) -> None:
        if size > MAX_BYTES:
            # Readers refuse it by its size, as they do on a disk; it takes no room.
            target.touch()
            os.truncate(target, size)
            return
        self._url.fs.get_file(source, str(target))

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
def opened(root: PathLike) -> Iterator[DataDir]:
    """The data directory at `root`, to read files of; what was fetched of it is gone after the block."""
    root = StoragePath(root)
    if root.is_local:
        yield DataDir(root.local)
        return
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as scratch:
        yield RemoteDir(root, Path(scratch))


def stat_source(root: Path, path: str) -> Stat:
    """Size and modification time of a file on a disk; `GONE` where it cannot be had."""
    try:
        status = os.stat(f"{root}/{path}")
    except (OSError, ValueError):
        return GONE
    return status.st_size, status.st_mtime_ns


def list_files(root: StoragePath) -> dict[str, Stat]:
    """Size and time of every file under a URL, by its path relative to it; none where nothing is there.

    Raises:
        UsageError: the storage cannot be asked, or an object has a name that no file in a folder could have.
    """
    base = root.path.rstrip("/")
    try:
        found: Mapping[str, Any] = root.fs.find(base, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # storages raise what they like
        raise UsageError(f"{root}: cannot be listed ({describe_error(error)}); see that you may read it") from None
    files: dict[str, Stat] = {}
    for name, info in found.items():
        path = name.removeprefix(f"{base}/")
        # An object whose name ends in "/" stands for an empty folder; one that has the name of the root is no folder.
        if info.get("type") == "directory" or name.endswith("/") or name == base:
            continue
        if not _names_a_file(path):
            raise UsageError(f"{root}: holds the object {path[:200]!a}, which no folder could hold; rename it")
        files[path] = _stat_of(info)
    return files


def _names_a_file(path: str) -> bool:
    """Whether a path, relative to a folder, stays in it whatever lies there."""
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _room_for(target: Path) -> bool:
    """Make the folder of a file; False where its name is too long, or one of its folders is a file already."""
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        return len(os.fsencode(target.name)) <= os.pathconf(target.parent, "PC_NAME_MAX") and not target.is_dir()
    return False


def _stat_of(info: Mapping[str, Any]) -> Stat:
    """Size and time of an object.

    The time is that to the second: storages tell it more exactly in a listing than of an object alone.
    """
    moment = next((info[name] for name in _TIMES if info.get(name)), 0)
    if isinstance(moment, str):
        with suppress(ValueError):
            moment = datetime.fromisoformat(moment)
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment if isinstance(moment, int | float) else 0
    return int(info.get("size") or 0), int(seconds) * _NANOSECONDS
