"""Which vertices of our face are its 83 landmarks."""

import numpy as np
from numpy.typing import NDArray

from pipeline.faces import anatomy
from pipeline.faces.chart import Chart
from pipeline.faces.curves import Points

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
    """The 83 landmark vertices, int [83], in the order of BU-3DFE's `.bnd` files as we read it.

    0-7 and 8-15 are the eyes, 16-25 and 26-35 the eyebrows, 36-47 the nose, 48-59 the outer and 60-67 the inner edge of
    the lips, 68-82 the contour of the face. Of a pair the subject's right (-x) comes first. Eyes, brows and lips start
    at their end on the subject's right and go over the top; nose and contour start at the top on the subject's right
    and go through below. The files number their points without naming them, so this order is a reading of ours.
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
        # The edge of a slit is two edges: five points on the upper one, corners included, and three on the lower one.
        (right_eye[:5], chart.above_eyes),
        (right_eye[5:], ~chart.above_eyes),
        (left_eye[:5], chart.above_eyes),
        (left_eye[5:], ~chart.above_eyes),
        (brows + nose + outer_lip, anywhere),
        (inner_lip[:5], chart.above_mouth),
        (inner_lip[5:], ~chart.above_mouth),
        (contour, anywhere),
    )
    return np.array([_nearest(chart, at, among) for points, among in groups for at in points])


def _mirrored(points: Points) -> list[tuple[float, float]]:
    return [(-x, y) for x, y in points]


def _nearest(chart: Chart, at: tuple[float, float], among: NDArray[np.bool_]) -> int:
    among = among & (chart.parent == np.arange(len(chart.x)))  # not the rims
    distance = np.hypot(chart.x - at[0], chart.y - at[1])
    return int(np.argmin(np.where(among, distance, np.inf)))
