"""Alignment to the canonical frame, before rendering, so that views show the same part of every face.

The unit is 90 mm; +x is the subject's left, +y up, +z out of the face. The origin is 38 mm below and 22 mm behind the
midpoint between the eyes. This centres a face in its views and lets it turn about its own centre.

The similarity is fitted to landmarks if the mesh has a known landmark set and the fit looks like a face. Otherwise it
comes from robust bounds of the surface without debris, assuming an upright scan that faces +z, or the given axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.axes import UPRIGHT, matrix_of_axes
from smile_pipe.pipeline.landmarks.surface import main_piece
from smile_pipe.pipeline.meshes.mesh import NO_ORIGIN, Mesh, MeshError
from smile_pipe.shards.sample import Frame

UNIT_MM = 90.0
# Positions of the anchors on a mean adult face, in millimetres from the midpoint between the eyes: our choice, near the
# means from anthropometry. They must be equal for all faces; they need not be exact.
EYE_CORNERS = ((-45.0, -1.0, -7.0), (-18.0, -2.0, -1.0), (18.0, -2.0, -1.0), (45.0, -1.0, -7.0))
EYE_RIGHT, EYE_LEFT = (-31.5, -1.5, -4.0), (31.5, -1.5, -4.0)  # midpoints of their corners, which lids do not move
EAR_RIGHT, EAR_LEFT = (-72.0, 2.0, -52.0), (72.0, 2.0, -52.0)  # the ends of the outline
NOSE_ROOT, NOSE_SIDES = (0.0, 3.0, 7.0), (0.0, -16.0, 15.0)
UPPER_BRIDGE, LOWER_BRIDGE, NOSE_TIP = (0.0, -9.0, 22.0), (0.0, -19.0, 30.0), (0.0, -30.0, 38.0)
NOSE_WINGS = ((-17.0, -40.0, 15.0), (17.0, -40.0, 15.0))
NOSE_BASE, NOSE_EDGE = (0.0, -45.0, 22.0), (0.0, -38.0, 17.0)
ORIGIN = (0.0, -38.0, -22.0)
# Weights of anchors. Disgust moves the wings of the nose by 4 mm, its bridge by 1 mm, the corners of the eyes and the
# ends of the outline by half a millimetre (ICT-FaceKit). Without the others, the base still determines the pitch.
STABLE, BRIDGE, BASE = 1.0, 0.5, 0.25
# Landmarks that fit the mean face worse than this (frame units, root mean square) count as mislabelled. Measured and
# synthetic faces fit within 0.06.
MAX_RESIDUAL = 0.15
# The mean of the line from ear to chin to ear. It moves with the mouth, so it is not fitted. But few anchors fit nearly
# as well from behind the face, and only the outline shows the difference: after the fit it must be within this
# distance (mm).
OUTLINE, MAX_OUTLINE_DISTANCE = (0.0, -68.0, -31.0), 35.0
# Bosphorus has no outline; its chin and mouth serve the same purpose.
MOUTH, CHIN = (0.0, -68.0, 21.0), (0.0, -110.0, 16.0)
# Anchors closer to one line than this (second extent over first) leave the rotation about it undefined. Anchors of the
# nose alone, less than this far apart (mm), determine neither scale nor rotation well.
MIN_SPREAD, MIN_REACH = 0.25, 40.0
# Without landmarks: height of the middle 96 % of the vertices of faces, in frame units.
BOUNDS_HEIGHT = 2.0


@dataclass(frozen=True)
class Anchor:
    """A group of landmarks whose mean moves little with the expression.

    More than half of the group must be present; otherwise the frame is fitted without this anchor.

    Attributes:
        landmarks: numbers of the landmarks.
        position: position of their mean on the mean face, mm.
        weight: weight of the squared distance between the two.
    """

    landmarks: tuple[int, ...]
    position: tuple[float, float, float]
    weight: float = STABLE


@dataclass(frozen=True)
class LandmarkScheme:
    """Numbering of a landmark set.

    Attributes:
        anchors: the anchors, the subject's right side first.
        outline: landmarks that distinguish front from back.
    """

    anchors: tuple[Anchor, ...]
    outline: tuple[Anchor, ...]


# Mouth and brows are not anchors in any scheme: they move with the expression, and the frame must not. In side views
# the far half of the landmarks is missing, so Bosphorus' anchors are single points.
SCHEMES = {
    22: LandmarkScheme(
        (
            *(Anchor((6 + i,), position) for i, position in enumerate(EYE_CORNERS)),
            Anchor((13,), NOSE_TIP),
            *(Anchor((i,), position, BASE) for i, position in zip((12, 14), NOSE_WINGS, strict=True)),
        ),
        (Anchor(tuple(range(15, 21)), MOUTH), Anchor((21,), CHIN)),
    ),
    68: LandmarkScheme(
        (
            Anchor((36, 39), EYE_RIGHT),
            Anchor((42, 45), EYE_LEFT),
            Anchor((0,), EAR_RIGHT, BRIDGE),
            Anchor((16,), EAR_LEFT, BRIDGE),
            Anchor((28,), UPPER_BRIDGE, BRIDGE),
            Anchor((29,), LOWER_BRIDGE, BRIDGE),
            Anchor((30,), NOSE_TIP, BRIDGE),
            Anchor(tuple(range(31, 36)), NOSE_BASE, BASE),
        ),
        (Anchor(tuple(range(17)), OUTLINE),),
    ),
    # The corners of an eye are opposite each other on its contour.
    83: LandmarkScheme(
        (
            Anchor((0, 4), EYE_RIGHT),
            Anchor((8, 12), EYE_LEFT),
            Anchor((68,), EAR_RIGHT, BRIDGE),
            Anchor((82,), EAR_LEFT, BRIDGE),
            Anchor((36, 47), NOSE_ROOT, BRIDGE),
            Anchor((37, 46), NOSE_SIDES, BRIDGE),
            Anchor(tuple(range(38, 46)), NOSE_EDGE, BASE),
        ),
        (Anchor(tuple(range(68, 83)), OUTLINE),),
    ),
}


def canonical_frame(mesh: Mesh, axes: str = UPRIGHT) -> Frame:
    """Compute the similarity from the axes of `mesh` to the canonical frame.

    Args:
        mesh: the scan.
        axes: see `parse_axes`. Landmarks give the frame without them, except that left-handed axes mirror the scan.

    Raises:
        MeshError: the mesh has no extent, so the scale is undefined.
    """
    matrix = matrix_of_axes(axes)
    found = None if mesh.landmarks is None else _fit_landmarks(mesh.landmarks.astype(np.float64) @ matrix)
    method, fit = ("landmarks", found) if found else ("bounds", _fit_bounds(mesh.vertices[main_piece(mesh)] @ matrix))
    scale, R, T = fit
    return _make_frame(method, scale, matrix @ R, T, mesh.origin)


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


Similarity: TypeAlias = tuple[float, NDArray[np.float64], NDArray[np.float64]]
"""Scale s, rotation R [3, 3] and shift T [3]."""


def fit_similarity(
    source: NDArray[np.float64], target: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> Similarity:
    """Fit scale s, rotation R [3, 3] and shift T [3] that minimise sum_n w_n |s source_n R + T - target_n|^2.

    There is no reflection. Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 13(4), 1991, equations 40-42, in row-vector form and with weights [N], which are 1 by default.
    """
    w = np.ones(len(source)) if weights is None else weights
    source_mean, target_mean = np.average(source, axis=0, weights=w), np.average(target, axis=0, weights=w)
    X, Y = source - source_mean, target - target_mean
    U, singular, Vt = np.linalg.svd((w[:, None] * X).T @ Y)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * signs) @ Vt
    scale = float((singular * signs).sum() / (w @ X**2).sum())
    return scale, R, target_mean - scale * source_mean @ R


def _fit_landmarks(points: NDArray[np.float64]) -> Similarity | None:
    scheme = SCHEMES.get(len(points))
    if scheme is None:
        return None
    source, target, weights = _anchor_means(points, scheme.anchors, min_share=0.5)
    outline, front, _ = _anchor_means(points, scheme.outline, min_share=0.0)
    if not _can_fit_face(source, target) or len(outline) == 0:
        return None
    # The files do not state which side comes first: fit both, and let the outline decide.
    fits = (_fit_face(source, side, weights, outline, front) for side in (target, target * (-1, 1, 1)))
    return min((fit for fit in fits if fit), key=lambda fit: fit[0], default=(0.0, None))[1]


def _anchor_means(
    points: NDArray[np.float64], anchors: Sequence[Anchor], min_share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Means of the anchors with over `min_share` of their points, and their positions (mm): [A, 3]; weights [A]."""
    means, positions, weights = [], [], []
    for anchor in anchors:
        group = points[list(anchor.landmarks)]
        known = group[np.isfinite(group).all(axis=1)]
        if len(known) > min_share * len(group):
            means.append(known.mean(axis=0))
            positions.append(anchor.position)
            weights.append(anchor.weight)
    return np.reshape(means, (-1, 3)), np.reshape(positions, (-1, 3)), np.array(weights)


def _can_fit_face(source: NDArray[np.float64], target: NDArray[np.float64]) -> bool:
    """Return whether there are three or more anchors, far apart and not all near one line."""
    if len(source) < 3 or np.ptp(target, axis=0).max() < MIN_REACH:
        return False
    extents = np.linalg.svd(source - source.mean(axis=0), compute_uv=False)
    return bool(extents[1] > MIN_SPREAD * extents[0])


def _fit_face(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    weights: NDArray[np.float64],
    outline: NDArray[np.float64],
    front: NDArray[np.float64],
) -> tuple[float, Similarity] | None:
    """Fit the similarity from `source` to `target` (mm), with weights.

    Returns:
        The error of the fit (residual plus distance of `outline` from `front` (mm), relative to their limits) and the
        similarity; None if the result is not a face.
    """
    target = (target - ORIGIN) / UNIT_MM
    scale, R, T = fit_similarity(source, target, weights)
    residual = np.sqrt(((scale * source @ R + T - target) ** 2).sum(axis=1).mean())
    moved = (scale * outline @ R + T) * UNIT_MM + ORIGIN
    distance = float(np.linalg.norm(moved.mean(axis=0) - front.mean(axis=0)))
    if scale <= 0 or residual > MAX_RESIDUAL or distance > MAX_OUTLINE_DISTANCE:
        return None
    return residual / MAX_RESIDUAL + distance / MAX_OUTLINE_DISTANCE, (scale, R, T)


def _fit_bounds(vertices: NDArray[np.float64]) -> Similarity:
    low, high = np.percentile(vertices, [2, 98], axis=0)
    extent = float((high - low).max())
    if extent <= 0:
        raise MeshError("no extent: all vertices are at one point")
    # The height is the largest extent of a face; a larger extent of another axis only enlarges the margin.
    scale = BOUNDS_HEIGHT / extent
    return scale, np.eye(3), -scale * (low + high) / 2


def _make_frame(
    method: str, scale: float, R: NDArray[np.float64], T: NDArray[np.float64], origin: tuple[float, float, float]
) -> Frame:
    """Build the frame for coordinates of the file from the similarity for coordinates relative to `origin`."""
    # Rounded to keep differences in the last bits between linear algebra libraries out of the shards.
    scale, R = float(f"{scale:.10g}"), np.round(R, 9)
    T = np.round(T - origin @ (scale * R), 9)
    return Frame.model_validate({"method": method, "scale": scale, "R": R.tolist(), "T": T.tolist()})
