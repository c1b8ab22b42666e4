"""A file in memory, padded for the compiled text parser, with errors that give the line."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.buffers import reusable_array
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.paths import MAX_BYTES, open_file
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles

__all__ = ["MAX_BYTES", "PADDING", "Source"]

# Two line feeds and NULs follow the last byte. A parser inside a token, a line or a line continuation always reaches a
# byte that stops it. It can load eight bytes from any of the 64 bytes after a position, so inner loops need no bounds
# check.
_SENTINEL = np.frombuffer(b"\n\n" + bytes(72), np.uint8)
PADDING = len(_SENTINEL)
"""Number of bytes after the file's own bytes in `Source.text`."""


@dataclass(frozen=True, eq=False)
class Source:
    """The bytes of one file.

    Attributes:
        path: path of the file.
        text: uint8 [size + PADDING], the bytes, then two line feeds, then NUL bytes.
        size: number of bytes in the file.
        sidecars: other files that this file may refer to.
    """

    path: Path
    text: NDArray[np.uint8]
    size: int
    sidecars: SidecarFiles

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> Self:
        """Wrap `data`. `path` is used to find sidecar files."""
        text = np.concatenate([np.frombuffer(data, np.uint8), _SENTINEL])
        return cls(path, text, len(data), SidecarFiles.for_mesh(path))

    @classmethod
    def read(cls, path: Path, sidecars: SidecarFiles | None = None) -> Self:
        """Read a whole file.

        Args:
            path: the file.
            sidecars: files that it may refer to; by default those in its own folder.

        Raises:
            MeshError: the file is missing, unreadable, not a regular file, empty, or larger than `MAX_BYTES`.
        """
        try:
            with open_file(path) as file:
                length = os.fstat(file.fileno()).st_size
                text = reusable_array(length + PADDING, np.uint8)
                size = _fill(file.fileno(), text[:length])
        except OSError as error:
            raise MeshError(f"cannot be read: {error.strerror}") from error
        if size == 0:
            raise MeshError("empty or not a regular file")
        text = text[: size + PADDING]
        text[size:] = _SENTINEL
        return cls(path, text, size, sidecars or SidecarFiles.for_mesh(path))

    @property
    def data(self) -> memoryview:
        """The bytes of the file, not copied."""
        return self.text[: self.size].data

    def error_at(self, pos: int, problem: str) -> MeshError:
        """Build an error with the line number of byte `pos`. Lines count from 1."""
        line = 1 + int(np.count_nonzero(self.text[: min(pos, self.size)] == 10))
        return MeshError(f"line {line}: {problem}")

    def slice(self, start: int, stop: int) -> bytes:
        """Copy the bytes from `start` to `stop`, or to the end of the file if that is earlier."""
        return self.text[start : min(stop, self.size)].tobytes()

    def line(self, pos: int, limit: int = 4096) -> bytes:
        """Copy from byte `pos` to the end of its line, at most `limit` bytes."""
        return self.slice(pos, pos + limit).split(b"\n", 1)[0]


def _fill(descriptor: int, target: NDArray[np.uint8]) -> int:
    """Read into `target` until it is full or the file ends; return the number of bytes read."""
    filled = 0
    while filled < len(target) and (count := os.readv(descriptor, [target[filled:].data])):
        filled += count
    return filled
