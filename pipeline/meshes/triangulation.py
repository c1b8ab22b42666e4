"""Triangles from polygons and from range images."""

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


_MAX_EAR_TESTS = 1 << 28  # comparisons of a point with a triangle in all polygons of a mesh; then fans are used


def triangulate(
    points: NDArray[np.floating], corners: NDArray[np.int32], *others: NDArray[np.int32]
) -> list[NDArray[np.int32]]:
    """Split polygons into triangles.

    Convex polygons become fans around their first corner; triangles are cut off the others one by one, so that none
    is outside the polygon (ear clipping).

    Args:
        points: [V, 3], the vertices.
        corners: [N], vertex indices of the corners of all polygons, each polygon followed by -1 (optional for the
            last). Polygons of fewer than three corners are dropped.
        others: [N] each, further values of the corners, such as texture coordinate indices.

    Returns:
        int32 [F, 3] for `corners` and for each of `others`.
    """
    if _are_triangles(corners):
        return [_drop_terminators(values) for values in (corners, *others)]
    triangles = fan_triangles(corners)
    # Wrong indices are the caller's to report.
    if corners.max(initial=-1) < len(points) and corners.min(initial=0) >= -1:
        _clip_concave(np.ascontiguousarray(points, np.float64), corners, triangles, _MAX_EAR_TESTS)
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


@njit(cache=True, nogil=True)
def _clip_concave(
    points: NDArray[np.float64], corners: NDArray[np.int32], triangles: NDArray[np.int32], num_tests: int
) -> None:
    """Replace the fans of polygons that are not convex by triangles inside them.

    Args:
        points: [V, 3].
        corners: see `triangulate`; all indices are valid.
        triangles: [F, 3], from `fan_triangles`; changed.
        num_tests: limit of the work.
    """
    row = first = 0
    while first < len(corners):
        last = first
        while last < len(corners) and corners[last] != -1:
            last += 1
        if last - first > 3:
            flat = _flatten(points, corners[first:last])
            if not _is_convex(flat):
                num_tests = _clip_ears(flat, first, triangles[row : row + len(flat) - 2], num_tests)
        row += max(last - first - 2, 0)
        first = last + 1


@njit(cache=True, nogil=True)
def _flatten(points: NDArray[np.float64], corners: NDArray[np.int32]) -> NDArray[np.float64]:
    """Project a polygon along the largest axis of its normal (Newell's method), counterclockwise [N, 2]."""
    count, origin = len(corners), points[corners[0]]
    normal = np.zeros(3)
    for i in range(count):
        p, q = points[corners[i]] - origin, points[corners[(i + 1) % count]] - origin
        for axis in range(3):
            b, c = (axis + 1) % 3, (axis + 2) % 3
            normal[axis] += (p[b] - q[b]) * (p[c] + q[c])
    largest = int(np.argmax(np.abs(normal)))
    x, y = (largest + 1) % 3, (largest + 2) % 3
    if normal[largest] < 0:
        x, y = y, x
    flat = np.empty((count, 2))
    for i in range(count):
        flat[i, 0], flat[i, 1] = points[corners[i], x] - origin[x], points[corners[i], y] - origin[y]
    return flat


@njit(cache=True, nogil=True)
def _turn(flat: NDArray[np.float64], a: int, b: int, c: int) -> float:
    """Twice the area of a triangle, positive if it is counterclockwise."""
    ux, uy = flat[b, 0] - flat[a, 0], flat[b, 1] - flat[a, 1]
    vx, vy = flat[c, 0] - flat[a, 0], flat[c, 1] - flat[a, 1]
    return ux * vy - uy * vx


@njit(cache=True, nogil=True)
def _is_convex(flat: NDArray[np.float64]) -> bool:
    """Whether no corner turns clockwise by more than rounding."""
    size = 0.0
    for i in range(len(flat)):
        size = max(size, abs(flat[i, 0]), abs(flat[i, 1]))
    lowest = 0.0
    for i in range(len(flat)):
        lowest = min(lowest, _turn(flat, i - 1, i, (i + 1) % len(flat)))
    return lowest >= -1e-6 * size * size


@njit(cache=True, nogil=True)
def _clip_ears(flat: NDArray[np.float64], first: int, triangles: NDArray[np.int32], num_tests: int) -> int:
    """Cut triangles off a polygon [N, 2] until none is left; return the number of tests that are left.

    An ear is a triangle of adjacent corners that is inside the polygon and contains no other corner. If there is none,
    as in polygons that cross themselves, or no test is left, any triangle is cut off.

    Args:
        flat: see `_flatten`.
        first: number of the first corner.
        triangles: [N - 2, 3], numbers of the corners; set.
        num_tests: limit of the work.
    """
    count = len(flat)
    after = (np.arange(count) + 1) % count
    before = (np.arange(count) - 1) % count
    corner, num_failed = 1, 0
    for row in range(count - 2):
        num_left = count - row
        while num_failed < num_left and num_tests > 0 and not _is_ear(flat, before[corner], corner, after):
            num_tests -= num_left
            num_failed += 1
            corner = after[corner]
        num_tests -= num_left
        a, c = before[corner], after[corner]
        triangles[row, 0], triangles[row, 1], triangles[row, 2] = first + a, first + corner, first + c
        after[a], before[c] = c, a
        corner, num_failed = c, 0
    return num_tests


@njit(cache=True, nogil=True)
def _is_ear(flat: NDArray[np.float64], a: int, b: int, after: NDArray[np.int64]) -> bool:
    """Whether the corners a, b and the next are counterclockwise, and no other of the polygon (`after`) is inside."""
    c = after[b]
    if _turn(flat, a, b, c) <= 0.0:
        return False
    p = after[c]
    while p != a:
        is_inside = _turn(flat, a, b, p) >= 0.0 and _turn(flat, b, c, p) >= 0.0 and _turn(flat, c, a, p) >= 0.0
        # A polygon may visit a point twice, as those with holes do.
        if is_inside and not (_is_same(flat, p, a) or _is_same(flat, p, b) or _is_same(flat, p, c)):
            return False
        p = after[p]
    return True


@njit(cache=True, nogil=True)
def _is_same(flat: NDArray[np.float64], p: int, q: int) -> bool:
    return flat[p, 0] == flat[q, 0] and flat[p, 1] == flat[q, 1]
