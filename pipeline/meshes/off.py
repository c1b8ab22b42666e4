"""OFF as text: counts of vertices and faces, then a line for each vertex, then a line for each polygon."""

import re

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.numbers import read_numbers
from smile_pipe.pipeline.meshes.shapes import colors_to_uint8
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import triangulate

_HEADER = re.compile(rb"(C|N|ST|STN|STC|CN|STCN)?OFF\s+(\d{1,15})\s+(\d{1,15})(\s+\d+)?\s*")

# A line as an object takes fifty bytes; files of very many empty ones would take far more than they are.
_MIN_LINE_BYTES, _MAX_SHORT_LINES = 4, 1 << 20


def parse_off(source: Source) -> Mesh:
    """Read an OFF or COFF file; colours of vertices are kept, those of faces are not, nor normals and uvs of others.

    Raises:
        MeshError: the header or a line is malformed, the file is cut off, or the mesh is empty or inconsistent.
    """
    num_lines = int(np.count_nonzero(source.text[: source.size] == 10))
    if num_lines * _MIN_LINE_BYTES > source.size + _MAX_SHORT_LINES:
        raise MeshError(f"has {num_lines} lines in {source.size} bytes, too little for a point each")
    lines = source.slice(0, source.size).split(b"\n")
    if b"#" in source.slice(0, source.size):
        lines = [line.partition(b"#")[0] for line in lines]
    filled = [i for i, line in enumerate(lines) if line.strip()]
    start = 1 if filled and len(lines[filled[0]].split()) > 1 else 2  # the counts may be in the first line or after it
    header = _HEADER.fullmatch(b" ".join(lines[i].strip() for i in filled[:start]))
    if header is None:
        raise MeshError("is not an OFF file as text; it must begin with OFF and the counts of vertices and faces")
    num_vertices, num_faces = int(header[2]), int(header[3])
    if num_vertices + num_faces > len(filled) - start:
        raise MeshError(f"promises {num_vertices} vertices and {num_faces} faces in {len(filled) - start} lines")
    if not num_vertices or not num_faces:
        raise MeshError(f"has {num_vertices} vertices and {num_faces} faces; a face scan needs both")
    vertices = _numbers(source, lines, filled[start : start + num_vertices])
    if len(vertices) % num_vertices or len(vertices) < 3 * num_vertices:
        raise MeshError(f"has {len(vertices)} numbers for {num_vertices} vertices")
    vertices = vertices.reshape(num_vertices, -1)
    colored = header[1] == b"C" and vertices.shape[1] >= 6
    rows = filled[start + num_vertices : start + num_vertices + num_faces]
    corners = _corners(_numbers(source, lines, rows), [lines[i] for i in rows])
    return Mesh.build(
        vertices[:, :3], triangulate(corners)[0], colors=colors_to_uint8(vertices[:, 3:6]) if colored else None
    )


def _numbers(source: Source, lines: list[bytes], rows: list[int]) -> NDArray[np.floating]:
    """All numbers of some lines, which follow one another but for blank ones."""
    before = b"\n" * rows[0]  # so that an error names the right line
    part = Source.from_bytes(before + b"\n".join(lines[rows[0] : rows[-1] + 1]), source.path)
    numbers, end = read_numbers(part, 0, np.float64)
    if end < part.size:
        raise part.error_at(end, "there is something that is not a number")
    return numbers


def _corners(numbers: NDArray[np.floating], rows: list[bytes]) -> NDArray[np.int32]:
    """The polygons as `triangulate` wants them; a row is a count, as many indices, and perhaps a colour."""
    width = len(numbers) // len(rows)
    table = numbers[: width * len(rows)].reshape(len(rows), width)
    sides = table[0, 0] if width else 0.0
    if table.size == len(numbers) and (table[:, 0] == sides).all() and 3 <= sides < width:
        polygons = table[:, 1 : int(sides) + 1]
        flat = np.append(polygons, np.full((len(rows), 1), -1.0), axis=1).ravel()
    else:
        try:
            words = [[float(word) for word in row.replace(b",", b" ").split()] for row in rows]
        except ValueError as error:  # words that control characters part
            raise MeshError("has a face whose corners are not parted by blanks") from error
        if any(not row or not 0 <= row[0] < len(row) for row in words):
            raise MeshError("has a face with fewer corners than it says")
        flat = np.array([corner for row in words for corner in (*row[1 : int(row[0]) + 1], -1.0)])
    # A -1 that ends no row would end a polygon too early.
    ends = np.count_nonzero(flat == -1.0)
    if not (flat % 1 == 0).all() or flat.min() < -1 or flat.max() >= 2**31 or ends != len(rows):
        raise MeshError("has a vertex index that is no integer from 0 on")
    return flat.astype(np.int32)
