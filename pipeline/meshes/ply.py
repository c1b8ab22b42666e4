"""PLY face scans, text or binary: vertices, polygons, vertex colours, and UVs of vertices or of corners."""

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.colors import bytes_of_colors
from pipeline.meshes.mesh import Mesh, MeshError
from pipeline.meshes.ply_body import Column, read_body
from pipeline.meshes.ply_header import read_header
from pipeline.meshes.polygons import triangulate
from pipeline.meshes.source import Source

_POLYGONS = ("vertex_indices", "vertex_index")
_COLORS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
_UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))


def parse_ply(source: Source) -> Mesh:
    """Read a PLY file.

    Properties that are not listed here are stepped over, whatever their type: x y z, red green blue, s t (or u v, or
    texture_u texture_v), vertex_indices (or vertex_index), and a face's list texcoord of two numbers a corner.

    Raises:
        MeshError: the header or the data are malformed, or the mesh is empty or inconsistent.
    """
    header = read_header(source)
    body = read_body(source, header)
    vertex, face = body.get("vertex", {}), body.get("face", {})
    points = _stacked(vertex, ("x", "y", "z"))
    if points is None:
        raise MeshError("has no element vertex with properties x y z")
    polygons = next((face[name] for name in _POLYGONS if name in face), None)
    if polygons is None:
        raise MeshError("has no element face with a list vertex_indices")
    corners = _corners(polygons, len(points))
    corner_uvs = face.get("texcoord")
    vertex_uvs = next((uvs for names in _UVS if (uvs := _stacked(vertex, names)) is not None), None)
    if corner_uvs is not None and np.array_equal(corner_uvs.counts, 2 * polygons.counts):
        numbers = _ended(np.arange(len(polygons.values), dtype=np.int32), polygons.counts)
        faces, face_uvs = triangulate(corners, numbers)
        flat: NDArray = corner_uvs.values.reshape(-1, 2)
        return Mesh.build(points, faces, flat, face_uvs, _colors(vertex), header.texture_name)
    faces = triangulate(corners)[0]
    return Mesh.build(points, faces, vertex_uvs, faces, _colors(vertex), header.texture_name)


def _stacked(columns: dict[str, Column], names: tuple[str, ...]) -> NDArray | None:
    """Columns of one value a row as one array [R, K]; None unless all are there."""
    if not all(name in columns and len(columns[name].values) == len(columns[name].counts) for name in names):
        return None
    return np.stack([columns[name].values for name in names], axis=1)


def _colors(vertex: dict[str, Column]) -> NDArray[np.uint8] | None:
    for names in _COLORS:
        colors = _stacked(vertex, names)
        if colors is not None:
            return bytes_of_colors(colors, vertex[names[0]].dtype)
    return None


def _corners(polygons: Column, num_vertices: int) -> NDArray[np.int32]:
    """All polygons' indices, each ended by -1."""
    values: NDArray = polygons.values
    if values.dtype.kind == "f" and not (values % 1 == 0).all():
        raise MeshError("has a vertex index that is not an integer")
    if len(values) and not 0 <= values.min() <= values.max() < num_vertices:
        raise MeshError(f"faces use indices {values.min()} to {values.max()}, but there are {num_vertices} vertices")
    return _ended(values.astype(np.int32), polygons.counts)


def _ended(values: NDArray[np.int32], counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Put a -1 after each of the runs of `counts` values."""
    if len(counts) and (counts == 3).all():
        return np.pad(values.reshape(-1, 3), ((0, 0), (0, 1)), constant_values=-1).reshape(-1)
    return np.insert(values, np.cumsum(counts), -1)
