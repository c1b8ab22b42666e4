"""A lock on a directory: one process at a time writes what lies there.

On a disk the operating system holds it (flock), so a process that dies, however, lets go of it, and nothing has to be
cleaned up. Elsewhere it is an object that is made only if it is not there; its holder keeps renewing the time in it,
and one that no longer does is taken to be dead.
"""

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

NAME = ".lock"
RENEWED_EVERY = 30.0
"""Seconds between two signs of life in an object store."""
STALE_AFTER = 300.0
"""Seconds without one after which a holder counts as dead; clocks of machines may differ by less than this."""

LONGEST_WAIT = 2 * STALE_AFTER
"""Seconds after which a holder that died counts as dead by any machine's clock."""
LOOK_EVERY = 1.0
"""Seconds between two looks at a lock that is waited for."""

SETTLED_AFTER = 1.0
"""Seconds after which two that take over the same lock see which of them has it."""

# Of the locks that this process holds: one that it could not remove, since the storage failed, is no longer among them.
_tokens: set[str] = set()


@contextmanager
def directory_lock(root: PathLike) -> Iterator[None]:
    """Hold `root`, which is made if need be, for the length of the block; if nothing came into it, it goes again.

    Raises:
        UsageError: another process holds it, and the message names that process; or nothing can be written there.
    """
    root = StoragePath(root)
    with _file_lock(root.local) if root.is_local else _object_lock(root):
        yield


def wait_while_held(root: PathLike) -> None:
    """Wait until nobody holds `root` who may be alive, for `LONGEST_WAIT` at most: so long a dead process may seem so.

    On a disk nothing is waited for: the operating system lets go of what a dead process held.
    """
    root, end = StoragePath(root), time.monotonic() + LONGEST_WAIT
    while not root.is_local and not _is_dead(_read(root / NAME)) and time.monotonic() < end:
        time.sleep(LOOK_EVERY)


@contextmanager
def _file_lock(root: Path) -> Iterator[None]:
    is_new = not root.exists()
    path = root / NAME
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as error:
        raise UsageError(f"{root}: cannot be written ({error.strerror}); name another directory") from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_me()).encode())
        yield
    finally:
        # Removed while it is held: whoever opened it before sees afterwards that it is no longer the file of that name.
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if is_new:
            with suppress(OSError):
                root.rmdir()


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _parsed(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise _held(path.parent, holder) from None
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        # The holder before removed the file between our opening and our locking it.
        os.close(descriptor)


@contextmanager
def _object_lock(root: StoragePath) -> Iterator[None]:
    path, me = root / NAME, _me() | {"token": secrets.token_hex(8)}
    try:
        _claim(path, me)
    except UsageError:
        raise
    except Exception as error:  # storages raise what they like
        raise UsageError(f"{root}: cannot be written ({error}); does it exist, and may you write to it?") from None
    _tokens.add(me["token"])
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, me, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _tokens.discard(me["token"])
        # A storage that fails now takes nothing from what was done, and the lock counts as let go of.
        with suppress(Exception):
            if _read(path).get("token") == me["token"]:
                path.unlink()


def _claim(path: StoragePath, me: dict[str, Any]) -> None:
    """Make the lock, or take over that of a dead process."""
    if _is_made(path, me):
        return
    holder = _read(path)
    if holder and not _is_dead(holder):
        raise _held(path.parent, holder)
    with suppress(FileNotFoundError):
        path.unlink()
    # Another process may have found the same, a moment later, and have removed what we made since.
    is_mine = _is_made(path, me)
    time.sleep(SETTLED_AFTER)
    if not is_mine or _read(path).get("token") != me["token"]:
        raise _held(path.parent, _read(path))


def _is_made(path: StoragePath, me: dict[str, Any]) -> bool:
    """Make the lock if there is none; whether it is ours now."""
    try:
        path.create(_renewed(me))
        return True
    except FileExistsError:
        # Ours, where the first attempt made it and only the answer was lost.
        return _read(path).get("token") == me["token"]


def _renew(path: StoragePath, me: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(RENEWED_EVERY):
        # A storage that fails for a while, with whatever error, is no reason to stop: the lock is good for longer.
        with suppress(Exception):
            path.write_bytes(_renewed(me))


def _renewed(me: dict[str, Any]) -> bytes:
    return json.dumps(me | {"renewed": time.time()}).encode()


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a holder counts as dead; one that is not there does, too."""
    renewed = holder.get("renewed", 0.0)
    if not isinstance(renewed, int | float) or time.time() - renewed > STALE_AFTER:
        return True
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("pid") == os.getpid():
        return holder.get("token") not in _tokens
    try:
        os.kill(int(holder["pid"]), 0)
    except (KeyError, ValueError, TypeError, ProcessLookupError):
        return True
    except PermissionError:
        pass
    return False


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}


def _read(path: StoragePath) -> dict[str, Any]:
    try:
        # In one request: between two the holder may renew it.
        return _parsed(path.fs.cat_file(path.path))
    except FileNotFoundError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(about := json.loads(content), dict):
            return about
    return {}


def _held(root: StoragePath, holder: dict[str, Any]) -> UsageError:
    known = {"pid", "host", "since"} <= holder.keys()
    who = f"process {holder['pid']} on {holder['host']} (since {holder['since']})" if known else "another process"
    return UsageError(f"{root}: {who} is writing there; wait until it is done, or stop it")
