"""STL, binary or text: a list of triangles, each with corners of its own."""

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
# All of a text file but the numbers after `vertex`; possessive, so that no input makes it go back.
_NON_NUMBERS = re.compile(rb"^[^\S\n]*+(?:vertex\b|(?!vertex\b)[^\n]*+)", re.MULTILINE | re.IGNORECASE)


def parse_stl(source: Source) -> Mesh:
    """Read an STL file; normals and attributes are skipped, and no corners are joined.

    Raises:
        MeshError: it is neither form of STL, is cut off, or holds something that is not a number (text: with its line).
    """
    points = _text_points(source) if _is_text(source) else _binary_points(source)
    return Mesh.build(points, np.arange(len(points), dtype=np.int32).reshape(-1, 3))


def _is_text(source: Source) -> bool:
    """Whether it is a text file: many binary files begin with `solid` as well, but none has `facet` soon after."""
    start = source.slice(0, 1024).lower()
    return start.lstrip().startswith(b"solid") and (b"facet" in start or b"endsolid" in start)


def _binary_points(source: Source) -> NDArray[np.float32]:
    """The corners, [3 F, 3]."""
    start = _HEADER + _COUNT.size
    if source.size < start:
        raise MeshError("is not an STL file: too short for a binary one, and no text")
    (count,) = _COUNT.unpack_from(source.data, _HEADER)
    if count * _TRIANGLE.itemsize > source.size - start:
        raise MeshError(f"promises {count} triangles of 50 bytes, but {source.size - start} bytes follow")
    return np.frombuffer(source.data, _TRIANGLE, count, start)["corners"].reshape(-1, 3)


def _vertex_number_chunks(source: Source) -> Iterator[bytes]:
    """The text with nothing but the numbers of its vertices, a piece of whole lines after another.

    In pieces, because a substitution takes up to fifty times the room of the text.
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
    """The corners, [3 F, 3]."""
    numbers = Source.from_bytes(b"".join(_vertex_number_chunks(source)), source.path)
    values, end = read_numbers(numbers, 0, np.float32)
    if end < numbers.size:
        raise numbers.error_at(end, "a vertex holds something that is not a number")
    if len(values) % 9:
        raise MeshError(f"has {len(values)} coordinates, not nine for each triangle")
    return values.reshape(-1, 3).astype(np.float32)
