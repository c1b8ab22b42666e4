"""The shapes of a VRML scene, from the fields of an IndexedFaceSet."""

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError
from pipeline.meshes.polygons import triangulate
from pipeline.meshes.shapes import Shape


def shape_of(
    points: NDArray[np.float32],
    uvs: NDArray[np.float32],
    colors: NDArray[np.float32],
    corners: NDArray[np.int32],
    uv_corners: NDArray[np.int32] | None,
    color_corners: NDArray[np.int32] | None,
) -> Shape:
    """Build a shape from its arrays, polygons as fans.

    Args:
        points: [V, 3].
        uvs: [U, 2]; U may be 0.
        colors: [C, 3]; they are dropped if they do not give every vertex one colour.
        corners: [N], `coordIndex`.
        uv_corners: [N], `texCoordIndex`, or None where it is as `coordIndex`.
        color_corners: [N], `colorIndex`, or None where it is as `coordIndex`.

    Raises:
        MeshError: the two index lists do not describe the same polygons, or an index is out of range.
    """
    if not len(uvs):
        faces = triangulate(corners)[0]
        face_uvs = np.zeros_like(faces)
    elif uv_corners is None:
        faces = face_uvs = triangulate(corners)[0]
    else:
        corners, uv_corners = _ended(corners), _ended(uv_corners)
        if not np.array_equal(corners == -1, uv_corners == -1):
            raise MeshError("has a texCoordIndex that does not describe the polygons of coordIndex")
        faces, face_uvs = triangulate(corners, uv_corners)
    for what, indices, count in (("coordIndex", faces, len(points)), ("texCoordIndex", face_uvs, len(uvs) or 1)):
        if indices.size and not 0 <= indices.min() <= indices.max() < count:
            raise MeshError(f"has a {what} from {indices.min()} to {indices.max()} for {count} elements")
    return Shape(points, faces, uvs, face_uvs, _vertex_colors(len(points), colors, corners, color_corners))


def _vertex_colors(
    num_points: int, colors: NDArray[np.float32], corners: NDArray[np.int32], color_corners: NDArray[np.int32] | None
) -> NDArray[np.float32]:
    """Colours by vertex [V, 3], or [0, 3] if corners at one vertex differ or the lists do not fit together."""
    if color_corners is None or not len(colors):
        return colors if len(colors) == num_points else colors[:0]
    corners, color_corners = _ended(corners), _ended(color_corners)
    used = corners != -1
    if not np.array_equal(used, color_corners != -1):
        return colors[:0]
    at, wanted = corners[used], color_corners[used]
    if not 0 <= wanted.min(initial=0) <= wanted.max(initial=0) < len(colors) or at.max(initial=0) >= num_points:
        return colors[:0]
    chosen = np.zeros(num_points, np.int32)
    chosen[at] = wanted
    return colors[chosen] if np.array_equal(chosen[at], wanted) else colors[:0]


def _ended(corners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Add the -1 after the last polygon where a file leaves it out."""
    return corners if corners[-1:].tolist() == [-1] else np.append(corners, np.int32(-1))
