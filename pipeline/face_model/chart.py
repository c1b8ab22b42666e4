"""The chart of the parametric face: a grid over the closed face with three slits, and its 83 landmark vertices.

A slit runs along one grid row. Its vertices are duplicated, one for the skin above and one for the skin below, so lips
and lids can open; only its corners are shared. A rim extends inwards from each slit, so lips and lids have thickness.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.curves import Array, Points

# Heights, with the number of rows from each to the next; denser where the skin moves most.
ROWS = ((-97, 7), (-86, 12), (-60, 9), (-48, 10), (-37, 17), (-10, 9), (9, 8), (17.5, 12), (31, 11), (50, 11), (82, 0))
# Columns on each side of the middle, between the corners of eyes and mouth and the edge of the face.
COLUMNS = (12, 8, 11, 12)
EDGE = np.deg2rad(76.0)
# Offset of each ring of the rim: away from the middle of the opening, and behind it. The first ring of the mouth
# overlaps the other lip, so no teeth are visible between closed lips.
MOUTH_RIM = ((-0.6, -1.5), (3.0, -6.0), (8.0, -21.0))
EYE_RIM = ((0.0, -1.5), (0.5, -4.5))


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points on the closed face.

    Attributes:
        x, y: float64 [V], millimetres.
        above_mouth, above_eyes: bool [V], whether a point belongs to the skin above the mouth line and the eye line.
    """

    x: Array
    y: Array
    above_mouth: NDArray[np.bool_]
    above_eyes: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Chart(SurfacePoints):
    """Vertices and faces of the skin.

    Attributes:
        angle: float64 [V], angle of a vertex around the head, radians; it gives the texture coordinate.
        parent: int [V], for a rim vertex the vertex on the edge of the slit that it follows; otherwise the vertex
            itself.
        offset: float64 [V, 3], position relative to the parent, millimetres.
        faces: int32 [F, 3], counter-clockwise seen from outside.
    """

    angle: Array
    parent: NDArray[np.intp]
    offset: Array
    faces: NDArray[np.int32]


class _Grid:
    """A grid of vertices and quads, into which slits are cut."""

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self.cells = [(row, column) for row in range(num_rows) for column in range(num_columns)]
        self.parents = list(range(len(self.cells)))
        self.offsets = [(0.0, 0.0, 0.0)] * len(self.cells)
        self.below: set[int] = set()
        # The vertices of each row, as used by the skin above it and by the skin below it.
        self.upper = np.arange(len(self.cells)).reshape(num_rows, num_columns)
        self.lower = self.upper.copy()
        self.quads: list[tuple[int, int, int, int]] = []

    def add(self, like: int, parent: int | None = None, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> int:
        """Add a vertex at the cell of vertex `like`; it follows `parent`, or nothing."""
        new = len(self.cells)
        self.cells.append(self.cells[like])
        self.parents.append(new if parent is None else parent)
        self.offsets.append(offset)
        if like in self.below:
            self.below.add(new)
        return new

    def cut(self, row: int, first: int, last: int, rim: tuple[tuple[float, float], ...]) -> None:
        """Cut a slit along `row` from column `first` to `last`, and add the rings of `rim` to its edge."""
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
        """Return the faces of the grid and of the rims, int32 [F, 3]."""
        bottom, top = self.upper[:-1], self.lower[1:]
        corners = np.stack([bottom[:, :-1], bottom[:, 1:], top[:, 1:], top[:, :-1]], axis=-1).reshape(-1, 4)
        quads = np.concatenate([corners, np.array(self.quads)]).astype(np.int32)
        return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def build_chart() -> Chart:
    """Build the chart of the face, with a slit for the mouth and one for each eye."""
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


_INNER, _OUTER = anatomy.EYE_CORNERS
_LID = tuple((_OUTER + (_INNER - _OUTER) * t, anatomy.EYE_LINE) for t in (0.25, 0.5, 0.75))
_BROW_TOP = ((50, 39), (43, 44), (33, 46), (21, 44), (9, 40))
_BROW_BASE = ((11, 34), (21, 38.5), (32, 40), (42, 38.5), (49, 36))
_NOSE = ((7, 22), (9, 2), (15, -10), (18, -17), (14, -24), (6, -27))
_LIP_TOP = ((-16, -43), (-5, -41), (0, -42), (5, -41), (16, -43))
_LIP_BASE = ((16, -55), (8, -57), (0, -57.5), (-8, -57), (-16, -55))
_LIP_EDGE = ((-12, anatomy.MOUTH_LINE), (0, anatomy.MOUTH_LINE), (12, anatomy.MOUTH_LINE))
_CONTOUR = ((70, 20), (70, 0), (67, -20), (62, -40), (53, -62), (38, -80), (20, -90))


def landmark_vertices(chart: Chart) -> NDArray[np.intp]:
    """Return the 83 landmark vertices, int [83], in the order of BU-3DFE's `.bnd` files as we interpret it.

    0-7 and 8-15 are the eyes, 16-25 and 26-35 the eyebrows, 36-47 the nose, 48-59 the outer and 60-67 the inner edge of
    the lips, 68-82 the contour of the face. The subject's right (-x) comes first. Eyes, brows and lips start at their
    end on the subject's right and continue along the top; nose and contour start at the top on the subject's right and
    continue along the bottom. The files number the points without names, so this order is our interpretation.
    """
    outer, inner = (_OUTER, anatomy.EYE_LINE), (_INNER, anatomy.EYE_LINE)
    right_eye = [*_mirrored((outer, *_LID, inner)), *_mirrored(_LID[::-1])]
    left_eye = [inner, *_LID[::-1], outer, *_LID]
    brows = [*_mirrored(_BROW_TOP), *_mirrored(_BROW_BASE), *_BROW_TOP[::-1], *_BROW_BASE[::-1]]
    nose = [*_mirrored(_NOSE), *_NOSE[::-1]]
    right, left = (-anatomy.MOUTH_CORNER, anatomy.MOUTH_LINE), (anatomy.MOUTH_CORNER, anatomy.MOUTH_LINE)
    outer_lip = [right, *_LIP_TOP, left, *_LIP_BASE]
    inner_lip = [right, *_LIP_EDGE, left, *_LIP_EDGE[::-1]]
    contour = [*_mirrored(_CONTOUR), (0.0, -93.0), *_CONTOUR[::-1]]
    anywhere = np.ones(len(chart.x), bool)
    groups = (
        # A slit has two edges: five points on the upper edge, corners included, and three on the lower edge.
        (right_eye[:5], chart.above_eyes),
        (right_eye[5:], ~chart.above_eyes),
        (left_eye[:5], chart.above_eyes),
        (left_eye[5:], ~chart.above_eyes),
        (brows + nose + outer_lip, anywhere),
        (inner_lip[:5], chart.above_mouth),
        (inner_lip[5:], ~chart.above_mouth),
        (contour, anywhere),
    )
    return np.array([nearest_vertex(chart, at, among) for points, among in groups for at in points])


def _mirrored(points: Points) -> list[tuple[float, float]]:
    return [(-x, y) for x, y in points]


def nearest_vertex(chart: Chart, at: tuple[float, float], among: NDArray[np.bool_]) -> int:
    """Return the vertex nearest to a point (x, y) of the closed face, among some vertices and not on a rim."""
    among = among & (chart.parent == np.arange(len(chart.x)))  # not the rims
    distance = np.hypot(chart.x - at[0], chart.y - at[1])
    return int(np.argmin(np.where(among, distance, np.inf)))
