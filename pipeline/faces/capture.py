"""The scanner: a face becomes a scan, held not quite straight and not quite exact."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import Mesh

MAX_TURN = np.deg2rad(4.0)  # pitch, yaw and roll
NOISE_MM = 0.05
# The head turns about a point behind the middle of the face, millimetres.
PIVOT = np.array([0.0, -40.0, -60.0])


def scan(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """`mesh` (millimetres) turned by a few degrees about the neck, with a little noise on every vertex."""
    pitch, yaw, roll = rng.uniform(-MAX_TURN, MAX_TURN, size=3)
    turned = (mesh.vertices - PIVOT) @ _rotation(pitch, yaw, roll).T + PIVOT
    return replace(mesh, vertices=(turned + rng.normal(0, NOISE_MM, size=turned.shape)).astype(np.float32))


def _rotation(pitch: float, yaw: float, roll: float) -> NDArray[np.float64]:
    (cx, cy, cz), (sx, sy, sz) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
