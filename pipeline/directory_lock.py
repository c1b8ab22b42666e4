"""A lock on a directory: one process at a time writes what lies there.

The operating system holds it (flock), so a process that dies, however, lets go of it, and nothing has to be cleaned up.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from shards.errors import UsageError

NAME = ".lock"


@contextmanager
def directory_lock(root: Path) -> Iterator[None]:
    """Hold `root`, which is made if need be, for the length of the block; if nothing came into it, it goes again.

    Raises:
        UsageError: another process holds it; the message names that process.
    """
    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    path = root / NAME
    descriptor = _acquire(path)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
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
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UsageError(f"{path.parent}: {holder} is writing there; wait until it is done, or stop it") from None
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        # The holder before removed the file between our opening and our locking it.
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        about = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {about['pid']} on {about['host']} (since {about['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
