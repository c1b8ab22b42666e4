"""Facial parts in the three supported landmark sets, and the end points of these parts.

Landmarks are in the canonical frame. The sets differ in the first point of a ring and in the first side, and the files
of BU-3DFE do not state either. So the ends of a brow, an eye or a mouth are found by position, not by number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Parts:
    """Landmark numbers by part. A part without landmarks in a set is empty.

    Attributes:
        brows: one tuple per side.
        eyes: one tuple per side.
        nose_wings: the two wings.
        nose_middle: below the tip, between the nostrils.
        outer_lips: ring of the outer lip contour.
        inner_lips: inner contour; in sets that identify them, the middle of the upper lip, then that of the lower lip.
        chin: middle of the chin.
    """

    brows: tuple[tuple[int, ...], tuple[int, ...]]
    eyes: tuple[tuple[int, ...], tuple[int, ...]]
    nose_wings: tuple[int, ...]
    nose_middle: tuple[int, ...]
    outer_lips: tuple[int, ...]
    inner_lips: tuple[int, ...]
    chin: int


def _span(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


# By the number of landmarks: iBUG's 68, BU-3DFE's 83 (our reading, see `pipeline/face_model/chart.py`) and Bosphorus'
# 22 named ones, in the order of `LM3_NAMES`.
PARTS = {
    22: Parts(
        brows=(_span(0, 2), _span(3, 5)),
        eyes=(_span(6, 7), _span(8, 9)),
        nose_wings=(12, 14),
        nose_middle=(),
        outer_lips=(15, 16, 17, 20),
        inner_lips=(18, 19),
        chin=21,
    ),
    68: Parts(
        brows=(_span(17, 21), _span(22, 26)),
        eyes=(_span(36, 41), _span(42, 47)),
        nose_wings=(31, 35),
        nose_middle=(33,),
        outer_lips=_span(48, 59),
        inner_lips=(62, 66),
        chin=8,
    ),
    83: Parts(
        brows=(_span(16, 25), _span(26, 35)),
        eyes=(_span(0, 7), _span(8, 15)),
        nose_wings=(39, 44),
        nose_middle=(41, 42),
        outer_lips=_span(48, 59),
        inner_lips=_span(60, 67),
        chin=75,
    ),
}


def select_points(points: Points, numbers: Sequence[int]) -> Points:
    """Return the landmarks [N, 3] of a part out of `points` [L, 3].

    All are NaN if one is missing, since the ends of the remaining points are not the ends of the part.
    """
    part = points[list(numbers)]
    return part if np.isfinite(part).all() else np.full_like(part, np.nan)


def brow_ends(brow: Points) -> tuple[Points, Points]:
    """Return the inner and the outer end of a brow, [3] each: means of the inner fifth and the outer two fifths."""
    from_inside = brow[np.argsort(np.abs(brow[:, 0]))]
    num_inner, num_outer = (max(1, fifths * len(brow) // 5) for fifths in (1, 2))
    return from_inside[:num_inner].mean(axis=0), from_inside[-num_outer:].mean(axis=0)


def lid_heights(eye: Points) -> tuple[float, float]:
    """Return the mean heights of the upper and the lower lid; NaN if the eye has only its corners."""
    lids = eye[np.argsort(eye[:, 0])][1:-1]
    if len(lids) < 2:
        return np.nan, np.nan
    # Along the eye, each upper point is next to a lower one. This also holds for a slanted eye that is nearly closed.
    pairs = lids[:, 1].reshape(-1, 2)
    return float(pairs.max(axis=1).mean()), float(pairs.min(axis=1).mean())


def left_right_ends(part: Points) -> Points:
    """Return the two ends of an eye or a mouth in x, [2, 3]."""
    return part[np.argsort(part[:, 0])[[0, -1]]]


def middle_points(lips: Points) -> tuple[Points, Points]:
    """Return the upper and the lower point, [3] each, in the middle of a ring of points (or of two points)."""
    if len(lips) == 2:
        return lips[0], lips[1]
    from_middle = np.abs(lips[:, 0] - np.median(lips[:, 0]))
    one, other = lips[np.argsort(from_middle)[:2]]
    return (one, other) if one[1] >= other[1] else (other, one)
