"""VRML Transform nodes: where the shapes inside them lie."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError
from pipeline.meshes.vrml_shapes import Shape

FIELDS = {
    "translation": (0.0, 0.0, 0.0),
    "rotation": (0.0, 0.0, 1.0, 0.0),
    "scale": (1.0, 1.0, 1.0),
    "scaleOrientation": (0.0, 0.0, 1.0, 0.0),
    "center": (0.0, 0.0, 0.0),
}
"""The fields that a Transform has, and their values where it does not say."""


def moved(shape: Shape, numbers: dict[str, list[float]]) -> Shape:
    """Apply a Transform; one that changes nothing leaves every coordinate bit for bit as it was.

    A point p becomes T C R R_s S R_s^-1 C^-1 p (ISO/IEC 14772-1:1997, 6.52), computed in float64.

    Args:
        shape: a shape inside the node.
        numbers: the fields that the node gives.

    Raises:
        MeshError: a field has too few or too many numbers, or one that is not finite.
    """
    values = {name: np.array(numbers.get(name, default)) for name, default in FIELDS.items()}
    for name, default in FIELDS.items():
        if values[name].shape != (len(default),) or not np.isfinite(values[name]).all():
            raise MeshError(f"Transform has a {name} that is not {len(default)} finite numbers")
    oriented = _rotation(values["scaleOrientation"])
    linear = _rotation(values["rotation"]) @ oriented @ np.diag(values["scale"]) @ oriented.T
    offset = values["translation"] + values["center"] - linear @ values["center"]
    if np.array_equal(linear, np.eye(3)) and not offset.any():
        return shape
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused later, by name
        return replace(shape, points=(shape.points @ linear.T + offset).astype(np.float32))


def _rotation(axis_angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of an axis of any length and an angle in radians [4] (Rodrigues' formula)."""
    axis, angle = axis_angle[:3], axis_angle[3]
    length = np.linalg.norm(axis)
    if angle == 0.0 or length == 0.0:
        return np.eye(3)
    x, y, z = axis / length
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
