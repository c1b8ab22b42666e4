"""The data of a PLY file: rows of one element after another, as columns.

Text is turned into a binary file of float64 first, so that there is one way to read both.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.numbers import read_numbers
from smile_pipe.pipeline.meshes.ply_header import Element, Header, Property
from smile_pipe.pipeline.meshes.source import Source

_FLOAT = np.dtype("<f8")
_COMMON = (np.dtype("<f4"), np.dtype("<i4"))  # what nearly all files have; each type more is compiled once more
_TRIANGLE = 3
_MANY = 1000  # rows for which calling compiled code pays


@dataclass(frozen=True, eq=False)
class Column:
    """The values of one property.

    Attributes:
        values: [N], all rows' values one after another.
        counts: int64 [R], how many each row has.
        dtype: the type that the header declares; that of `values`, unless the file is text.
    """

    values: NDArray[np.generic]
    counts: NDArray[np.int64]
    dtype: np.dtype


def read_body(source: Source, header: Header) -> dict[str, dict[str, Column]]:
    """Read all elements: element name -> property name -> column.

    Memory is allocated for what the file holds, not for what its header promises.

    Raises:
        MeshError: the data end before what the header promises, or text holds something that is not a number.
    """
    data, at = source.text[: source.size], header.size
    if not header.order:
        numbers, end = read_numbers(source, at, np.float64)
        if end < source.size:
            raise source.error(end, "the data hold something that is not a number")
        data, at = numbers.view(np.uint8), 0
    body: dict[str, dict[str, Column]] = {}
    for element in header.elements:
        stored = element.properties
        if not header.order:
            stored = [Property(p.name, _FLOAT, p.count_dtype and _FLOAT) for p in stored]
        columns, at = _read_element(data, at, element, stored)
        body[element.name] = {
            p.name: Column(c.values, c.counts, p.dtype) for p, c in zip(element.properties, columns, strict=True)
        }
    return body


def _read_element(
    data: NDArray[np.uint8], at: int, element: Element, properties: list[Property]
) -> tuple[list[Column], int]:
    """Read the rows of an element from byte `at`; its columns, and the byte after it."""
    smallest = sum((p.count_dtype or p.dtype).itemsize for p in properties)
    if element.count * smallest > len(data) - at:
        raise MeshError(f"promises {element.count} rows of {element.name}, more than the file has room for")
    if element.count == 0 or not properties:
        return [Column(np.empty(0, p.dtype), np.zeros(0, np.int64), p.dtype) for p in properties], at
    lengths = _first_lengths(data, at, properties)
    fields: list[tuple] = []
    for i, (p, length) in enumerate(zip(properties, lengths, strict=True)):
        if p.count_dtype is not None:
            fields.append((f"count{i}", p.count_dtype))
        fields.append((f"value{i}", p.dtype, (length,)))
    row = np.dtype(fields)
    if element.count * row.itemsize > len(data) - at:
        return _walk_rows(data, at, element, properties)
    rows = np.frombuffer(data, row, element.count, at)
    if not all((rows[f"count{i}"] == lengths[i]).all() for i, p in enumerate(properties) if p.count_dtype):
        return _walk_rows(data, at, element, properties)
    counts = {length: np.broadcast_to(np.int64(length), element.count) for length in set(lengths)}
    values = [
        stacked(tuple(rows[f"value{i}"].T)).reshape(-1) if length == _TRIANGLE else rows[f"value{i}"].reshape(-1)
        for i, length in enumerate(lengths)
    ]
    columns = [Column(v, counts[length], p.dtype) for v, length, p in zip(values, lengths, properties, strict=True)]
    return columns, at + rows.nbytes


def stacked(columns: tuple[NDArray, ...]) -> NDArray:
    """Columns [R] of one type as one array [R, K]."""
    if len(columns[0]) >= _MANY and columns[0].dtype in _COMMON and len({column.dtype for column in columns}) == 1:
        return _interleaved(columns)
    return np.stack(columns, axis=1)


@njit(cache=True, nogil=True)
def _interleaved(columns: tuple[NDArray, ...]) -> NDArray:
    """`stacked`, eight times as fast as NumPy where the columns are not aligned, as in most files."""
    out = np.empty((len(columns[0]), len(columns)), columns[0].dtype)
    for row in range(len(out)):
        for i in range(len(columns)):
            out[row, i] = columns[i][row]
    return out


def _first_lengths(data: NDArray[np.uint8], at: int, properties: list[Property]) -> list[int]:
    """How many values each property of the row at byte `at` has; cut at what the file has room for."""
    lengths = []
    for p in properties:
        length = 1
        if p.count_dtype is not None:
            stored = data[at : at + p.count_dtype.itemsize].tobytes().ljust(p.count_dtype.itemsize, b"\0")
            count = np.frombuffer(stored, p.count_dtype)[0]
            length = int(count) if 0 <= count <= len(data) // p.dtype.itemsize else 0
            at += p.count_dtype.itemsize
        lengths.append(length)
        at += length * p.dtype.itemsize
    return lengths


def _walk_rows(
    data: NDArray[np.uint8], at: int, element: Element, properties: list[Property]
) -> tuple[list[Column], int]:
    """Read rows whose lists differ in length."""
    layout = np.array([[p.count_dtype.itemsize if p.count_dtype else 0, p.dtype.itemsize] for p in properties])
    kinds = [p.count_dtype.kind if p.count_dtype else "" for p in properties]
    signs = np.array([ord(kind) if kind else 0 for kind in kinds])
    big = any((p.count_dtype or p.dtype).byteorder == ">" for p in properties)
    columns = []
    end = at
    for wanted, p in enumerate(properties):
        counts = np.empty(element.count, np.int64)
        out = np.empty(len(data) - at, np.uint8)
        end, filled = _walk(data, at, layout, signs, big, wanted, counts, out)
        if end < 0:
            raise MeshError(f"ends within row {filled} of {element.name}")
        columns.append(Column(out[:filled].copy().view(p.dtype), counts, p.dtype))
    return columns, end


@njit(cache=True, nogil=True)
def _walk(
    data: NDArray[np.uint8],
    at: int,
    layout: NDArray[np.int64],
    kinds: NDArray[np.int64],
    big: bool,
    wanted: int,
    counts: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> tuple[int, int]:
    """Copy one property of every row into `out`.

    Args:
        data: the file.
        at: where the rows begin.
        layout: [P, 2], bytes of the list count (0: not a list) and of a value of each property.
        kinds: [P], the kind of the list count: b"i", b"u" or b"f".
        big: the data are big-endian.
        wanted: which property.
        counts: [R], set to the number of values in each row.
        out: as long as the rest of the file.

    Returns:
        the byte after the rows and the bytes copied; or -1 and the row that is not whole.
    """
    filled = 0
    for row in range(len(counts)):
        for p in range(len(layout)):
            width, size = layout[p]
            count = 1
            if width:
                if at + width > len(data):
                    return -1, row
                count = _list_count(data, at, width, kinds[p], big)
                at += width
            if count < 0 or count * size > len(data) - at:
                return -1, row
            if p == wanted:
                counts[row] = count
                out[filled : filled + count * size] = data[at : at + count * size]
                filled += count * size
            at += count * size
    return at, filled


@njit(cache=True, nogil=True)
def _list_count(data: NDArray[np.uint8], at: int, width: int, kind: int, big: bool) -> int:
    """The count of a list, stored in `width` bytes from `at` on; -1 if it is not one."""
    if kind == 102:  # b"f"
        real = data[at : at + 8].view(np.float64)[0]
        return int(real) if 0.0 <= real < 2.0**31 and real == np.floor(real) else -1
    value = 0
    for i in range(width):
        value |= int(data[at + (width - 1 - i if big else i)]) << (8 * i)
    return -1 if kind == 105 and value >> (8 * width - 1) else value  # b"i": negative
