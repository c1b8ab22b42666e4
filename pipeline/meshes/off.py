"""OFF as text: counts of vertices and faces, then one line per vertex, then one line per polygon."""

import re

import numpy as np

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.shapes import colors_to_uint8
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import triangulate

_HEADER = re.compile(rb"(C|N|ST|STN|STC|CN|STCN)?OFF\s+(\d{1,15})\s+(\d{1,15})(\s+\d+)?\s*")

_SEPARATORS = bytes.maketrans(b",_", b" ?")  # Python's `float` would accept 1_0

# A line takes fifty bytes as a Python object; a file of many empty lines would need far more memory than its size.
_MIN_LINE_BYTES, _MAX_SHORT_LINES = 4, 1 << 20


def parse_off(source: Source) -> Mesh:
    """Read an OFF or COFF file. Vertex colours are kept; face colours, normals and texture coordinates are skipped.

    Raises:
        MeshError: the header or a line is malformed, the file is truncated, or the mesh is empty or inconsistent.
    """
    num_lines = int(np.count_nonzero(source.text[: source.size] == 10))
    if num_lines * _MIN_LINE_BYTES > source.size + _MAX_SHORT_LINES:
        raise MeshError(f"too many short lines: {num_lines} lines in {source.size} bytes")
    data = source.slice(0, source.size).translate(_SEPARATORS)
    lines = [line.partition(b"#")[0] for line in data.split(b"\n")]
    filled = [i for i, line in enumerate(lines) if line.strip()]
    start = 1 if filled and len(lines[filled[0]].split()) > 1 else 2  # the counts may be in the first line or after it
    header = _HEADER.fullmatch(b" ".join(lines[i].strip() for i in filled[:start]))
    if header is None:
        raise MeshError("not an OFF text file: it must start with OFF and the counts of vertices and faces")
    num_vertices, num_faces = int(header[2]), int(header[3])
    if num_vertices + num_faces > len(filled) - start:
        raise MeshError(f"truncated data: {num_vertices} vertices and {num_faces} faces in {len(filled) - start} lines")
    if not num_vertices or not num_faces:
        raise MeshError(f"empty mesh: {num_vertices} vertices, {num_faces} faces; a face scan needs both")
    rows, corners = list[list[float]](), list[int]()
    for i in filled[start : start + num_vertices + num_faces]:
        try:
            if len(rows) < num_vertices:
                rows.append([float(word) for word in lines[i].split()])
            else:
                corners += _read_polygon(lines[i].split(), num_vertices)
        except ValueError as error:
            problem = error if isinstance(error, MeshError) else "expected a number"
            raise MeshError(f"line {i + 1}: {problem}") from error
    if len({len(row) for row in rows}) != 1 or len(rows[0]) < 3:
        raise MeshError("unequal lines: every vertex must have the same count of numbers, at least three")
    vertices = np.array(rows)
    colors = colors_to_uint8(vertices[:, 3:6]) if header[1] == b"C" and vertices.shape[1] >= 6 else None
    return Mesh.build(vertices[:, :3], triangulate(np.array(corners, np.int32))[0], colors=colors)


def _read_polygon(words: list[bytes], num_vertices: int) -> list[int]:
    """Read a count, as many vertex indices, and optionally a colour; return the indices and -1 as the end."""
    corners = [int(word) for word in words[1 : int(words[0]) + 1]]
    if len(corners) != int(words[0]):
        raise MeshError("malformed face: fewer corners than declared")
    if not 0 <= min(corners, default=0) <= max(corners, default=0) < num_vertices:
        raise MeshError(f"index out of range: a face uses a vertex that is not one of the {num_vertices}")
    return [*corners, -1]
