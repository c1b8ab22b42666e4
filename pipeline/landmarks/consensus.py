"""Robust consensus of the points that networks find in several views: where the face is, and each of its landmarks."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Candidates below this height of their peak are ignored.
MIN_HEIGHT = 0.1
# Distance at which a candidate no longer supports a fit, in units of the mean face (mm): first for a hypothesis, later
# for its refinement.
TOLERANCES = (24.0, 18.0, 15.0)
# Distance at which candidates of one landmark in several views count half, mm on the mean face.
_AGREEMENT = 4.0
# Errors of a landmark of confidence 1, deviations from the shape model, distance from it at which a landmark counts
# half, and distance from which on it is not one of the face; mm on the mean face.
_ERROR, _DEVIATION, _OUTLIER, _TOO_FAR = 2.5, 3.0, 4.0, 12.0


@dataclass(frozen=True, eq=False)
class Candidates:
    """What networks found in views.

    Attributes:
        points: float64 [V, L, 3], NaN where nothing was found.
        heights: float64 [V, L], heights of the peaks, at most 1; 0 where nothing was found.
    """

    points: Floats
    heights: Floats


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Landmarks of faces: normally distributed about their mean.

    Attributes:
        mean: float64 [L, 3], millimetres.
        modes: float64 [K, L, 3], principal components of the length of one standard deviation, millimetres.
    """

    mean: Floats
    modes: Floats


@dataclass(frozen=True, eq=False)
class Pose:
    """Similarity from the mean face to the scan, x = scale * mean R + T (row vectors), and its support.

    Attributes:
        scale: Units of the scan in a millimetre of the mean face.
        R: float64 [3, 3].
        T: float64 [3].
        support: from 0 to 1: mean over the landmarks of their best candidate that agrees.
    """

    scale: float
    R: Floats
    T: Floats
    support: float

    def to_scan(self, points: Floats) -> Floats:
        """Bring points [N, 3] of the mean face into the scan."""
        return self.scale * (points[:, :, None] * self.R).sum(axis=1) + self.T

    def to_mean(self, points: Floats) -> Floats:
        """Bring points [N, 3] of the scan to the mean face."""
        return ((points - self.T)[:, None] * self.R).sum(axis=2) / self.scale


def find_pose(candidates: Candidates, mean: Floats, scales: tuple[float, float] = (0.0, math.inf)) -> Pose | None:
    """Find the similarity that most candidates agree with: each view proposes one, the candidates of all views vote.

    Args:
        candidates: of all views.
        mean: float64 [L, 3], the mean face in millimetres.
        scales: the least and the largest `Pose.scale`.

    Returns:
        The pose, or None if no view has three candidates of a face of this size.
    """
    is_found = candidates.heights > MIN_HEIGHT
    weights = np.where(is_found, candidates.heights, 0.0)[is_found.sum(axis=1) >= 3]
    if len(weights) == 0:
        return None
    in_views = np.where(is_found[..., None], candidates.points, 0.0)[is_found.sum(axis=1) >= 3]
    fits = _of_size(_fit(np.broadcast_to(mean, in_views.shape), in_views, weights), scales)
    if fits is None:
        return None
    _, numbers = np.nonzero(is_found)
    points, heights = candidates.points[is_found], candidates.heights[is_found]
    for tolerance in TOLERANCES:
        support = _support(fits, mean[numbers], points, heights, tolerance)
        best = int(support.sum(axis=1).argmax())
        fits = _of_size(_fit(mean[numbers][None], points[None], support[best][None] + 1e-9), scales)
        if fits is None:
            return None
    support = _support(fits, mean[numbers], points, heights, TOLERANCES[-1])[0]
    best_of = np.zeros(len(mean))
    np.maximum.at(best_of, numbers, support)
    scale, R, T = (part[0] for part in fits)
    # Rounded to keep differences in the last bits between linear algebra libraries out of the result.
    return Pose(float(f"{scale:.7g}"), np.round(R, 7), _rounded(T, scale), float(best_of.mean()))


def fit_pose(mean: Floats, points: Floats, weights: Floats) -> Pose:
    """Fit the mean face to landmarks, with weights [L]; its support is the mean weight."""
    scale, R, T = (part[0] for part in _fit(mean[None], points[None], weights[None] + 1e-9))
    return Pose(float(f"{scale:.7g}"), np.round(R, 7), _rounded(T, scale), float(weights.mean()))


def agree(candidates: Candidates, faces: ShapeModel, pose: Pose) -> tuple[Floats, Floats]:
    """Combine the candidates of all views to one point and one confidence for each landmark.

    What was found is corrected by what is likely for a face, the more the less confident it is. A landmark that no view
    shows is placed as the others imply.

    Returns:
        Points float64 [L, 3] and confidences float64 [L], from 0 to 1.
    """
    unit = _AGREEMENT * pose.scale
    heights = np.where(candidates.heights > MIN_HEIGHT, candidates.heights, 0.0)
    points = np.where(heights[..., None] > 0, candidates.points, 0.0)
    # Start at the candidate that the others agree with most; a view that sees something else is outvoted.
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=-1) / unit**2
    votes = (heights[None] / (1 + apart)).sum(axis=1) * heights
    first = votes.argmax(axis=0)
    found = np.take_along_axis(points, first[None, :, None], axis=0)[0]
    for _ in range(4):
        far = ((points - found) ** 2).sum(axis=-1) / unit**2
        weights = heights**2 / (1 + far) ** 2
        total = weights.sum(axis=0)
        found = (weights[..., None] * points).sum(axis=0) / np.maximum(total, 1e-9)[:, None]
    far = ((points - found) ** 2).sum(axis=-1) / unit**2
    confidence = np.clip((heights / (1 + far)).max(axis=0), 0, 1)
    likely, is_far = _most_likely(pose.to_mean(found), confidence, faces)
    confidence = np.where(is_far, 0.0, confidence)
    return _rounded(pose.to_scan(likely), pose.scale), confidence


def _most_likely(found: Floats, confidence: Floats, faces: ShapeModel) -> tuple[Floats, NDArray[np.bool_]]:
    """The most likely landmarks of a face given noisy ones, all in the axes of the mean face (mm).

    A face is the mean plus a normally distributed sum of modes plus small deviations of each landmark; what was found
    has an error that is larger at low confidence.

    Returns:
        The landmarks [L, 3], and which of those that were found are too far from the face to be its landmarks, [L].
    """
    modes = faces.modes.reshape(len(faces.modes), -1)
    weights = confidence**2 / _ERROR**2
    shape = faces.mean
    for _ in range(3):
        squares = ((found - shape) ** 2).sum(axis=1)
        robust = np.repeat(weights / (1 + squares / _OUTLIER**2), 3)
        # Solved by numpy's linear algebra; the result is rounded.
        normal = (modes[:, None] * modes[None] * robust).sum(axis=2) + np.eye(len(modes))
        sums = (modes * robust * (found - faces.mean).ravel()).sum(axis=1)
        strengths = np.round(np.linalg.solve(normal, sums), 7)
        shape = faces.mean + (strengths[:, None] * modes).sum(axis=0).reshape(-1, 3)
    is_far = ((found - shape) ** 2).sum(axis=1) > _TOO_FAR**2
    trust = np.where(is_far, 0.0, weights / (weights + 1 / _DEVIATION**2))
    return shape + trust[:, None] * (found - shape), is_far


def _rounded(points: Floats, scale: float) -> Floats:
    """Round to about a thousandth of a millimetre: a power of two, in any unit."""
    step = 2.0 ** (np.frexp(scale)[1] - 10)
    return np.round(points / step) * step


def _fit(source: Floats, target: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit N similarities at once, see `smile_pipe.pipeline.landmarks.landmark_fit.fit_similarity`.

    Args:
        source, target: float64 [N, P, 3].
        weights: float64 [N, P].
    """
    w = (weights / weights.sum(axis=1, keepdims=True))[..., None]
    source_mean, target_mean = (w * source).sum(axis=1), (w * target).sum(axis=1)
    X, Y = source - source_mean[:, None], target - target_mean[:, None]
    U, singular, Vt = np.linalg.svd(((w * X)[..., :, None] * Y[..., None, :]).sum(axis=1))
    signs = np.ones((len(source), 3))
    signs[:, 2] = np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    R = ((U * signs[:, None])[..., None] * Vt[:, None]).sum(axis=2)
    scale = (singular * signs).sum(axis=1) / np.maximum((w * X**2).sum(axis=(1, 2)), 1e-12)
    scale = np.maximum(scale, 1e-12)
    return scale, R, target_mean - scale[:, None] * (source_mean[:, :, None] * R).sum(axis=1)


def _of_size(fits: tuple[Floats, Floats, Floats], scales: tuple[float, float]) -> tuple[Floats, Floats, Floats] | None:
    """The similarities whose scales are between two; None if there are none."""
    is_kept = (scales[0] <= fits[0]) & (fits[0] <= scales[1])
    return (fits[0][is_kept], fits[1][is_kept], fits[2][is_kept]) if is_kept.any() else None


def _support(
    fits: tuple[Floats, Floats, Floats], mean: Floats, points: Floats, heights: Floats, tolerance: float
) -> Floats:
    """Support [N, M] of each candidate for each fit: its height, less with the distance, 0 beyond the tolerance."""
    scale, R, T = fits
    expected = scale[:, None, None] * (mean[None, :, :, None] * R[:, None]).sum(axis=2) + T[:, None]
    squares = ((expected - points) ** 2).sum(axis=-1)
    return heights * np.clip(1 - squares / (tolerance * scale[:, None]) ** 2, 0, None)
