"""STL, binary or text: a list of triangles with separate corners."""

import re
import struct
from array import array

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import EXTRA_VALUES, Mesh, MeshError
from smile_pipe.pipeline.meshes.source import Source

_COUNT = struct.Struct("<I")
_HEADER, _DIMENSIONS = 80, 3
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(rb"^[^\S\n]*+vertex\b([^\n]*+)", re.MULTILINE | re.IGNORECASE)  # possessive: no backtracking


def parse_stl(source: Source) -> Mesh:
    """Read an STL file. Normals and attributes are skipped; equal corners are not merged.

    Raises:
        MeshError: the file is not STL, is truncated, or has a coordinate that is not a number (text: with its line).
    """
    text = source.as_text()
    notes: tuple[str, ...] = ()
    if not _is_text(text):
        points: NDArray[np.floating] = _binary_points(source)
    else:
        points, notes = _text_points(text)
    return Mesh.build(points, np.arange(len(points), dtype=np.int32).reshape(-1, 3), notes=notes)


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


def _text_points(source: Source) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the corners, [3 F, 3], and notes."""
    numbers = array("d")
    notes: tuple[str, ...] = ()
    for match in _VERTEX.finditer(source.data):
        words = match[1].replace(b"_", b"?").split(maxsplit=3)  # `float` would accept 1_0
        if len(words) > _DIMENSIONS:
            notes = (EXTRA_VALUES,)
        try:
            numbers.extend(map(float, words[:_DIMENSIONS]))
        except ValueError as error:
            raise source.error_at(match.start(), "expected three numbers in a vertex") from error
    if len(numbers) % 9:
        raise MeshError(f"incomplete triangle: {len(numbers)} coordinates are not a multiple of nine")
    return np.array(numbers).reshape(-1, 3), notes
