"""Robust fit of the canonical frame to landmarks of which some may be missing or wrong.

The similarity is fitted to the anchors alone, which move little with the expression. Whether the landmarks are those of
a face is decided by all of them, each compared with its own place on the mean face, so that a part of a set is as good
as the whole. Landmarks far from their place have no weight.

If an anchor is wrong, the fit to all of them is wrong too. Then similarities from three anchor landmarks each are tried
(RANSAC, over all triples instead of random ones), and the one that most landmarks agree with is refined. Fischler and
Bolles, "Random sample consensus", Communications of the ACM 24(6), 1981.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.mean_face import ORIGIN, SCHEMES, UNIT_MM

Similarity: TypeAlias = tuple[float, NDArray[np.float64], NDArray[np.float64]]
"""Scale s, rotation R [3, 3] and shift T [3]."""
Float = TypeVar("Float", np.float32, np.float64)

# A distance from the mean face is relative to the tolerance of the landmark. The error of a fit is the mean of
# min(distance^2, 1). Measured with all expressions at all levels: up to 0.30 on faces of usual shape, 0.38 with 1.7
# times the variation of shape; at least 0.50 for landmarks in another order, even by one place.
MAX_ERROR = 0.45
MIN_POINTS = 6
# Below this error the sides are as documented, and the other numbering is not tried. Measured: at least 0.26 for halves
# of sets with exchanged sides, 0.73 for whole sets.
SURE_ERROR = 0.2
# The weight of an anchor falls from 1 at this distance to 0 at distance 1. If one is farther away, fits without it are
# tried too.
FULL_WEIGHT = 0.5
# Anchors closer to one line than this (second extent over first) leave the rotation about it undefined. Anchors of the
# nose alone, less than this far apart (mm), determine neither scale nor rotation well.
MIN_SPREAD, MIN_REACH = 0.15, 40.0
# Fits of an anchor set change little after this many rounds of weighting.
_NUM_ROUNDS = 6
_NUM_TRIPLES, _NUM_REFINED = 200, 2
# Sets of 51 points are the 68 without the outline.
_INNER, _ALL = 51, 68


@dataclass(frozen=True, eq=False)
class LandmarkFit:
    """A similarity from landmarks to the canonical frame.

    Attributes:
        similarity: scale, rotation and shift.
        is_used: bool [L], the landmarks that are known and near their place on the mean face.
        distances: float64 [L], from the mean face; those of missing landmarks have no meaning.
        error: see `MAX_ERROR`.
        residual: root mean square distance of the anchors from their places, frame units.
        num_points: number of landmarks that the similarity is fitted to.
    """

    similarity: Similarity
    is_used: NDArray[np.bool_]
    distances: NDArray[np.float64]
    error: float
    residual: float
    num_points: int


@dataclass(frozen=True, eq=False)
class _Target:
    """The mean face in frame units, with the sides as documented or exchanged.

    Attributes:
        positions, tolerances: [L, 3]; see `LandmarkScheme`.
        opposite_positions: [L, 3], the second place of a landmark; None if no landmark has one.
        members: [A, L], 1 for the landmarks of each anchor.
        weights: [A], of the anchors.
        is_pair: [A]; see `Anchor`.
        offsets: [A, 3], from the mean of the positions of an anchor's landmarks to its position.
        landmarks: the landmarks of all anchors.
    """

    positions: NDArray[np.float64]
    opposite_positions: NDArray[np.float64] | None
    tolerances: NDArray[np.float64]
    members: NDArray[np.float64]
    weights: NDArray[np.float64]
    is_pair: NDArray[np.bool_]
    offsets: NDArray[np.float64]
    landmarks: NDArray[np.intp]


def to_known_size(landmarks: NDArray[Float]) -> NDArray[Float] | None:
    """Return landmarks [L, 3] as one of the known sets, with NaN for what is missing; None if there is none."""
    if len(landmarks) == _INNER:
        landmarks = np.concatenate([np.full((_ALL - _INNER, 3), np.nan, landmarks.dtype), landmarks])
    return landmarks if len(landmarks) in SCHEMES else None


def fit_landmarks(landmarks: NDArray[np.float64]) -> LandmarkFit | None:
    """Fit the canonical frame to landmarks [L, 3], in any unit; a missing point is NaN.

    The files do not state which side comes first, so both are tried.

    Returns:
        The fit; None if the set is unknown, has too few points, or does not form a face.
    """
    points = to_known_size(landmarks)
    if points is None:
        return None
    known = np.isfinite(points.sum(axis=1))
    points = np.where(known[:, None], points, 0)
    fits: list[LandmarkFit | None] = []
    for is_mirrored in (False, True):
        target = _target(len(points), is_mirrored)
        fit = _refine(points, known, known.astype(np.float64), target)
        fits.append(fit)
        if fit is None or fit.distances[target.landmarks][known[target.landmarks]].max() > FULL_WEIGHT:
            fits += [_refine(points, known, weights, target) for weights in _weights_of_triples(points, known, target)]
        elif fit.error < SURE_ERROR and known.sum() > len(points) / 2:
            break
    best = min((fit for fit in fits if fit), key=lambda fit: fit.error, default=None)
    if best is None or best.error > MAX_ERROR or best.is_used.sum() < MIN_POINTS:
        return None
    return best


def fit_similarity(
    source: NDArray[np.float64], target: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> Similarity:
    """Fit scale s, rotation R [3, 3] and shift T [3] that minimise sum_n w_n |s source_n R + T - target_n|^2.

    There is no reflection. Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 13(4), 1991, equations 40-42, in row-vector form and with weights [N], which are 1 by default.
    """
    w = np.ones(len(source)) if weights is None else weights
    scales, R, T = _fit_similarities(source[None], target[None], w)
    return float(scales[0]), R[0], T[0]


def _fit_similarities(
    sources: NDArray[np.float64], targets: NDArray[np.float64], w: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit one similarity to each of K pairs of point sets [K, N, 3] with common weights [N]; see `fit_similarity`."""
    source_means, target_means = (np.average(x, axis=1, weights=w)[:, None] for x in (sources, targets))
    X, Y = sources - source_means, targets - target_means
    U, singular, Vt = np.linalg.svd((w[:, None] * X).swapaxes(1, 2) @ Y)
    signs = np.ones_like(singular)
    signs[:, 2] = np.sign(np.linalg.det(U @ Vt))
    R = (U * signs[:, None]) @ Vt
    with np.errstate(invalid="ignore", divide="ignore"):  # all points at one place
        scales = (singular * signs).sum(axis=1) / (w @ X**2).sum(axis=1)
    return scales, R, (target_means - scales[:, None, None] * source_means @ R)[:, 0]


@cache
def _target(num_landmarks: int, is_mirrored: bool) -> _Target:
    scheme = SCHEMES[num_landmarks]
    opposites = scheme.opposites
    side = (-1.0, 1.0, 1.0) if is_mirrored else (1.0, 1.0, 1.0)
    positions = (scheme.positions * side - ORIGIN) / UNIT_MM
    members = np.zeros((len(scheme.anchors), num_landmarks))
    for row, anchor in zip(members, scheme.anchors, strict=True):
        row[list(anchor.landmarks)] = 1
    anchors = (np.array([anchor.position for anchor in scheme.anchors]) * side - ORIGIN) / UNIT_MM
    return _Target(
        positions=positions,
        opposite_positions=None if (opposites == np.arange(num_landmarks)).all() else positions[opposites],
        tolerances=scheme.tolerances / UNIT_MM,
        members=members,
        weights=np.array([anchor.weight for anchor in scheme.anchors]),
        is_pair=np.array([anchor.is_pair for anchor in scheme.anchors]),
        offsets=anchors - members @ positions / members.sum(axis=1, keepdims=True),
        landmarks=np.flatnonzero(members.any(axis=0)),
    )


def _refine(
    points: NDArray[np.float64], known: NDArray[np.bool_], weights: NDArray[np.float64], target: _Target
) -> LandmarkFit | None:
    """Fit the anchors with weights [L] of their landmarks, and weigh them by their distance, until nothing changes.

    Returns:
        None if there are not three anchors with weight, far apart and not all near one line.
    """
    for _ in range(_NUM_ROUNDS):
        shares = target.members * weights
        shares[target.is_pair & ((shares > 0).sum(axis=1) < 2)] = 0
        has_weight = shares.any(axis=1)
        shares = shares[has_weight]
        totals = shares.sum(axis=1, keepdims=True)
        source = shares @ points / totals
        # An anchor with a part of its landmarks is compared with their part of the mean face.
        goal = shares @ target.positions / totals + target.offsets[has_weight]
        if not _can_fit_face(source, goal):
            return None
        scale, R, T = fit_similarity(source, goal, target.weights[has_weight] * shares.max(axis=1))
        if not scale > 0:
            return None
        distances = _distances(points, scale, R, T, target)
        used, last = known & (distances < 1), weights
        weights = np.where(known, np.clip((1 - distances) / (1 - FULL_WEIGHT), 0, 1), 0)
        if (weights[target.landmarks] == last[target.landmarks]).all():
            break
    error = float(np.minimum(distances[known] ** 2, 1).mean())
    residual = float(np.sqrt(((scale * source @ R + T - goal) ** 2).sum(axis=1).mean()))
    return LandmarkFit((scale, R, T), used, distances, error, residual, int(shares.any(axis=0).sum()))


def _distances(
    points: NDArray[np.float64],
    scale: NDArray[np.float64] | float,
    R: NDArray[np.float64],
    T: NDArray[np.float64],
    target: _Target,
) -> NDArray[np.float64]:
    """Distances of points [L, 3] from the mean face, relative to the tolerances: [L], or [K, L] for K similarities."""
    placed = np.multiply(scale, 1.0)[..., None, None] * (points @ R) + np.asarray(T)[..., None, :]
    distances = np.sqrt((((placed - target.positions) / target.tolerances) ** 2).sum(axis=-1))
    if target.opposite_positions is None:
        return distances
    return np.minimum(
        distances, np.sqrt((((placed - target.opposite_positions) / target.tolerances) ** 2).sum(axis=-1))
    )


def _can_fit_face(source: NDArray[np.float64], goal: NDArray[np.float64]) -> bool:
    """Return whether there are three or more anchors, far apart and not all near one line."""
    if len(source) < 3 or np.ptp(goal, axis=0).max() * UNIT_MM < MIN_REACH:
        return False
    extents = np.linalg.svd(source - source.mean(axis=0), compute_uv=False)
    return bool(extents[1] > MIN_SPREAD * extents[0])


def _weights_of_triples(
    points: NDArray[np.float64], known: NDArray[np.bool_], target: _Target
) -> list[NDArray[np.float64]]:
    """Weights [L] of the landmarks that agree with the best similarities of three known anchor landmarks each.

    The middle of a pair counts as one of the three.
    """
    single = target.members[~target.is_pair].any(axis=0)
    rows = np.concatenate([np.diag(single)[single], target.members[target.is_pair] / 2])
    rows = rows[(rows[:, ~known] == 0).all(axis=1)]
    triples = np.array(list(combinations(range(len(rows)), 3)), int).reshape(-1, 3)
    triples = triples[:: max(-(-len(triples) // _NUM_TRIPLES), 1)]
    similarities = _fit_similarities((rows @ points)[triples], (rows @ target.positions)[triples], np.ones(3))
    distances = _distances(points, *similarities, target)
    errors = np.minimum(np.nan_to_num(distances[:, known], nan=1.0) ** 2, 1).mean(axis=1)
    best = np.argsort(errors, kind="stable")[:_NUM_REFINED]
    return [(known & (distances[number] < 1)).astype(np.float64) for number in best]
