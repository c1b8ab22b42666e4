"""Displacement between the meshes of a sequence: measured without head motion, magnified, or stored as flow.

Two meshes are in correspondence if vertex i of one is the same point of the face as vertex i of the other.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from smile_pipe.pipeline.landmarks.landmark_fit import fit_similarity
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError

# Number of points that are compared with the other surface if meshes are not in correspondence and have no landmarks.
NUM_PROBES = 2000


def in_correspondence(mesh: Mesh, other: Mesh) -> bool:
    """Return whether two meshes have the same number of vertices and the same faces."""
    return len(mesh.vertices) == len(other.vertices) and np.array_equal(mesh.faces, other.faces)


def displacement(onset: Mesh, mesh: Mesh) -> float:
    """Measure the root mean square displacement of a face from its onset, in the meshes' unit.

    It is measured at the vertices of meshes in correspondence, else at the landmarks, in both cases after removing the
    best similarity (head motion). Otherwise it is measured from points of `mesh` to the nearest vertices of `onset`.
    """
    if in_correspondence(onset, mesh):
        return _residual(mesh.vertices, onset.vertices)
    if onset.landmarks is not None and mesh.landmarks is not None and len(onset.landmarks) == len(mesh.landmarks):
        known = np.isfinite(onset.landmarks).all(axis=1) & np.isfinite(mesh.landmarks).all(axis=1)
        if known.sum() >= 4:
            return _residual(mesh.landmarks[known], onset.landmarks[known])
    probes = mesh.vertices[:: max(len(mesh.vertices) // NUM_PROBES, 1)] + np.subtract(mesh.origin, onset.origin)
    distances, _ = cKDTree(onset.vertices).query(probes)
    return float(np.sqrt((distances**2).mean()))


def magnify_motion(onset: Mesh, mesh: Mesh, factor: float) -> Mesh:
    """Multiply the displacements of vertices and landmarks from `onset` by `factor`.

    Raises:
        MeshError: The meshes are not in correspondence.
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
    """Return `mesh` with the displacement of each vertex from `reference` as its flow.

    Raises:
        MeshError: The meshes are not in correspondence.
    """
    require_correspondence(reference, mesh, "the channel flow")
    return replace(mesh, flow=mesh.vertices - reference.vertices)


def require_correspondence(reference: Mesh, mesh: Mesh, operation: str) -> None:
    """Raise MeshError if the meshes are not in correspondence; `operation` is named in the message."""
    if not in_correspondence(reference, mesh):
        raise MeshError(
            f"{operation} needs meshes in correspondence: {len(mesh.vertices)} vertices and {len(mesh.faces)} faces, "
            f"but {len(reference.vertices)} and {len(reference.faces)} in the reference mesh, or different faces"
        )


def _residual(points: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    """Return the root mean square distance after the best similarity."""
    source, goal = points.astype(np.float64), target.astype(np.float64)
    if np.ptp(source, axis=0).max() == 0:
        return float(np.sqrt(((source - goal) ** 2).sum(axis=1).mean()))
    scale, R, T = fit_similarity(source, goal)
    return float(np.sqrt(((scale * source @ R + T - goal) ** 2).sum(axis=1).mean()))
