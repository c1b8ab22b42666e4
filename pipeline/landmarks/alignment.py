"""Alignment to the canonical frame, before rendering, so that views show the same part of every face.

The unit is 90 mm; +x is the subject's left, +y up, +z out of the face. The origin is 38 mm below and 22 mm behind the
midpoint between the eyes. This centres a face in its views and lets it turn about its own centre.

The similarity is fitted to landmarks if the mesh has a known landmark set and the set forms a face (`landmark_fit`).
Otherwise it comes from the surface without debris (`bounds`), assuming an upright scan that faces +z or the given axes.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.axes import UPRIGHT, matrix_of_axes
from smile_pipe.pipeline.landmarks.bounds import fit_bounds
from smile_pipe.pipeline.landmarks.landmark_fit import LandmarkFit, Similarity, fit_landmarks, to_known_size
from smile_pipe.pipeline.landmarks.length_units import LengthUnit, size_problem
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM
from smile_pipe.pipeline.meshes.mesh import NO_ORIGIN, Mesh, MeshError
from smile_pipe.shards.sample import Frame


def canonical_frame(
    mesh: Mesh, axes: str = UPRIGHT, confidence: float | None = None, units: LengthUnit = "auto"
) -> Frame:
    """Compute the similarity from the axes of `mesh` to the canonical frame.

    Args:
        mesh: the scan.
        axes: see `parse_axes`. Landmarks give the frame without them, except that left-handed axes mirror the scan.
        confidence: of the landmarks, if they were detected.
        units: unit of `mesh`.

    Raises:
        MeshError: the mesh has no extent, so the scale is undefined, or its face has not the size of a face.
    """
    matrix = matrix_of_axes(axes)
    found = None if mesh.landmarks is None else fit_landmarks(mesh.landmarks.astype(np.float64) @ matrix)
    similarity = found.similarity if found else fit_bounds(mesh, matrix, units)
    if problem := size_problem(similarity[0], units):
        raise MeshError(problem)
    return _make_frame(similarity, matrix, mesh.origin, found, confidence)


def drop_wrong_landmarks(mesh: Mesh) -> tuple[Mesh, str]:
    """Remove the landmarks that cannot be what their numbers mean, so that nothing uses them.

    All are removed if they do not form a face: they are in another order, or too few of them are known. Single ones far
    from their place on a face become NaN. Sets of an unknown size are kept, since nothing is known about them.

    Args:
        mesh: the scan. 51 landmarks are those of 68 without the outline, and become 68.

    Returns:
        The mesh, and what was removed and why, or "".
    """
    if mesh.landmarks is None or (points := to_known_size(mesh.landmarks)) is None:
        return mesh, ""
    fit = fit_landmarks(points.astype(np.float64))
    if fit is None:
        return replace(mesh, landmarks=None), (
            "landmarks are not used: they do not form a face; check their order, and that enough of them are known"
        )
    kept = np.where(fit.is_used[:, None], points, np.float32(np.nan))
    num_dropped = int(np.isfinite(points).all(axis=1).sum() - fit.is_used.sum())
    problem = f"landmarks far from their place on a face are not used: {num_dropped}" if num_dropped else ""
    return replace(mesh, landmarks=kept), problem


def apply_frame(mesh: Mesh, frame: Frame) -> Mesh:
    """Transform the vertices, landmarks and flow of `mesh` to the canonical frame.

    If the frame mirrors, faces are turned over.
    """
    rotation = frame.scale * np.array(frame.R)
    shift = np.array(frame.T) + mesh.origin @ rotation
    if np.linalg.det(rotation) < 0:
        face_uvs = None if mesh.face_uvs is None else mesh.face_uvs[:, ::-1].copy()
        mesh = replace(mesh, faces=mesh.faces[:, ::-1].copy(), face_uvs=face_uvs)

    def transform(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return (points @ rotation + shift).astype(np.float32)

    landmarks = None if mesh.landmarks is None else transform(mesh.landmarks)
    flow = None if mesh.flow is None else (mesh.flow @ rotation).astype(np.float32)
    return replace(mesh, vertices=transform(mesh.vertices), landmarks=landmarks, flow=flow, origin=NO_ORIGIN)


def _make_frame(
    similarity: Similarity,
    matrix: NDArray[np.float64],
    origin: tuple[float, float, float],
    fit: LandmarkFit | None,
    confidence: float | None,
) -> Frame:
    """Build the frame for coordinates of the file from the similarity for `(coordinates - origin) @ matrix`."""
    scale, R, T = similarity
    # Rounded to keep differences in the last bits between linear algebra libraries out of the shards.
    scale, R = float(f"{scale:.10g}"), np.round(matrix @ R, 9)
    T = np.round(T - origin @ (scale * R), 9)
    frame = {"method": "landmarks" if fit else "bounds", "scale": scale, "R": R.tolist(), "T": T.tolist()}
    if fit:
        frame |= {"num_points": fit.num_points, "residual": round(fit.residual * UNIT_MM, 2)}
    if fit and confidence is not None:
        frame |= {"method": "detected", "confidence": round(confidence, 3)}
    return Frame.model_validate(frame)
