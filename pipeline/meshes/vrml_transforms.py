"""The nodes of VRML that move shapes, as matrices: Transform of 2.0 and 1.0, and the single steps that 1.0 has too."""

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError

KINDS = ("Transform", "Translation", "Rotation", "Scale", "MatrixTransform")
"""The kinds of nodes that move shapes."""

_DEFAULTS = {
    "translation": (0.0, 0.0, 0.0),
    "rotation": (0.0, 0.0, 1.0, 0.0),
    "scale": (1.0, 1.0, 1.0),
    "scaleFactor": (1.0, 1.0, 1.0),  # what VRML 1.0 calls scale
    "scaleOrientation": (0.0, 0.0, 1.0, 0.0),
    "center": (0.0, 0.0, 0.0),
    "matrix": tuple(np.eye(4).ravel().tolist()),
}


def matrix_of(kind: str, numbers: dict[str, list[float]]) -> NDArray[np.float64]:
    """The matrix [4, 4] that a node multiplies points (as columns) with.

    It is T C R R_s S R_s^-1 C^-1 (ISO/IEC 14772-1:1997, 6.52); a MatrixTransform gives its own, for points as rows.

    Args:
        kind: one of `KINDS`.
        numbers: the fields that the node gives.

    Raises:
        MeshError: a field has too few or too many numbers, or one that is not finite.
    """
    values = {name: np.array(numbers.get(name, default)) for name, default in _DEFAULTS.items()}
    for name, default in _DEFAULTS.items():
        if values[name].shape != (len(default),) or not np.isfinite(values[name]).all():
            raise MeshError(f"{kind} has a {name} that is not {len(default)} finite numbers")
    if kind == "MatrixTransform":
        return values["matrix"].reshape(4, 4).T
    oriented = _rotation(values["scaleOrientation"])
    scale = np.diag(values["scale"] * values["scaleFactor"])
    linear = _rotation(values["rotation"]) @ oriented @ scale @ oriented.T
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = values["translation"] + values["center"] - linear @ values["center"]
    return matrix


def _rotation(axis_angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of an axis of any length and an angle in radians [4] (Rodrigues' formula)."""
    axis, angle = axis_angle[:3], axis_angle[3]
    length = np.linalg.norm(axis)
    if angle == 0.0 or length == 0.0:
        return np.eye(3)
    x, y, z = axis / length
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
