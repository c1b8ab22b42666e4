"""Triangles from polygons (fans around the first corner, correct for convex polygons) and from range images."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

MAX_SLOPE = 6.0
"""Limit of the slope of a triangle, in z per unit of x and y (80.5 degrees). Steeper ones span a step in depth."""


def find_line_length(points: NDArray[np.float64], valid: NDArray[np.bool_], lengths: tuple[int, ...]) -> int:
    """Return which of `lengths` is the line length of a grid: the one for which points of adjacent lines are closer.

    Args:
        points: [N, 3], line by line.
        valid: [N], False for background.
        lengths: the two sides of the grid.
    """
    steps = {}
    for length in lengths:
        pairs = np.flatnonzero(valid[length:] & valid[: len(valid) - length])
        apart = points[pairs + length, :2] - points[pairs, :2]
        steps[length] = float(np.median((apart**2).sum(axis=1))) if len(pairs) else np.inf
    return min(lengths, key=lambda length: steps[length])


def mesh_grid(points: NDArray[np.float64], valid: NDArray[np.bool_], length: int) -> NDArray[np.int32]:
    """Build triangles from a grid of points, with normals towards +z.

    A cell gives two triangles, cut along its shorter diagonal; one triangle if one corner is background; none if more
    are. A triangle with a slope of `MAX_SLOPE` or more is dropped: the difference in depth is that many times the
    distance of its points in x and y.

    Args:
        points: [N, 3], line by line.
        valid: [N], False for background.
        length: points per line.

    Returns:
        int32 [F, 3], indices into `points`.
    """
    faces, area = _grid_faces(points, valid, length, MAX_SLOPE)
    return faces if area >= 0.0 else np.ascontiguousarray(faces[:, ::-1])


@njit(cache=True, nogil=True)
def _grid_faces(
    points: NDArray[np.float64], valid: NDArray[np.bool_], length: int, max_slope: float
) -> tuple[NDArray[np.int32], float]:
    """Build triangles with one winding on the grid, and twice their signed area in x and y (negative if clockwise)."""
    num_lines = len(points) // length
    faces = np.empty((2 * max(num_lines - 1, 0) * (length - 1), 3), np.int32)
    count, area = 0, 0.0
    for line in range(num_lines - 1):
        for i in range(line * length, (line + 1) * length - 1):
            a, b, c, d = i, i + 1, i + 1 + length, i + length
            ac = _distance(points, a, c) if valid[a] and valid[c] else np.inf
            bd = _distance(points, b, d) if valid[b] and valid[d] else np.inf
            for p, q, r in ((a, b, c), (a, c, d)) if ac <= bd else ((a, b, d), (b, c, d)):
                if not (valid[p] and valid[q] and valid[r]):
                    continue
                across, rise = _projected_area(points, p, q, r)
                if rise < max_slope * abs(across):
                    faces[count, 0], faces[count, 1], faces[count, 2] = p, q, r
                    count += 1
                    area += across
    return faces[:count].copy(), area


@njit(cache=True, nogil=True)
def _distance(points: NDArray[np.float64], p: int, q: int) -> float:
    """Squared distance of two points."""
    x, y, z = points[p, 0] - points[q, 0], points[p, 1] - points[q, 1], points[p, 2] - points[q, 2]
    return x * x + y * y + z * z


@njit(cache=True, nogil=True)
def _projected_area(points: NDArray[np.float64], p: int, q: int, r: int) -> tuple[float, float]:
    """Return the z of a triangle's normal, twice its area in x and y, and the length of the normal's x and y.

    The slope of the plane of the triangle is the second divided by the first.
    """
    ux, uy, uz = points[q, 0] - points[p, 0], points[q, 1] - points[p, 1], points[q, 2] - points[p, 2]
    vx, vy, vz = points[r, 0] - points[p, 0], points[r, 1] - points[p, 1], points[r, 2] - points[p, 2]
    return ux * vy - uy * vx, np.hypot(uy * vz - uz * vy, uz * vx - ux * vz)


def triangulate(corners: NDArray[np.int32], *others: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Split polygons into triangles.

    Args:
        corners: [N], vertex indices of the corners of all polygons, each polygon followed by -1 (optional for the
            last). Polygons of fewer than three corners are dropped.
        others: [N] each, further values of the corners, such as texture coordinate indices.

    Returns:
        int32 [F, 3] for `corners` and for each of `others`.
    """
    if _are_triangles(corners):
        return [_drop_terminators(values) for values in (corners, *others)]
    triangles = fan_triangles(corners)
    return [np.take(values, triangles) for values in (corners, *others)]


@njit(cache=True, nogil=True)
def _are_triangles(corners: NDArray[np.int32]) -> bool:
    """Return whether every polygon has exactly three corners and an end."""
    wrong = len(corners) & 3
    for i in range(len(corners) >> 2):
        a, b, c, end = corners[4 * i], corners[4 * i + 1], corners[4 * i + 2], corners[4 * i + 3]
        wrong |= (a == -1) | (b == -1) | (c == -1) | (end != -1)
    return wrong == 0


@njit(cache=True, nogil=True)
def has_short_polygons(corners: NDArray[np.int32]) -> bool:
    """Return whether a polygon of `corners` (see `triangulate`) has one or two corners."""
    length = 0
    for corner in corners:
        if corner == -1 and 0 < length < 3:
            return True
        length = 0 if corner == -1 else length + 1
    return 0 < length < 3


@njit(cache=True, nogil=True)
def _drop_terminators(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Keep the first three of every four values, as [F, 3]. Ten times as fast as a copied slice."""
    out = np.empty((len(values) >> 2, 3), np.int32)
    for i in range(len(out)):
        out[i, 0], out[i, 1], out[i, 2] = values[4 * i], values[4 * i + 1], values[4 * i + 2]
    return out


@njit(cache=True, nogil=True)
def fan_triangles(corners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return positions in `corners` (see `triangulate`) of the corners of the triangles, int32 [F, 3]."""
    total = length = 0
    for corner in corners:
        length = 0 if corner == -1 else length + 1
        total += length >= 3
    triangles = np.empty((total, 3), np.int32)
    row = first = 0
    for i in range(len(corners)):
        if corners[i] == -1:
            first = i + 1
        elif i >= first + 2:
            triangles[row, 0], triangles[row, 1], triangles[row, 2] = first, i - 1, i
            row += 1
    return triangles
