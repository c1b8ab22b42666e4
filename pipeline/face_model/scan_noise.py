"""Simulated scanner: head pose, head motion through a sequence, and noise on the vertices."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh

MAX_TURN = np.deg2rad(4.0)  # pitch, yaw and roll
# Largest rotation of a head around its mean pose in a sequence, and the range of the number of cycles per sequence.
MAX_SWAY = np.deg2rad(1.2)
SWAY_CYCLES = (0.4, 1.2)
NOISE_MM = 0.05
# Centre of rotation of the head, behind the middle of the face, millimetres.
PIVOT = np.array([0.0, -40.0, -60.0])


def simulate_scan(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """Rotate `mesh` (millimetres) by a random head pose of a few degrees, and add noise to its vertices."""
    return add_pose_and_noise(mesh, rng.uniform(-MAX_TURN, MAX_TURN, size=3), rng)


def add_pose_and_noise(mesh: Mesh, pose: NDArray[np.float64], rng: np.random.Generator) -> Mesh:
    """Rotate `mesh` (millimetres) by `pose` (pitch, yaw, roll in radians), and add noise to its vertices."""
    turned = (mesh.vertices - PIVOT) @ _rotation(*pose).T + PIVOT
    return replace(mesh, vertices=(turned + rng.normal(0, NOISE_MM, size=turned.shape)).astype(np.float32))


def sample_head_poses(num_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw slow, smooth head poses of a sequence: pitch, yaw, roll in radians, float64 [num_frames, 3]."""
    mean = rng.uniform(-MAX_TURN, MAX_TURN, size=3)
    amplitude, phase = rng.uniform(0.3, 1, size=3) * MAX_SWAY, rng.uniform(0, 1, size=3)
    cycles = rng.uniform(*SWAY_CYCLES, size=3) * np.linspace(0, 1, num_frames)[:, None]
    return mean + amplitude * np.sin(2 * np.pi * (phase + cycles))


def _rotation(pitch: float, yaw: float, roll: float) -> NDArray[np.float64]:
    (cx, cy, cz), (sx, sy, sz) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
