"""Safe access to files of a data directory: symbolic links are resolved, pipes and devices are refused."""

import os
import stat
from functools import lru_cache
from io import FileIO
from pathlib import Path

from smile_pipe.pipeline.meshes.mesh import MeshError

MAX_BYTES = 1 << 30
"""Size limit of a file in bytes. A face scan has a few megabytes."""


def is_inside(root: Path, path: str) -> bool:
    """Return whether `path`, relative to a data directory, is inside it after all symbolic links are followed.

    Nothing is opened.

    Raises:
        OSError, RuntimeError, ValueError: the path cannot be resolved: a loop of links, a name that is too long, a NUL.
    """
    return (root / path).resolve().is_relative_to(_resolved(root))


@lru_cache(maxsize=4)
def _resolved(root: Path) -> Path:
    return root.resolve()


def escapes_root(root: Path, path: str) -> bool:
    """Return whether `path`, relative to a data directory, is outside it. False for a path that cannot be resolved."""
    try:
        return not is_inside(root, path)
    except (OSError, RuntimeError, ValueError):
        return False


def open_file(path: Path) -> FileIO:
    """Open a file for reading, unbuffered, without waiting for the other end of a pipe.

    Raises:
        MeshError: the file is missing, unreadable, not a regular file, or larger than `MAX_BYTES`.
    """
    try:
        file = open(path, "rb", buffering=0, opener=_without_waiting)  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise MeshError(f"cannot be read: {error.strerror}") from error
    status = os.fstat(file.fileno())
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "empty or not a regular file"
    elif status.st_size > MAX_BYTES:
        problem = f"file too large: {status.st_size} bytes; the limit is {MAX_BYTES}"
    if problem:
        file.close()
        raise MeshError(problem)
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
