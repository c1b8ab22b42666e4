"""PLY face scans, text or binary: vertices, polygons, vertex colours, and UVs of vertices or of corners."""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.ply_body import Column, read_body, stacked
from smile_pipe.pipeline.meshes.ply_header import read_header
from smile_pipe.pipeline.meshes.shapes import bytes_of_colors
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import triangulate

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
    indices = _checked(polygons.values, len(points))
    corner_uvs = face.get("texcoord")
    vertex_uvs = next((uvs for names in _UVS if (uvs := _stacked(vertex, names)) is not None), None)
    if corner_uvs is not None and np.array_equal(corner_uvs.counts, 2 * polygons.counts):
        faces, face_uvs = _triangles(polygons.counts, indices, np.arange(len(indices), dtype=np.int32))
        flat: NDArray = corner_uvs.values.reshape(-1, 2)
        return Mesh.build(points, faces, flat, face_uvs, _colors(vertex), header.texture_name)
    faces = _triangles(polygons.counts, indices)[0]
    return Mesh.build(points, faces, vertex_uvs, faces, _colors(vertex), header.texture_name)


def _stacked(columns: dict[str, Column], names: tuple[str, ...]) -> NDArray | None:
    """Columns of one value a row as one array [R, K]; None unless all are there."""
    if not all(name in columns and len(columns[name].values) == len(columns[name].counts) for name in names):
        return None
    return stacked(tuple(columns[name].values for name in names))


def _colors(vertex: dict[str, Column]) -> NDArray[np.uint8] | None:
    for names in _COLORS:
        colors = _stacked(vertex, names)
        if colors is not None:
            return bytes_of_colors(colors, vertex[names[0]].dtype)
    return None


def _checked(indices: NDArray, num_vertices: int) -> NDArray[np.int32]:
    """Vertex indices as int32, once they are known to be integers and in range."""
    if indices.dtype.kind == "f" and not (indices % 1 == 0).all():
        raise MeshError("has a vertex index that is not an integer")
    if len(indices) and not 0 <= indices.min() <= indices.max() < num_vertices:
        raise MeshError(f"faces use indices {indices.min()} to {indices.max()}, but there are {num_vertices} vertices")
    return indices.astype(np.int32, copy=False)


def _triangles(counts: NDArray[np.int64], *values: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Split polygons of `counts` corners into triangles; [F, 3] of each of `values`, which are one a corner."""
    if (counts == 3).all():
        return [v.reshape(-1, 3) for v in values]
    ends = np.cumsum(counts)
    return triangulate(*(np.insert(v, ends, -1) for v in values))
