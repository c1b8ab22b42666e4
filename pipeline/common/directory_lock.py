"""A lock on a directory, so that one process at a time writes there.

On a disk it is a lock of the operating system, which is released when the process dies. Under a URL it is an object
that is created only if it does not exist. Its holder renews the time stored in it, and a holder that stops renewing
counts as dead.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from smile_pipe.pipeline.common.background import run_in_background
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

NAME = ".lock"
RENEW_SECONDS = 30.0
"""Seconds between two renewals of the lock object."""
STALE_AFTER = 300.0
"""Seconds without renewal after which a holder counts as dead; clocks of machines must differ by less than this."""
MAX_WAIT = 2 * STALE_AFTER
"""Seconds after which a dead holder counts as dead by the clock of every machine."""
POLL_SECONDS = 1.0
"""Seconds between two checks of a lock that is waited for."""
SETTLE_SECONDS = 1.0
"""Seconds after which two processes that take over the same lock both see which of them has it."""

# Tokens of the locks that this process holds; without locks that it could not remove because the storage failed.
_tokens: set[str] = set()


@contextmanager
def directory_lock(root: PathLike) -> Iterator[None]:
    """Hold the lock of a directory during the block.

    The directory is created if it does not exist, and removed again if it is still empty at the end.

    Raises:
        UsageError: Another process holds the lock (the message names it), or the directory cannot be written.
    """
    root = StoragePath(root)
    with _file_lock(root.local) if root.is_local else _object_lock(root):
        yield


def wait_while_held(root: PathLike) -> None:
    """Wait until no live process holds the lock, at most `MAX_WAIT` seconds: for so long a dead process may seem alive.

    Returns at once for a local directory, where the operating system releases the lock of a dead process.
    """
    root, end = StoragePath(root), time.monotonic() + MAX_WAIT
    while not root.is_local and not _is_dead(_read(root / NAME)) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


@contextmanager
def _file_lock(root: Path) -> Iterator[None]:
    is_new, path = not root.exists(), root / NAME
    lock = FileLock(path, timeout=0, on_acquired=_write_owner)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _held_error(root, _read(StoragePath(path))) from None
    except OSError as error:
        raise UsageError(f"{root}: cannot be written: {error.strerror}; name another directory") from None
    try:
        yield
    finally:
        # Removed before the release: a process that has opened the file sees that it is gone, and opens a new one.
        path.unlink(missing_ok=True)
        lock.release()
        if is_new:
            with suppress(OSError):
                root.rmdir()


def _write_owner(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(_owner()).encode())


@contextmanager
def _object_lock(root: StoragePath) -> Iterator[None]:
    path, owner = root / NAME, _owner() | {"token": secrets.token_hex(8)}
    try:
        _claim(path, owner)
    except UsageError:
        raise
    except Exception as error:  # storages raise arbitrary exceptions
        raise UsageError(
            f"{root}: cannot be written: {error}; check that it exists and that you have permission to write"
        ) from None
    _tokens.add(owner["token"])
    try:
        with run_in_background(partial(_renew, path, owner)):
            yield
    finally:
        _tokens.discard(owner["token"])
        # If the storage fails now, the finished work is not lost, and the lock counts as released.
        with suppress(Exception):
            if _read(path).get("token") == owner["token"]:
                path.unlink()


def _claim(path: StoragePath, owner: dict[str, Any]) -> None:
    """Create the lock, or take over that of a dead process."""
    if _create(path, owner):
        return
    holder = _read(path)
    if holder and not _is_dead(holder):
        raise _held_error(path.parent, holder)
    with suppress(FileNotFoundError):
        path.unlink()
    # Another process may have read the same dead holder a moment later and removed the new lock.
    is_created = _create(path, owner)
    time.sleep(SETTLE_SECONDS)
    if not is_created or _read(path).get("token") != owner["token"]:
        raise _held_error(path.parent, _read(path))


def _create(path: StoragePath, owner: dict[str, Any]) -> bool:
    """Create the lock if there is none; returns whether this process holds it."""
    try:
        path.create(_renewed_json(owner))
        return True
    except FileExistsError:
        # It is ours if an earlier attempt created it and only the answer was lost.
        return _read(path).get("token") == owner["token"]


def _renew(path: StoragePath, owner: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        # A failure is ignored: the lock stays valid for much longer than the time between two renewals.
        with suppress(Exception):
            path.write_bytes(_renewed_json(owner))


def _renewed_json(owner: dict[str, Any]) -> bytes:
    return json.dumps(owner | {"renewed": time.time()}).encode()


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a holder counts as dead; {} is no holder."""
    renewed = holder.get("renewed", 0.0)
    if not isinstance(renewed, int | float) or time.time() - renewed > STALE_AFTER:
        return True
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("pid") == os.getpid():
        return holder.get("token") not in _tokens
    return not (isinstance(pid := holder.get("pid"), int) and psutil.pid_exists(pid))


def _owner() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}


def _read(path: StoragePath) -> dict[str, Any]:
    """The content of a lock; {} if there is none, or it is no record of ours."""
    with suppress(FileNotFoundError, ValueError):
        # One request: between two requests the holder may renew the lock.
        if isinstance(holder := json.loads(path.fs.cat_file(path.path)), dict):
            return holder
    return {}


def _held_error(root: StoragePath | Path, holder: dict[str, Any]) -> UsageError:
    known = {"pid", "host", "since"} <= holder.keys()
    who = f"process {holder['pid']} on {holder['host']} (since {holder['since']})" if known else "another process"
    return UsageError(f"{root}: {who} is writing there; wait until it is done, or stop it")
