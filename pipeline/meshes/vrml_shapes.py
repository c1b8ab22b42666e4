"""The shapes and the matrices of a VRML scene, from the fields of its nodes."""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.shapes import Shape
from smile_pipe.pipeline.meshes.triangulation import triangulate


def build_shape(
    points: NDArray[np.floating],
    uvs: NDArray[np.floating],
    colors: NDArray[np.floating],
    corners: NDArray[np.int32],
    uv_corners: NDArray[np.int32] | None,
    color_corners: NDArray[np.int32] | None,
) -> Shape:
    """Build a shape from its arrays, splitting polygons into fans.

    Args:
        points: [V, 3].
        uvs: [U, 2]; U may be 0.
        colors: [C, 3]; dropped unless they give every vertex one colour.
        corners: [N], `coordIndex`.
        uv_corners: [N], `texCoordIndex`, or None if equal to `coordIndex`.
        color_corners: [N], `colorIndex`, or None if equal to `coordIndex`.

    Raises:
        MeshError: the two index lists do not describe the same polygons, or an index is out of range.
    """
    if not len(uvs):
        faces = triangulate(corners)[0]
        face_uvs = np.zeros_like(faces)
    elif uv_corners is None:
        faces = face_uvs = triangulate(corners)[0]
    else:
        corners, uv_corners = _terminated(corners), _terminated(uv_corners)
        if not np.array_equal(corners == -1, uv_corners == -1):
            raise MeshError("inconsistent polygons: texCoordIndex does not match coordIndex")
        faces, face_uvs = triangulate(corners, uv_corners)
    if faces.size and not 0 <= faces.min() <= faces.max() < len(points):
        raise MeshError(
            f"index out of range: coordIndex from {faces.min()} to {faces.max()} for {len(points)} elements"
        )
    # Joined with other shapes, an index that is too large would be one of theirs.
    face_uvs = np.where(face_uvs < max(len(uvs), 1), face_uvs, np.int32(np.iinfo(np.int32).min))
    return Shape(points, faces, uvs, face_uvs, _vertex_colors(len(points), colors, corners, color_corners))


def _vertex_colors(
    num_points: int, colors: NDArray[np.floating], corners: NDArray[np.int32], color_corners: NDArray[np.int32] | None
) -> NDArray[np.floating]:
    """Colours by vertex [V, 3]; [0, 3] if corners of one vertex differ or the lists do not match."""
    if color_corners is None or not len(colors):
        return colors if len(colors) == num_points else colors[:0]
    corners, color_corners = _terminated(corners), _terminated(color_corners)
    used = corners != -1
    if not np.array_equal(used, color_corners != -1):
        return colors[:0]
    vertices, color_indices = corners[used], color_corners[used]
    if (
        not 0 <= color_indices.min(initial=0) <= color_indices.max(initial=0) < len(colors)
        or vertices.max(initial=0) >= num_points
    ):
        return colors[:0]
    chosen = np.zeros(num_points, np.int32)
    chosen[vertices] = color_indices
    return colors[chosen] if np.array_equal(chosen[vertices], color_indices) else colors[:0]


def _terminated(corners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Append the -1 after the last polygon if it is missing."""
    return corners if corners[-1:].tolist() == [-1] else np.append(corners, np.int32(-1))


_DEFAULTS = {
    "translation": (0.0, 0.0, 0.0),
    "rotation": (0.0, 0.0, 1.0, 0.0),
    "scale": (1.0, 1.0, 1.0),
    "scaleOrientation": (0.0, 0.0, 1.0, 0.0),
    "center": (0.0, 0.0, 0.0),
}


def matrix_of(numbers: dict[str, list[float]]) -> NDArray[np.float64]:
    """Return the matrix [4, 4] by which a Transform with the fields `numbers` multiplies points (as columns).

    It is T C R R_s S R_s^-1 C^-1 (ISO/IEC 14772-1:1997, 6.52).

    Raises:
        MeshError: a field has the wrong number of values, or one that is not finite.
    """
    values = {name: np.array(numbers.get(name, default)) for name, default in _DEFAULTS.items()}
    for name, default in _DEFAULTS.items():
        if values[name].shape != (len(default),) or not np.isfinite(values[name]).all():
            raise MeshError(f"invalid {name} of Transform: it must be {len(default)} finite numbers")
    oriented = _rotation(values["scaleOrientation"])
    linear = _rotation(values["rotation"]) @ oriented @ np.diag(values["scale"]) @ oriented.T
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = values["translation"] + values["center"] - linear @ values["center"]
    return matrix


def _rotation(axis_angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] from an axis of any length and an angle in radians [4] (Rodrigues' formula)."""
    axis, angle = axis_angle[:3], axis_angle[3]
    length = np.linalg.norm(axis)
    if angle == 0.0 or length == 0.0:
        return np.eye(3)
    x, y, z = axis / length
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
