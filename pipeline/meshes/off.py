"""OFF as text: counts of vertices and faces, then one line per vertex, then one line per polygon."""

import re

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import EXTRA_VALUES, FEW_CORNERS, Mesh, MeshError
from smile_pipe.pipeline.meshes.numbers import read_numbers
from smile_pipe.pipeline.meshes.shapes import colors_to_uint8
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import has_short_polygons, triangulate

_HEADER = re.compile(rb"(C|N|ST|STN|STC|CN|STCN)?OFF\s+(\d{1,15})\s+(\d{1,15})(\s+\d+)?\s*")

# A line takes fifty bytes as a Python object; a file of many empty lines would need far more memory than its size.
_MIN_LINE_BYTES, _MAX_SHORT_LINES = 4, 1 << 20


def parse_off(source: Source) -> Mesh:
    """Read an OFF or COFF file. Vertex colours are kept; face colours, normals and texture coordinates are skipped.

    Raises:
        MeshError: the header or a line is malformed, the file is truncated, or the mesh is empty or inconsistent.
    """
    source = source.as_text()
    num_lines = int(np.count_nonzero(source.text[: source.size] == 10))
    if num_lines * _MIN_LINE_BYTES > source.size + _MAX_SHORT_LINES:
        raise MeshError(f"too many short lines: {num_lines} lines in {source.size} bytes")
    content = source.slice(0, source.size)
    lines = content.split(b"\n")
    if b"#" in content:
        lines = [line.partition(b"#")[0] for line in lines]
    for number, line in enumerate(lines if b"," in content else (), 1):
        if b"," in line:
            # A decimal comma; as a separator it would give another geometry.
            raise MeshError(f"comma in line {number}: numbers need decimal points, and blanks between them")
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
    vertices, notes = _vertices(source, lines, filled[start : start + num_vertices])
    colored = header[1] == b"C" and vertices.shape[1] >= 6
    rows = filled[start + num_vertices : start + num_vertices + num_faces]
    corners = _corners(_numbers(source, lines, rows), [lines[i] for i in rows])
    notes += (FEW_CORNERS,) if has_short_polygons(corners) else ()
    colors = colors_to_uint8(vertices[:, 3:6]) if colored else None
    return Mesh.build(vertices[:, :3], triangulate(corners)[0], colors=colors, notes=notes)


def _vertices(source: Source, lines: list[bytes], rows: list[int]) -> tuple[NDArray[np.floating], tuple[str, ...]]:
    """Read as many numbers of each line as all lines have, [V, 3 or more]; return them and notes."""
    numbers, width = _numbers(source, lines, rows), len(lines[rows[0]].split())
    if len(numbers) == len(rows) * width and width >= 3:
        return numbers.reshape(len(rows), width), ()
    counts = [len(lines[i].split()) for i in rows]
    width = min(counts)
    if width < 3:
        raise MeshError(f"line {rows[counts.index(width)] + 1}: a vertex needs three numbers")
    shortened = [b" ".join(line.split()[:width]) for line in lines]
    return _numbers(source, shortened, rows).reshape(len(rows), width), (EXTRA_VALUES,)


def _numbers(source: Source, lines: list[bytes], rows: list[int]) -> NDArray[np.floating]:
    """Read all numbers of consecutive lines; there may be blank lines between them."""
    before = b"\n" * rows[0]  # keeps line numbers of errors correct
    part = Source.from_bytes(before + b"\n".join(lines[rows[0] : rows[-1] + 1]), source.path)
    numbers, end = read_numbers(part, 0, np.float64)
    if end < part.size:
        raise part.error_at(end, "expected a number")
    return numbers


def _corners(numbers: NDArray[np.floating], rows: list[bytes]) -> NDArray[np.int32]:
    """Build polygons as input of `triangulate`. A row is a count, as many indices, and optionally a colour."""
    width = len(numbers) // len(rows)
    table = numbers[: width * len(rows)].reshape(len(rows), width)
    sides = table[0, 0] if width else 0.0
    if table.size == len(numbers) and (table[:, 0] == sides).all() and 3 <= sides < width:
        polygons = table[:, 1 : int(sides) + 1]
        flat = np.append(polygons, np.full((len(rows), 1), -1.0), axis=1).ravel()
    else:
        try:
            words = [[float(word) for word in row.split()] for row in rows]
        except ValueError as error:  # words separated by control characters
            raise MeshError("malformed face: corners must be separated by blanks") from error
        if any(not row or not 0 <= row[0] < len(row) for row in words):
            raise MeshError("malformed face: fewer corners than declared")
        flat = np.array([corner for row in words for corner in (*row[1 : int(row[0]) + 1], -1.0)])
    # A -1 within a row would end its polygon too early.
    ends = np.count_nonzero(flat == -1.0)
    if not (flat % 1 == 0).all() or flat.min() < -1 or flat.max() >= 2**31 or ends != len(rows):
        raise MeshError("invalid vertex index: not an integer of at least 0")
    return flat.astype(np.int32)
