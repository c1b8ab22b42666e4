"""The scanner: a face becomes a scan, held not quite straight, not quite still and not quite exact."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh

MAX_TURN = np.deg2rad(4.0)  # pitch, yaw and roll
# How far a head that is held still sways to either side of where it is held, and how often in a sequence.
MAX_SWAY = np.deg2rad(1.2)
SWAYS = (0.4, 1.2)
NOISE_MM = 0.05
# The head turns about a point behind the middle of the face, millimetres.
PIVOT = np.array([0.0, -40.0, -60.0])


def scan(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """`mesh` (millimetres) turned by a few degrees about the neck, with a little noise on every vertex."""
    return hold(mesh, rng.uniform(-MAX_TURN, MAX_TURN, size=3), rng)


def hold(mesh: Mesh, pose: NDArray[np.float64], rng: np.random.Generator) -> Mesh:
    """`mesh` (millimetres) turned about the neck by `pose`, as `sway` gives them, with a little noise."""
    turned = (mesh.vertices - PIVOT) @ _rotation(*pose).T + PIVOT
    return replace(mesh, vertices=(turned + rng.normal(0, NOISE_MM, size=turned.shape)).astype(np.float32))


def sway(num_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Poses of a head through a sequence: pitch, yaw, roll in radians [num_frames, 3], slow and smooth."""
    middle = rng.uniform(-MAX_TURN, MAX_TURN, size=3)
    reach, start = rng.uniform(0.3, 1, size=3) * MAX_SWAY, rng.uniform(0, 1, size=3)
    cycles = rng.uniform(*SWAYS, size=3) * np.linspace(0, 1, num_frames)[:, None]
    return middle + reach * np.sin(2 * np.pi * (start + cycles))


def _rotation(pitch: float, yaw: float, roll: float) -> NDArray[np.float64]:
    (cx, cy, cz), (sx, sy, sz) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
