"""A file in memory, padded for the compiled text parser, with errors that give the line."""

import codecs
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.common.content import HEAD_BYTES, UTF_16_MARKS, describe_content
from smile_pipe.pipeline.meshes.buffers import reusable_array
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.paths import MAX_BYTES, open_file
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles

__all__ = ["MAX_BYTES", "PADDING", "Source", "explaining"]

# Two line feeds and NULs follow the last byte. A parser inside a token, a line or a line continuation always reaches a
# byte that stops it. It can load eight bytes from any of the 64 bytes after a position, so inner loops need no bounds
# check.
_SENTINEL = np.frombuffer(b"\n\n" + bytes(72), np.uint8)
PADDING = len(_SENTINEL)
_HEAD = 4096
_UTF_16_WITHOUT_MARK = {
    "utf-16-le": re.compile(rb"(?:[\t\n\r -~]\0){4}"),
    "utf-16-be": re.compile(rb"(?:\0[\t\n\r -~]){4}"),
}
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
        return cls(path, _padded(data), len(data), SidecarFiles.for_mesh(path))

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
            raise MeshError("empty file: 0 bytes")
        text = text[: size + PADDING]
        text[size:] = _SENTINEL
        return cls(path, text, size, sidecars or SidecarFiles.for_mesh(path))

    def as_text(self) -> Self:
        """Return the text as parsers read it: UTF-8 without a byte order mark, and lines that end in a line feed.

        The file may be UTF-16, with or without a mark, and its lines may end in carriage returns alone. Text that is
        not valid UTF-16 is unchanged.
        """
        head = self.slice(0, _HEAD)
        encoding = (
            "utf-16"
            if head.startswith(UTF_16_MARKS)
            else next((name for name, pattern in _UTF_16_WITHOUT_MARK.items() if pattern.match(head)), "")
        )
        text = self.text
        if encoding:
            with suppress(UnicodeDecodeError):
                text = _padded(self.slice(0, self.size).decode(encoding).encode())
        elif head.startswith(codecs.BOM_UTF8):
            text = text[len(codecs.BOM_UTF8) :]
        head = text[: min(_HEAD, len(text) - PADDING)].tobytes()
        if b"\r" in head and b"\n" not in head:
            text = np.where(text == ord("\r"), np.uint8(ord("\n")), text)
        return self if text is self.text else replace(self, text=text, size=len(text) - PADDING)

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


@contextmanager
def explaining(source: Source, suffix: str) -> Iterator[None]:
    """If the block raises a MeshError and the file is not what its suffix says, raise one that says what it is."""
    try:
        yield
    except MeshError as error:
        what = describe_content(source.slice(0, HEAD_BYTES), suffix)
        raise (MeshError(f"is {what}") if what else error) from error


def _padded(data: bytes) -> NDArray[np.uint8]:
    return np.concatenate([np.frombuffer(data, np.uint8), _SENTINEL])


def _fill(descriptor: int, target: NDArray[np.uint8]) -> int:
    """Read into `target` until it is full or the file ends; return the number of bytes read."""
    filled = 0
    while filled < len(target) and (count := os.readv(descriptor, [target[filled:].data])):
        filled += count
    return filled
