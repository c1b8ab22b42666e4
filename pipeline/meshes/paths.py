"""Where a file of a data directory really lies, and what it is: links, pipes and devices are not what they seem."""

import os
import stat
from functools import lru_cache
from io import FileIO
from pathlib import Path

from smile_pipe.pipeline.meshes.mesh import MeshError

MAX_BYTES = 1 << 30
"""The largest file that is read; a face scan is a few megabytes."""


def is_inside(root: Path, path: str) -> bool:
    """Whether `path`, relative to a data directory, is in it once all symbolic links are followed; nothing is opened.

    Raises:
        OSError, RuntimeError, ValueError: it leads nowhere: a ring of links, a name that is too long, a NUL.
    """
    return (root / path).resolve().is_relative_to(_resolved(root))


@lru_cache(maxsize=4)
def _resolved(root: Path) -> Path:
    return root.resolve()


def escapes_root(root: Path, path: str) -> bool:
    """Whether `path` is one of another place than the data directory; a path that leads nowhere is not."""
    try:
        return not is_inside(root, path)
    except (OSError, RuntimeError, ValueError):
        return False


def open_file(path: Path) -> FileIO:
    """Open a file for reading, without waiting for the other end of a pipe; the stream has no buffer.

    Raises:
        MeshError: it is missing, unreadable, not a regular file, or larger than `MAX_BYTES`.
    """
    try:
        file = open(path, "rb", buffering=0, opener=_without_waiting)  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise MeshError(f"cannot be read: {error.strerror}") from error
    status = os.fstat(file.fileno())
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "is empty or not a regular file"
    elif status.st_size > MAX_BYTES:
        problem = f"is {status.st_size} bytes; at most {MAX_BYTES} are read"
    if problem:
        file.close()
        raise MeshError(problem)
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
