"""STL, binary or text: a list of triangles with separate corners."""

import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.numbers import read_numbers
from smile_pipe.pipeline.meshes.source import Source

_COUNT = struct.Struct("<I")
_HEADER = 80
_CHUNK_BYTES = 1 << 16
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
# Everything in a text file except the numbers after `vertex`. Possessive: no input causes backtracking.
_NON_NUMBERS = re.compile(rb"^[^\S\n]*+(?:vertex\b|(?!vertex\b)[^\n]*+)", re.MULTILINE | re.IGNORECASE)


def parse_stl(source: Source) -> Mesh:
    """Read an STL file. Normals and attributes are skipped; equal corners are not merged.

    Raises:
        MeshError: the file is not STL, is truncated, or has a coordinate that is not a number (text: with its line).
    """
    points = _text_points(source) if _is_text(source) else _binary_points(source)
    return Mesh.build(points, np.arange(len(points), dtype=np.int32).reshape(-1, 3))


def _is_text(source: Source) -> bool:
    """Return whether the file is text. Many binary files start with `solid` too, but none has `facet` soon after it."""
    start = source.slice(0, 1024).lower()
    return start.lstrip().startswith(b"solid") and (b"facet" in start or b"endsolid" in start)


def _binary_points(source: Source) -> NDArray[np.float32]:
    """Corners, [3 F, 3]."""
    start = _HEADER + _COUNT.size
    if source.size < start:
        raise MeshError("not an STL file: not text, and too short for the binary form")
    (count,) = _COUNT.unpack_from(source.data, _HEADER)
    if count * _TRIANGLE.itemsize > source.size - start:
        raise MeshError(
            f"truncated data: the header declares {count} triangles of 50 bytes, {source.size - start} bytes follow"
        )
    return np.frombuffer(source.data, _TRIANGLE, count, start)["corners"].reshape(-1, 3)


def _vertex_number_chunks(source: Source) -> Iterator[bytes]:
    """Yield the text in chunks of whole lines, with everything removed except the numbers of vertices.

    A substitution takes up to fifty times the memory of its text; chunks bound it.
    """
    pos, length = 0, _CHUNK_BYTES
    while pos < source.size:
        chunk = source.slice(pos, pos + length)
        end = len(chunk) if pos + length >= source.size else chunk.rfind(b"\n") + 1
        if end == 0:
            length *= 2
            continue
        yield _NON_NUMBERS.sub(b"", chunk[:end])
        pos += end


def _text_points(source: Source) -> NDArray[np.float32]:
    """Corners, [3 F, 3]."""
    numbers = Source.from_bytes(b"".join(_vertex_number_chunks(source)), source.path)
    values, end = read_numbers(numbers, 0, np.float32)
    if end < numbers.size:
        raise numbers.error_at(end, "expected a number in a vertex")
    if len(values) % 9:
        raise MeshError(f"incomplete triangle: {len(values)} coordinates are not a multiple of nine")
    return values.reshape(-1, 3).astype(np.float32)
