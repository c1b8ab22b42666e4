"""Bosphorus scans (`.bnt`): a range image, meshed along its grid.

Little-endian: uint16 rows, uint16 columns, float64 zmin, uint16 L, L bytes of an image's name, uint32 n, then n float64
that are [n / 5, 5] in column-major order: x, y, z and two image coordinates from 0 to 1. A z of zmin is background.

What is published does not say whether the grid goes by rows or by columns, nor which way the image coordinates run.
Both are read off the points (`find_line_length` of the grid, `_orient_v`); these rules are ours.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import find_line_length, mesh_grid

_HEADER, _COUNT = struct.Struct("<HHdH"), struct.Struct("<I")
_COLUMNS = 5
_MAX_POINTS = 1 << 22  # a hundred times what a face scan has, in memory that any machine has
_BACKGROUND = -1e9  # as in the dataset's own files


def parse_bnt(source: Source) -> Mesh:
    """Read a `.bnt` file.

    The triangles are those of `mesh_grid`; points that none of them uses are left out.

    Raises:
        MeshError: the file is cut off or its counts do not agree, or nothing is left of the mesh.
    """
    rows, columns, background, texture_name, table = _read_parts(source)
    points = table[:3].T.copy()
    valid = points[:, 2] != background
    if (wrong := valid & ~np.isfinite(points).all(axis=1)).any():
        raise MeshError(f"point {int(np.argmax(wrong))} is not finite")
    with np.errstate(over="ignore", invalid="ignore"):  # what is that large is refused when the mesh is built
        faces = mesh_grid(points, valid, find_line_length(points, valid, (columns, rows)))
        used = np.zeros(len(points), np.bool_)
        used[faces] = True
        faces = (np.cumsum(used, dtype=np.int32) - np.int32(1))[faces]
        uvs = _orient_v(table[3:].T[used], points[used])
        return Mesh.build(points[used], faces, uvs, faces, texture_name=texture_name)


def _read_parts(source: Source) -> tuple[int, int, float, str, NDArray[np.float64]]:
    """The file's parts: rows, columns, depth of the background, the image's name, and the numbers as they lie, [5, N].

    Raises:
        MeshError: the file is shorter than it says, its counts do not agree, or it has no grid or too large a one.
    """
    data, size = source.data, source.size
    rows, columns, background, name_length = _HEADER.unpack_from(data) if size >= _HEADER.size else (0, 0, 0.0, 0)
    start = _HEADER.size + name_length + _COUNT.size
    if size < start:
        raise MeshError("ends within its header")
    (count,) = _COUNT.unpack_from(data, start - _COUNT.size)
    if not 0 < rows * columns <= _MAX_POINTS:
        raise MeshError(f"has a grid of {rows} x {columns} points; at least 1 and at most {_MAX_POINTS} are read")
    if count != _COLUMNS * rows * columns:
        raise MeshError(f"says that it has {count} numbers, but {rows} x {columns} points have {_COLUMNS} each")
    if size - start < 8 * count:
        raise MeshError(f"promises {count} numbers of 8 bytes, but {size - start} bytes follow")
    name = source.slice(_HEADER.size, _HEADER.size + name_length).split(b"\0")[0].decode("latin-1").strip()
    return rows, columns, background, name, np.frombuffer(data, "<f8", count, start).reshape(_COLUMNS, -1)


def _orient_v(uvs: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Image coordinates [V, 2] with v upwards, as Mesh has them.

    The image is taken to be the same way up as the scan: v is turned round if it falls where y rises, over all points.
    """
    if len(points) and ((points[:, 1] - points[:, 1].mean()) * uvs[:, 1]).sum() < 0.0:
        uvs[:, 1] = 1.0 - uvs[:, 1]
    return uvs


def write_bnt(
    path: Path, points: NDArray[np.floating], image_coordinates: NDArray[np.floating], texture_name: str
) -> None:
    """Write a range image as Bosphorus has them, row after row.

    Args:
        path: the file to write; an existing one is replaced.
        points: [R, C, 3], x y z in millimetres; a point whose z is NaN becomes background.
        image_coordinates: [R, C, 2], from 0 to 1.
        texture_name: the image's name.

    Raises:
        ValueError: the shapes do not fit together, a side of the grid or the name is longer than 65,535, or the name
            is not Latin-1.
        OSError: the file cannot be written.
    """
    rows, columns = points.shape[:2]
    name = texture_name.encode("latin-1")
    if max(rows, columns, len(name)) > 0xFFFF:
        raise ValueError("the grid or the name is longer than the format can say")
    table = np.concatenate([points, image_coordinates], axis=2).reshape(-1, _COLUMNS).astype("<f8")
    table[np.isnan(table[:, 2])] = _BACKGROUND
    header = _HEADER.pack(rows, columns, _BACKGROUND, len(name)) + name + _COUNT.pack(table.size)
    path.write_bytes(header + table.tobytes(order="F"))
