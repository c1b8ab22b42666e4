"""Local copies of remote shards: a folder of bounded size, shared by all processes of a machine.

An object store answers a request after tens of milliseconds, so reading sample by sample waits most of the time. Here
whole shards are copied, several at a time, before they are needed. A copy has the SHA-256 of its content as its name:
equal shards share it, and a shard that was replaced gets another one. A killed process leaves temporary files, which
the next one removes. What cannot be copied is read from the storage instead.
"""

import hashlib
import logging
import math
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout

from smile_pipe.shards.errors import StorageError, UsageError, storage_errors
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import ShardEntry
from smile_pipe.shards.private_folder import private_folder

# Copies that are made at the same time. With parts of this size each connection gets 500 MB/s at 30 ms per request.
CONNECTIONS = 8
_PART_BYTES = 16 << 20
# A copy that failed, or differs from the manifest, is made once more: the fault may have been a short one.
_ATTEMPTS = 2
# Largest number of rows that are held while the shards of later ones are requested.
MAX_ROWS_AHEAD = 8192
# After a failure of the storage a shard is read sample by sample for this time.
RETRY_SECONDS = 60.0
_WAIT_SECONDS = 0.05
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Other files of the folder are not counted and not removed.
_OWN_FILE = re.compile(r"[0-9a-f]{64}\.tar|\.[0-9a-f]{64}\.[0-9a-f]{8}\.tmp")
_SUFFIX, _TEMPORARY = ".tar", ".tmp"

Group = TypeVar("Group", bound=Sequence[SampleRow])

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """`SMILE_PIPE_CACHE`, or the cache folder of this user, or a temporary one where there is no home to write to.

    If even the temporary one cannot be shared, each process gets its own, and nothing removes it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(os.path.expanduser(os.environ.get("SMILE_PIPE_CACHE") or f"{home}/smile-pipe/shards"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return private_folder("smile-pipe-shards")
    return folder if os.access(folder, os.W_OK | os.X_OK) else private_folder("smile-pipe-shards")


def local_folder(path: str | Path) -> Path:
    """A folder of copies that a user has named: created if it is missing, and independent of the working directory.

    Raises:
        UsageError: It cannot be written.
    """
    folder = Path(os.path.expanduser(path)).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise UsageError("is not a folder that can be written", field="cache_dir", value=path)
    return folder


@cache
def _workers(process: int, num_workers: int) -> "SimpleQueue[Callable[[], None]]":
    """A queue of tasks, and threads of this process that do them; they do not keep the process from ending."""
    tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def work() -> None:
        while True:
            tasks.get()()

    for _ in range(num_workers):
        threading.Thread(target=work, name="shards", daemon=True).start()
    return tasks


class CopyRequests(Protocol):
    """What `request_ahead` needs of a cache."""

    @property
    def num_ahead(self) -> int:
        """Number of shards to request before they are read."""
        ...

    def request(self, names: Iterable[str]) -> None:
        """Start to copy shards, unless they are there."""
        ...


class ShardCache:
    """Copies of the shards of one set.

    Attributes:
        folder: Holds the copies; other sets and processes may use it too.
        max_bytes: When a copy would exceed this size of the folder, those that were not used for longest are removed.
    """

    def __init__(
        self, filesystem: Any, shards_folder: str, entries: Iterable[ShardEntry], folder: Path, max_bytes: int
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._filesystem, self._shards_folder = filesystem, shards_folder
        self._entries: Mapping[str, ShardEntry] = {entry.name: entry for entry in entries}
        self._copies: dict[str, Future[Path | None]] = {}
        self._retry_at: dict[str, float] = {}
        self._guard = threading.Lock()
        largest = max((entry.bytes for entry in self._entries.values()), default=0)
        if largest > max_bytes:
            _log.warning(
                "the cache of shards holds %.1f GiB, the largest shard has %.1f; too large ones are read by sample",
                *(max_bytes / 2**30, largest / 2**30),
            )
        (folder / "locks").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_leftovers()

    def request(self, names: Iterable[str]) -> None:
        """Start to copy shards, unless they are there; copies are made in the order of the requests."""
        for name in names:
            copy = self._copy_of(name)
            if not copy.done():
                continue
            path = copy.result()
            was_removed = path is not None and not _mark_as_used(path)
            if was_removed or time.monotonic() > self._retry_at.get(name, math.inf):
                self._forget(name, copy)
                self._copy_of(name)

    @property
    def num_ahead(self) -> int:
        """Number of shards to request before they are read: enough for all connections, and a quarter of the folder."""
        largest = max((entry.bytes for entry in self._entries.values()), default=1)
        return max(1, min(2 * CONNECTIONS, self.max_bytes // (4 * max(largest, 1))))

    def read(self, name: str, start: int, end: int) -> bytes | None:
        """Read bytes `start` to `end` of a shard, when it has been copied.

        Returns:
            The bytes, fewer if the shard ends earlier; None if the shard cannot be copied.
        """
        for _ in range(_ATTEMPTS):
            copy = self._copy_of(name)
            try:
                if (path := copy.result()) is None:
                    return None
                with open(path, "rb") as file:
                    _mark_as_used(path)
                    file.seek(start)
                    return file.read(end - start)
            except FileNotFoundError:
                # Another process has removed it to make room.
                self._forget(name, copy)
            except OSError:
                return None
        return None

    def discard(self, name: str) -> None:
        """Remove the copy of a shard, which has turned out to be damaged."""
        self._path(self._entries[name]).unlink(missing_ok=True)
        with self._guard:
            self._copies.pop(name, None)

    def _copy_of(self, name: str) -> Future[Path | None]:
        with self._guard:
            if name not in self._copies:
                copy = self._copies[name] = Future()
                _workers(os.getpid(), CONNECTIONS).put(partial(self._work, copy, self._entries[name]))
            return self._copies[name]

    def _work(self, copy: "Future[Path | None]", entry: ShardEntry) -> None:
        try:
            copy.set_result(self._copy(entry))
        except BaseException as error:
            copy.set_exception(error)

    def _forget(self, name: str, copy: Future[Path | None]) -> None:
        with self._guard:
            if self._copies.get(name) is copy:
                del self._copies[name]
                self._retry_at.pop(name, None)

    def _copy(self, entry: ShardEntry) -> Path | None:
        """Copy a shard; None if the storage has no such shard, or fails, or the folder cannot hold it."""
        path = self._path(entry)
        if not _SHA256.fullmatch(entry.sha256) or not 0 <= entry.bytes <= self.max_bytes:
            return None
        if _mark_as_used(path):
            return path
        try:
            with self._lock(entry.sha256):
                # Another process may have copied it in the meantime.
                if _mark_as_used(path):
                    return path
                # Nobody else writes files under this lock, so these are of processes that were killed.
                for left in self.folder.glob(f".{entry.sha256[:2]}*{_TEMPORARY}"):
                    if _OWN_FILE.fullmatch(left.name):
                        left.unlink(missing_ok=True)
                for _ in range(_ATTEMPTS):
                    with self._temporary(entry) as temporary:
                        if self._download(entry, temporary):
                            with self._room():
                                temporary.replace(path)
                            _mark_as_used(path)
                            return path
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or str(error)
            _log.warning("the cache of shards in %s cannot hold %s (%s)", self.folder, entry.name, reason)
            return None
        _log.warning("%s cannot be read as a whole; its intact samples are read one by one", entry.name)
        return None

    def _download(self, entry: ShardEntry, target: Path) -> bool:
        """Write the content of a shard to a file; false if the storage fails, or it is not what the manifest says."""
        source, digest = f"{self._shards_folder}/{entry.name}", hashlib.sha256()
        with open(target, "r+b") as file:
            for start in range(0, entry.bytes, _PART_BYTES):
                end = min(start + _PART_BYTES, entry.bytes)
                try:
                    with storage_errors(source):
                        part = self._filesystem.cat_file(source, start=start, end=end)
                except StorageError:
                    # If it keeps failing, reading a sample raises the error.
                    self._retry_at[entry.name] = time.monotonic() + RETRY_SECONDS
                    return False
                digest.update(part)
                file.write(part)
        return digest.hexdigest() == entry.sha256

    @contextmanager
    def _temporary(self, entry: ShardEntry) -> Iterator[Path]:
        """A file that takes its room in the folder from the start, as soon as copies in progress leave enough."""
        path = self.folder / f".{entry.sha256}.{secrets.token_hex(4)}{_TEMPORARY}"
        try:
            while not self._reserve(path, entry.bytes):
                time.sleep(_WAIT_SECONDS)
                self._remove_leftovers()
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _reserve(self, path: Path, num_bytes: int) -> bool:
        """Create a file of this size, and remove copies for it; false if copies in progress leave too little."""
        with self._room(), os.scandir(self.folder) as entries:
            files = []
            for entry in entries:
                with suppress(FileNotFoundError):
                    if _OWN_FILE.fullmatch(entry.name):
                        files.append((entry.stat().st_mtime_ns, entry.stat().st_size, Path(entry.path)))
            in_progress = sum(size for _, size, path in files if path.suffix == _TEMPORARY)
            if in_progress + num_bytes > self.max_bytes:
                return False
            excess = sum(size for _, size, _ in files) + num_bytes - self.max_bytes
            for _, size, copy in sorted(files):
                if excess <= 0:
                    break
                if copy.suffix == _SUFFIX:
                    # Where a file that another process reads cannot be removed, it stays.
                    with suppress(OSError):
                        copy.unlink()
                    excess -= size
            with open(path, "wb") as file:
                file.truncate(num_bytes)
        return True

    def _remove_leftovers(self) -> None:
        """Remove temporary files whose processes have ended: nobody holds their locks."""
        for path in self.folder.glob(f".*{_TEMPORARY}"):
            if not _OWN_FILE.fullmatch(path.name):
                continue
            with suppress(Timeout), self._lock(path.name[1:], timeout=0):
                path.unlink(missing_ok=True)

    def _room(self) -> FileLock:
        """The lock for counting and changing the files, so that two processes never reserve the same room."""
        return FileLock(self.folder / "locks" / "room.lock")

    def _lock(self, sha256: str, timeout: float = -1) -> FileLock:
        """The lock under which a copy is made; a few hundred locks serve all shards, so that their files stay few."""
        return FileLock(self.folder / "locks" / f"{sha256[:2]}.lock", timeout=timeout)

    def _path(self, entry: ShardEntry) -> Path:
        return self.folder / f"{entry.sha256}{_SUFFIX}"


def request_ahead(
    copies: CopyRequests | None, groups: Iterable[Group], is_needed: Callable[[SampleRow], bool] = lambda row: True
) -> Iterator[Group]:
    """Yield groups of rows; meanwhile the shards of later ones are copied.

    Args:
        copies: Without them nothing is requested.
        groups: Rows that are read together, in the order of reading.
        is_needed: Whether the shard of a row will be read.
    """
    if copies is None:
        yield from groups
        return
    ahead: deque[tuple[Group, int]] = deque()
    seen: set[str] = set()
    num_rows, num_new, limit = 0, 0, copies.num_ahead
    for group in groups:
        names = dict.fromkeys(row.shard for row in group if is_needed(row))
        new = names.keys() - seen
        seen |= new
        num_new, num_rows = num_new + len(new), num_rows + len(group)
        ahead.append((group, len(new)))
        copies.request(names)
        while ahead and (num_new >= limit or num_rows >= MAX_ROWS_AHEAD):
            first, count = ahead.popleft()
            num_new, num_rows = num_new - count, num_rows - len(first)
            yield first
    yield from (group for group, _ in ahead)


def _mark_as_used(path: Path) -> bool:
    """Set the time of the last use of a copy to now; false if there is no copy."""
    now = time.time_ns()
    try:
        # The time of the file system itself advances in steps of milliseconds.
        os.utime(path, ns=(now, now))
    except FileNotFoundError:
        return False
    except OSError:
        # Of another user, or on a disk that is read-only: it can be read, and looks unused.
        return path.exists()
    return True
