"""Smooth functions of position from which the face is built: curves through knots, bumps and falloffs."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Points = Sequence[tuple[float, float]]
Array = NDArray[np.float64]


def interpolate(knots: Points, at: Array) -> Array:
    """Evaluate a smooth curve through `knots` (x, y), x increasing, at the positions `at`; constant beyond both ends.

    Cubic Hermite pieces with central-difference slopes: smooth, local and without the oscillation of one polynomial.
    """
    x, y = np.array(knots, float).T
    slopes = np.gradient(y, x)
    at = np.clip(at, x[0], x[-1])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    width = x[i + 1] - x[i]
    t = (at - x[i]) / width
    start, end = y[i] + t * width * slopes[i], y[i + 1] - (1 - t) * width * slopes[i + 1]
    blend = t * t * (3 - 2 * t)
    return start * (1 - blend) + end * blend


def bump(x: Array, y: Array, at: tuple[float, float], spread: tuple[float, float]) -> Array:
    """Gaussian bump: 1 at `at`, standard deviations `spread` along x and y."""
    return np.exp(-0.5 * (((x - at[0]) / spread[0]) ** 2 + ((y - at[1]) / spread[1]) ** 2))


def mirrored_bump(x: Array, y: Array, at: tuple[float, float], spread: tuple[float, float]) -> Array:
    """A `bump` on both sides of the face."""
    return bump(np.abs(x), y, at, spread)


def cosine_falloff(distance: Array, reach: float) -> Array:
    """Cosine falloff: 1 at distance 0, 0 from `reach` on, with zero slope at both ends."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(np.abs(distance) / reach, 0, 1))


def smoothstep(value: Array, low: float, high: float) -> Array:
    """Smooth step: 0 up to `low`, 1 from `high` on."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def line_falloff(x: Array, y: Array, line: Points, width: float) -> Array:
    """Gaussian falloff of standard deviation `width` with the distance from the polyline `line`; 1 on the line."""
    nearest = np.full(np.broadcast(x, y).shape, np.inf)
    for (ax, ay), (bx, by) in pairwise(line):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2)
    return np.exp(-0.5 * nearest / width**2)
