"""Bosphorus scans (`.bnt`): a range image, meshed along its grid.

The file is little-endian: uint16 rows, uint16 columns, float64 zmin, uint16 L, L bytes of an image name, uint32 n, then
n float64 that form [n / 5, 5] in column-major order: x, y, z and two image coordinates from 0 to 1. A z of zmin means
background.

The published description gives neither the order of the grid (rows or columns) nor the direction of the image
coordinates. Both are inferred from the points (`find_line_length`, `_orient_v`); these rules are ours.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Material, Mesh, MeshError
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import find_line_length, mesh_grid

_HEADER, _COUNT = struct.Struct("<HHdH"), struct.Struct("<I")
_COLUMNS = 5
_MAX_POINTS = 1 << 22  # a hundred times the size of a face scan, and small enough for any machine
_BACKGROUND = -1e9  # the value in the dataset's own files


def parse_bnt(source: Source) -> Mesh:
    """Read a `.bnt` file.

    The triangles are those of `mesh_grid`. Points without a triangle are removed.

    Raises:
        MeshError: the file is truncated, its counts do not agree, or the mesh is empty.
    """
    rows, columns, background, texture_name, table = _read_parts(source)
    points = table[:3].T.copy()
    valid = points[:, 2] != background
    if (non_finite := valid & ~np.isfinite(points).all(axis=1)).any():
        raise MeshError(f"point {int(np.argmax(non_finite))} is not finite")
    with np.errstate(over="ignore", invalid="ignore"):  # `Mesh.build` rejects values that overflow
        faces = mesh_grid(points, valid, find_line_length(points, valid, (columns, rows)))
        used = np.zeros(len(points), np.bool_)
        used[faces] = True
        faces = (np.cumsum(used, dtype=np.int32) - np.int32(1))[faces]
        uvs = _orient_v(table[3:].T[used], points[used])
        material = Material((texture_name,) if texture_name else (), wrap=("clamp", "clamp"))
        return Mesh.build(points[used], faces, uvs, faces, materials=(material,))


def _read_parts(source: Source) -> tuple[int, int, float, str, NDArray[np.float64]]:
    """Read the parts of the file: rows, columns, depth of the background, image name, numbers [5, N].

    Raises:
        MeshError: the file is truncated, its counts do not agree, or the grid is empty or too large.
    """
    data, size = source.data, source.size
    rows, columns, background, name_length = _HEADER.unpack_from(data) if size >= _HEADER.size else (0, 0, 0.0, 0)
    start = _HEADER.size + name_length + _COUNT.size
    if size < start:
        raise MeshError("truncated header")
    (count,) = _COUNT.unpack_from(data, start - _COUNT.size)
    if not 0 < rows * columns <= _MAX_POINTS:
        raise MeshError(f"unsupported grid size: {rows} x {columns} points; from 1 to {_MAX_POINTS} are supported")
    if count != _COLUMNS * rows * columns:
        raise MeshError(
            f"inconsistent counts: {count} numbers for {rows} x {columns} points with {_COLUMNS} numbers each"
        )
    if size - start < 8 * count:
        raise MeshError(f"truncated data: the header declares {count} numbers of 8 bytes, {size - start} bytes follow")
    name = source.slice(_HEADER.size, _HEADER.size + name_length).split(b"\0")[0].decode("latin-1").strip()
    return rows, columns, background, name, np.frombuffer(data, "<f8", count, start).reshape(_COLUMNS, -1)


def _orient_v(uvs: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return image coordinates [V, 2] with v upwards, as in `Mesh`.

    The image is assumed to have the same orientation as the scan: v is flipped if it correlates negatively with y.
    """
    if len(points) and ((points[:, 1] - points[:, 1].mean()) * uvs[:, 1]).sum() < 0.0:
        uvs[:, 1] = 1.0 - uvs[:, 1]
    return uvs


def write_bnt(
    path: Path, points: NDArray[np.floating], image_coordinates: NDArray[np.floating], texture_name: str
) -> None:
    """Write a range image in the format of Bosphorus, row by row.

    Args:
        path: output file; an existing file is replaced.
        points: [R, C, 3], x y z in millimetres. A point with NaN as z becomes background.
        image_coordinates: [R, C, 2], from 0 to 1.
        texture_name: name of the image.

    Raises:
        ValueError: the shapes do not match, a side of the grid or the name is longer than 65,535, or the name is not
            Latin-1.
        OSError: the file cannot be written.
    """
    rows, columns = points.shape[:2]
    name = texture_name.encode("latin-1")
    if max(rows, columns, len(name)) > 0xFFFF:
        raise ValueError("grid or name too long for the format: the limit is 65535")
    table = np.concatenate([points, image_coordinates], axis=2).reshape(-1, _COLUMNS).astype("<f8")
    table[np.isnan(table[:, 2])] = _BACKGROUND
    header = _HEADER.pack(rows, columns, _BACKGROUND, len(name)) + name + _COUNT.pack(table.size)
    path.write_bytes(header + table.tobytes(order="F"))
