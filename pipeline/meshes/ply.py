"""PLY, text or binary: vertices, polygons, vertex colours, and texture coordinates of vertices or of corners.

Text is converted to binary data of float64 first, so that one reader handles both.
"""

from array import array
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.common.content import HEAD_BYTES
from smile_pipe.pipeline.meshes.mesh import EXTRA_VALUES, FEW_CORNERS, Mesh, MeshError
from smile_pipe.pipeline.meshes.numbers import read_numbers
from smile_pipe.pipeline.meshes.ply_header import MAGIC, Element, Header, Property, read_header
from smile_pipe.pipeline.meshes.shapes import colors_to_uint8
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import triangulate

_POLYGONS = ("vertex_indices", "vertex_index")
_COLORS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
_UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
_FLOAT = np.dtype("<f8")
# The types of nearly all files. Every other type would need another compilation.
_COMPILED_DTYPES = (np.dtype("<f4"), np.dtype("<i4"))
_TRIANGLE = 3
_MIN_COMPILED_ROWS = 1000  # from this number of rows on, compiled code is faster


@dataclass(frozen=True, eq=False)
class Column:
    """The values of one property.

    Attributes:
        values: [N], the values of all rows, concatenated.
        counts: int64 [R], number of values of each row.
        dtype: type declared in the header; the type of `values` unless the file is text.
    """

    values: NDArray[np.generic]
    counts: NDArray[np.int64]
    dtype: np.dtype


def parse_ply(source: Source) -> Mesh:
    """Read a PLY file.

    These properties are read: x y z, red green blue, s t (or u v, or texture_u texture_v), vertex_indices (or
    vertex_index), and the list texcoord of a face with two numbers per corner. All others are skipped, whatever their
    type.

    Raises:
        MeshError: the header or the data are malformed, or the mesh is empty or inconsistent.
    """
    if not MAGIC.match(source.slice(0, HEAD_BYTES)):
        source = source.as_text()
    header = read_header(source)
    body, notes = _read_body(source, header) if header.order else _read_text_body(source.as_text(), header)
    vertex, face = body.get("vertex", {}), body.get("face", {})
    points = _combine_columns(vertex, ("x", "y", "z"))
    if points is None:
        raise MeshError("missing element: `vertex` with properties x y z")
    polygons = next((face[name] for name in _POLYGONS if name in face), None)
    if polygons is None:
        raise MeshError("missing element: `face` with a list vertex_indices")
    indices = _check_indices(polygons.values, len(points))
    if ((polygons.counts == 1) | (polygons.counts == 2)).any():
        notes += (FEW_CORNERS,)
    corner_uvs = face.get("texcoord")
    vertex_uvs = next((uvs for names in _UVS if (uvs := _combine_columns(vertex, names)) is not None), None)
    if corner_uvs is not None and np.array_equal(corner_uvs.counts, 2 * polygons.counts):
        faces, face_uvs = _triangles(polygons.counts, indices, np.arange(len(indices), dtype=np.int32))
        flat: NDArray = corner_uvs.values.reshape(-1, 2)
        return Mesh.build(points, faces, flat, face_uvs, _colors(vertex), header.texture_name, notes)
    faces = _triangles(polygons.counts, indices)[0]
    return Mesh.build(points, faces, vertex_uvs, faces, _colors(vertex), header.texture_name, notes)


def _combine_columns(columns: dict[str, Column], names: tuple[str, ...]) -> NDArray | None:
    """Return columns with one value per row as one array [R, K], or None unless all exist."""
    if not all(name in columns and len(columns[name].values) == len(columns[name].counts) for name in names):
        return None
    return _interleave(tuple(columns[name].values for name in names))


def _colors(vertex: dict[str, Column]) -> NDArray[np.uint8] | None:
    for names in _COLORS:
        colors = _combine_columns(vertex, names)
        if colors is not None:
            return colors_to_uint8(colors, vertex[names[0]].dtype)
    return None


def _check_indices(indices: NDArray, num_vertices: int) -> NDArray[np.int32]:
    """Return vertex indices as int32 after checking that they are integers in range."""
    if indices.dtype.kind == "f" and not (indices % 1 == 0).all():
        raise MeshError("invalid vertex index: not an integer")
    if len(indices) and not 0 <= indices.min() <= indices.max() < num_vertices:
        raise MeshError(
            f"index out of range: faces use {indices.min()} to {indices.max()}, but there are {num_vertices} vertices"
        )
    return indices.astype(np.int32, copy=False)


def _triangles(counts: NDArray[np.int64], *values: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Split polygons of `counts` corners into triangles.

    Returns:
        [F, 3] for each array of `values`, which has one value per corner.
    """
    if (counts == 3).all():
        return [v.reshape(-1, 3) for v in values]
    ends = np.cumsum(counts)
    return triangulate(*(np.insert(v, ends, -1) for v in values))


_Body: TypeAlias = dict[str, dict[str, Column]]
"""All elements: element name -> property name -> column."""


def _read_body(source: Source, header: Header) -> tuple[_Body, tuple[str, ...]]:
    """Read the elements of a binary file; return them and no notes.

    Memory is allocated for what the file holds, not for what the header declares.

    Raises:
        MeshError: the data are truncated.
    """
    return _read_elements(source.text[: source.size], header.size, header)[0], ()


def _read_text_body(source: Source, header: Header) -> tuple[_Body, tuple[str, ...]]:
    """Read the elements of a text file; return them and notes.

    Numbers are read one after the other, whatever their lines. If they do not end with the last element, rows may have
    more values than the header declares; each is then shortened.

    Raises:
        MeshError: the data are truncated, or hold something that is not a number.
    """
    numbers, end = read_numbers(source, header.size, np.float64)
    if end < source.size:
        raise source.error_at(end, "expected a number")
    try:
        body, pos = _read_elements(numbers.view(np.uint8), 0, header)
        if pos == numbers.nbytes:
            return body, ()
        error: MeshError | None = None
    except MeshError as problem:
        body, error = {}, problem
    shortened = _shorten_rows(source, header)
    if shortened is not None:
        return _read_elements(shortened.view(np.uint8), 0, header)[0], (EXTRA_VALUES,)
    if error is not None:
        raise error
    return body, ()


def _shorten_rows(source: Source, header: Header) -> NDArray[np.float64] | None:
    """Return the numbers that the header declares for each line, or None if lines are not rows."""
    numbers = array("d")
    with BytesIO(source.data[header.size :]) as lines:  # one line at a time: a list of all would take far more memory
        rows = (row for line in lines if (row := line.partition(b"#")[0].replace(b",", b" ").split()))
        for element in header.elements:
            for row in islice(rows, element.count):
                width = 0
                for p in element.properties:
                    count = float(row[width]) if p.count_dtype and width < len(row) else 0.0
                    if not 0 <= count <= len(row):  # also if it is not a number
                        return None
                    width += 1 + int(count)
                if len(row) < width:
                    return None
                numbers.extend(map(float, row[:width]))
        return np.frombuffer(numbers) if len(numbers) and next(rows, None) is None else None


def _read_elements(data: NDArray[np.uint8], pos: int, header: Header) -> tuple[_Body, int]:
    """Read the elements from byte `pos`; return them and the byte after them."""
    body: _Body = {}
    for element in header.elements:
        stored = element.properties
        if not header.order:
            stored = [Property(p.name, _FLOAT, p.count_dtype and _FLOAT) for p in stored]
        columns, pos = _read_element(data, pos, element, stored)
        body[element.name] = {
            p.name: Column(c.values, c.counts, p.dtype) for p, c in zip(element.properties, columns, strict=True)
        }
    return body, pos


def _read_element(
    data: NDArray[np.uint8], pos: int, element: Element, properties: list[Property]
) -> tuple[list[Column], int]:
    """Read the rows of an element from byte `pos`; return its columns and the byte after it."""
    smallest = sum((p.count_dtype or p.dtype).itemsize for p in properties)
    if element.count * smallest > len(data) - pos:
        raise MeshError(f"truncated data: the header declares {element.count} rows of {element.name}")
    if element.count == 0 or not properties:
        return [Column(np.empty(0, p.dtype), np.zeros(0, np.int64), p.dtype) for p in properties], pos
    lengths = _first_lengths(data, pos, properties)
    fields: list[tuple] = []
    for i, (p, length) in enumerate(zip(properties, lengths, strict=True)):
        if p.count_dtype is not None:
            fields.append((f"count{i}", p.count_dtype))
        fields.append((f"value{i}", p.dtype, (length,)))
    row = np.dtype(fields)
    if element.count * row.itemsize > len(data) - pos:
        return _read_ragged_rows(data, pos, element, properties)
    rows = np.frombuffer(data, row, element.count, pos)
    if not all((rows[f"count{i}"] == lengths[i]).all() for i, p in enumerate(properties) if p.count_dtype):
        return _read_ragged_rows(data, pos, element, properties)
    counts = {length: np.broadcast_to(np.int64(length), element.count) for length in set(lengths)}
    values = [
        _interleave(tuple(rows[f"value{i}"].T)).reshape(-1) if length == _TRIANGLE else rows[f"value{i}"].reshape(-1)
        for i, length in enumerate(lengths)
    ]
    columns = [Column(v, counts[length], p.dtype) for v, length, p in zip(values, lengths, properties, strict=True)]
    return columns, pos + rows.nbytes


def _interleave(columns: tuple[NDArray, ...]) -> NDArray:
    """Combine columns [R] of one type into one array [R, K]."""
    if (
        len(columns[0]) >= _MIN_COMPILED_ROWS
        and columns[0].dtype in _COMPILED_DTYPES
        and len({column.dtype for column in columns}) == 1
    ):
        return _interleave_compiled(columns)
    return np.stack(columns, axis=1)


@njit(cache=True, nogil=True)
def _interleave_compiled(columns: tuple[NDArray, ...]) -> NDArray:
    """Combine columns eight times as fast as NumPy where they are not aligned, as in most files."""
    out = np.empty((len(columns[0]), len(columns)), columns[0].dtype)
    for row in range(len(out)):
        for i in range(len(columns)):
            out[row, i] = columns[i][row]
    return out


def _first_lengths(data: NDArray[np.uint8], pos: int, properties: list[Property]) -> list[int]:
    """Number of values of each property in the row at byte `pos`, limited to what the file can hold."""
    lengths = []
    for p in properties:
        length = 1
        if p.count_dtype is not None:
            stored = data[pos : pos + p.count_dtype.itemsize].tobytes().ljust(p.count_dtype.itemsize, b"\0")
            count = np.frombuffer(stored, p.count_dtype)[0]
            length = int(count) if 0 <= count <= len(data) // p.dtype.itemsize else 0
            pos += p.count_dtype.itemsize
        lengths.append(length)
        pos += length * p.dtype.itemsize
    return lengths


def _read_ragged_rows(
    data: NDArray[np.uint8], pos: int, element: Element, properties: list[Property]
) -> tuple[list[Column], int]:
    """Read rows whose lists differ in length."""
    sizes = np.array([[p.count_dtype.itemsize if p.count_dtype else 0, p.dtype.itemsize] for p in properties])
    kinds = [p.count_dtype.kind if p.count_dtype else "" for p in properties]
    signs = np.array([ord(kind) if kind else 0 for kind in kinds])
    big = any((p.count_dtype or p.dtype).byteorder == ">" for p in properties)
    columns = []
    end = pos
    for property_index, p in enumerate(properties):
        counts = np.empty(element.count, np.int64)
        out = np.empty(len(data) - pos, np.uint8)
        end, filled = _copy_property(data, pos, sizes, signs, big, property_index, counts, out)
        if end < 0:
            raise MeshError(f"truncated data: the file ends within row {filled} of {element.name}")
        columns.append(Column(out[:filled].copy().view(p.dtype), counts, p.dtype))
    return columns, end


@njit(cache=True, nogil=True)
def _copy_property(
    data: NDArray[np.uint8],
    pos: int,
    sizes: NDArray[np.int64],
    kinds: NDArray[np.int64],
    big: bool,
    property_index: int,
    counts: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> tuple[int, int]:
    """Copy one property of every row into `out`.

    Args:
        data: the file.
        pos: first byte of the rows.
        sizes: [P, 2], bytes of the list count (0: not a list) and of a value, by property.
        kinds: [P], kind of the list count: b"i", b"u" or b"f".
        big: whether the data are big-endian.
        property_index: the property to copy.
        counts: [R], set to the number of values in each row.
        out: as long as the rest of the file.

    Returns:
        The byte after the rows and the number of bytes copied; or -1 and the row that is truncated.
    """
    filled = 0
    for row in range(len(counts)):
        for p in range(len(sizes)):
            width, size = sizes[p]
            count = 1
            if width:
                if pos + width > len(data):
                    return -1, row
                count = _list_count(data, pos, width, kinds[p], big)
                pos += width
            if count < 0 or count * size > len(data) - pos:
                return -1, row
            if p == property_index:
                counts[row] = count
                out[filled : filled + count * size] = data[pos : pos + count * size]
                filled += count * size
            pos += count * size
    return pos, filled


@njit(cache=True, nogil=True)
def _list_count(data: NDArray[np.uint8], pos: int, width: int, kind: int, big: bool) -> int:
    """Read the count of a list, stored in `width` bytes from `pos`; -1 if it is invalid."""
    if kind == 102:  # b"f"
        real = data[pos : pos + 8].view(np.float64)[0]
        return int(real) if 0.0 <= real < 2.0**31 and real == np.floor(real) else -1
    value = 0
    for i in range(width):
        value |= int(data[pos + (width - 1 - i if big else i)]) << (8 * i)
    return -1 if kind == 105 and value >> (8 * width - 1) else value  # b"i": negative
