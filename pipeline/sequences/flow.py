"""How far a face has moved: displacements between frames, magnified or measured, with the motion of the head apart.

Meshes are in correspondence where vertex i of one is the same point of the face as vertex i of the other.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from smile_pipe.pipeline.landmarks.alignment import fit_similarity
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError

# Where meshes are not in correspondence, this many points of a face are looked up in the other.
NUM_PROBES = 2000


def in_correspondence(mesh: Mesh, other: Mesh) -> bool:
    """Whether the two have the same vertices and faces but for the places of the vertices."""
    return len(mesh.vertices) == len(other.vertices) and np.array_equal(mesh.faces, other.faces)


def displacement(onset: Mesh, mesh: Mesh) -> float:
    """How far the face of `mesh` is from that of `onset`, root mean square, in their units; the head may move freely.

    Measured at the vertices of meshes in correspondence, else at landmarks, else from points of the one surface to the
    nearest vertices of the other.
    """
    if in_correspondence(onset, mesh):
        return _residual(mesh.vertices, onset.vertices)
    if onset.landmarks is not None and mesh.landmarks is not None and len(onset.landmarks) == len(mesh.landmarks):
        known = np.isfinite(onset.landmarks).all(axis=1) & np.isfinite(mesh.landmarks).all(axis=1)
        if known.sum() >= 4:
            return _residual(mesh.landmarks[known], onset.landmarks[known])
    probes = mesh.vertices[:: max(len(mesh.vertices) // NUM_PROBES, 1)]
    distances, _ = cKDTree(onset.vertices).query(probes)
    return float(np.sqrt((distances**2).mean()))


def magnify_motion(onset: Mesh, mesh: Mesh, factor: float) -> Mesh:
    """`mesh` with its displacements from `onset` multiplied by `factor`; landmarks move along.

    Raises:
        MeshError: the two are not in correspondence.
    """
    if factor == 1:
        return mesh
    require_correspondence(onset, mesh, "`magnify`")
    vertices = onset.vertices + np.float32(factor) * (mesh.vertices - onset.vertices)
    landmarks = mesh.landmarks
    if landmarks is not None and onset.landmarks is not None and len(landmarks) == len(onset.landmarks):
        landmarks = onset.landmarks + np.float32(factor) * (landmarks - onset.landmarks)
    return replace(mesh, vertices=vertices, landmarks=landmarks)


def with_flow(reference: Mesh, mesh: Mesh) -> Mesh:
    """`mesh` with the displacement of each vertex from `reference` as its flow.

    Raises:
        MeshError: the two are not in correspondence.
    """
    require_correspondence(reference, mesh, "the channel flow")
    return replace(mesh, flow=mesh.vertices - reference.vertices)


def require_correspondence(reference: Mesh, mesh: Mesh, what: str) -> None:
    """Raise MeshError where vertices cannot be followed from one mesh to the other."""
    if not in_correspondence(reference, mesh):
        raise MeshError(
            f"{what} needs meshes in correspondence: {len(mesh.vertices)} vertices and {len(mesh.faces)} faces, but "
            f"{len(reference.vertices)} and {len(reference.faces)} in the one to compare with, or other faces"
        )


def _residual(points: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    """Root mean square distance that is left after the best similarity."""
    source, goal = points.astype(np.float64), target.astype(np.float64)
    if np.ptp(source, axis=0).max() == 0:
        return float(np.sqrt(((source - goal) ** 2).sum(axis=1).mean()))
    scale, R, T = fit_similarity(source, goal)
    return float(np.sqrt(((scale * source @ R + T - goal) ** 2).sum(axis=1).mean()))
