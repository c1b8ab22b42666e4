"""The chart: a grid over the closed face with three slits in it, from which the skin is made.

A slit runs along one grid row. Its vertices exist twice, once for the skin above and once for the skin below, so that
lips and lids can part without tearing; only its corners are shared. A rim turns inwards from each slit, so that lips
and lids have thickness.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.faces import anatomy
from pipeline.faces.curves import Array

# Height, and the number of rows from it to the next height; denser where skin moves most.
ROWS = ((-97, 7), (-86, 12), (-60, 9), (-48, 10), (-37, 17), (-10, 9), (9, 8), (17.5, 12), (31, 11), (50, 11), (82, 0))
# Columns on each side of the middle, between the corners of eyes and mouth and the edge of the face.
COLUMNS = (12, 8, 11, 12)
EDGE = np.deg2rad(76.0)
# How far the rim lies from the slit (away from the middle of the opening) and behind it, ring by ring. The lips first
# reach past each other, so that no tooth gleams between closed ones.
MOUTH_RIM = ((-0.6, -1.5), (3.0, -6.0), (8.0, -21.0))
EYE_RIM = ((0.0, -1.5), (0.5, -4.5))


@dataclass(frozen=True, eq=False)
class Places:
    """Points on the closed face.

    Attributes:
        x, y: float [V], millimetres.
        above_mouth, above_eyes: bool [V], on which side of the mouth line and of the eye line a point lies.
    """

    x: Array
    y: Array
    above_mouth: NDArray[np.bool_]
    above_eyes: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Chart(Places):
    """The vertices of the skin, and how they hang together.

    Attributes:
        angle: float [V], a vertex's angle around the head, radians; the texture is laid out by it.
        parent: int [V], the vertex on the edge of a slit that a rim vertex hangs on; elsewhere the vertex itself.
        offset: float [V, 3], where it hangs from its parent.
        faces: int32 [F, 3], counter-clockwise from outside.
    """

    angle: Array
    parent: NDArray[np.intp]
    offset: Array
    faces: NDArray[np.int32]


class _Grid:
    """A grid that grows by slits: rows and columns of its vertices, and its quads."""

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self.cells = [(row, column) for row in range(num_rows) for column in range(num_columns)]
        self.parents = list(range(len(self.cells)))
        self.offsets = [(0.0, 0.0, 0.0)] * len(self.cells)
        self.below: set[int] = set()
        # A row's vertices as the skin above it sees them, and as the skin below it does.
        self.upper = np.arange(len(self.cells)).reshape(num_rows, num_columns)
        self.lower = self.upper.copy()
        self.quads: list[tuple[int, int, int, int]] = []

    def add(self, like: int, parent: int | None = None, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> int:
        """A new vertex at the place of `like`; it hangs on `parent`, or on nothing."""
        new = len(self.cells)
        self.cells.append(self.cells[like])
        self.parents.append(new if parent is None else parent)
        self.offsets.append(offset)
        if like in self.below:
            self.below.add(new)
        return new

    def cut(self, row: int, first: int, last: int, rim: tuple[tuple[float, float], ...]) -> None:
        """Slit the grid along `row` between the columns `first` and `last`, and hang `rim` on the edge."""
        for column in range(first + 1, last):
            self.lower[row, column] = self.add(self.upper[row, column])
            self.below.add(int(self.lower[row, column]))
        edge = [*self.upper[row, first : last + 1].tolist(), *self.lower[row, last - 1 : first : -1].tolist()]
        ring = edge
        for away, behind in rim:
            inward = [self.add(v, v, (0.0, -away if v in self.below else away, behind)) for v in edge]
            self.quads += zip(ring, ring[1:] + ring[:1], inward[1:] + inward[:1], inward, strict=True)
            ring = inward

    def triangles(self) -> NDArray[np.int32]:
        """The faces of the grid and of the rims."""
        bottom, top = self.upper[:-1], self.lower[1:]
        corners = np.stack([bottom[:, :-1], bottom[:, 1:], top[:, 1:], top[:, :-1]], axis=-1).reshape(-1, 4)
        quads = np.concatenate([corners, np.array(self.quads)]).astype(np.int32)
        return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def build_chart() -> Chart:
    """The chart of the face: a slit for the mouth and one for each eye."""
    heights, angles = _row_heights(), _column_angles()
    grid = _Grid(len(heights), len(angles))
    mouth, eyes = (int(np.argmin(np.abs(heights - y))) for y in (anatomy.MOUTH_LINE, anatomy.EYE_LINE))
    middle = len(angles) // 2
    inner, corner, outer = np.cumsum(COLUMNS)[:3]
    grid.cut(mouth, middle - corner, middle + corner, MOUTH_RIM)
    grid.cut(eyes, middle + inner, middle + outer, EYE_RIM)
    grid.cut(eyes, middle - outer, middle - inner, EYE_RIM)
    row, column = np.array(grid.cells).T
    is_below = np.isin(np.arange(len(row)), list(grid.below))
    return Chart(
        x=anatomy.half_width(heights[row]) * np.sin(angles[column]),
        y=heights[row],
        angle=angles[column],
        above_mouth=(row > mouth) | ((row == mouth) & ~is_below),
        above_eyes=(row > eyes) | ((row == eyes) & ~is_below),
        parent=np.array(grid.parents),
        offset=np.array(grid.offsets),
        faces=grid.triangles(),
    )


def _row_heights() -> Array:
    return _steps([float(y) for y, _ in ROWS], [n for _, n in ROWS[:-1]])


def _column_angles() -> Array:
    eye_width, mouth_width = anatomy.half_width(np.array([anatomy.EYE_LINE, anatomy.MOUTH_LINE]))
    inner, outer = np.arcsin(np.array(anatomy.EYE_CORNERS) / eye_width)
    corner = float(np.arcsin(anatomy.MOUTH_CORNER / mouth_width))
    left = _steps([0.0, inner, corner, outer, EDGE], list(COLUMNS))
    return np.concatenate([-left[:0:-1], left])


def _steps(knots: list[float], counts: list[int]) -> Array:
    parts = [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(knots[:-1], knots[1:], counts, strict=True)]
    return np.concatenate([*parts, np.array(knots[-1:])])
