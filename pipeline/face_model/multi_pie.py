"""The 68 landmarks of Multi-PIE on the parametric face, which carries the 83 of BU-3DFE by itself.

Multi-PIE's points are defined in images; these are their places on the chart by our reading, which was compared with
the 68 vertices of ICT-FaceKit. The outline has no anatomy: its first and last points are at the ears on the height of
the eyes, the middle one under the chin.
"""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.chart import Chart, nearest_vertex

_EYE, _MOUTH = anatomy.EYE_LINE, anatomy.MOUTH_LINE
_INNER, _OUTER = anatomy.EYE_CORNERS
_THIRDS = tuple(_OUTER + (_INNER - _OUTER) * t for t in (0.28, 0.68))
# Points of the subject's left side and of the middle, (x, y) on the closed face; the right side mirrors them.
_OUTLINE = ((71.5, 21), (70.5, 0), (67.5, -18), (63, -37), (53.5, -58), (39.5, -75), (28, -82), (14.5, -84.5))
_CHIN = (0.0, -87.0)
_BROW = ((53.5, 38), (46, 43.5), (34, 44.5), (21.5, 43.5), (10.5, 41))
_RIDGE = ((0.0, 20.0), (0.0, 9.5), (0.0, -1.0), (0.0, -13.5))
_NOSTRILS, _NOSE_BASE = ((12.5, -28.0), (6.0, -28.0)), (0.0, -29.0)
_UPPER_LIP, _UPPER_MIDDLE = ((16.5, -43.5), (7.5, -40.8)), (0.0, -41.6)
_LOWER_LIP, _LOWER_MIDDLE = ((17.5, -55.0), (9.5, -57.3)), (0.0, -57.3)
_CORNER, _INNER_CORNER, _INNER_LIP = (anatomy.MOUTH_CORNER, _MOUTH), (22.5, _MOUTH), (10.5, _MOUTH)


def multi_pie_vertices(chart: Chart) -> NDArray[np.intp]:
    """Return the 68 landmark vertices, int [68]; the subject's right side comes first in each part."""
    anywhere = np.ones(len(chart.x), bool)
    lid = [(x, _EYE) for x in _THIRDS]
    right_corners, left_corners = ((-_OUTER, _EYE), (-_INNER, _EYE)), ((_INNER, _EYE), (_OUTER, _EYE))
    groups = (
        ([*_right(_OUTLINE), _CHIN, *_OUTLINE[::-1]], anywhere),
        ([*_right(_BROW), *_BROW[::-1]], anywhere),
        ([*_RIDGE, *_right(_NOSTRILS), _NOSE_BASE, *_NOSTRILS[::-1]], anywhere),
        ([right_corners[0], *_right(lid), right_corners[1]], chart.above_eyes),
        (_right(lid[::-1]), ~chart.above_eyes),
        ([left_corners[0], *lid[::-1], left_corners[1]], chart.above_eyes),
        (lid, ~chart.above_eyes),
        ([*_right([_CORNER]), *_right(_UPPER_LIP), _UPPER_MIDDLE, *_UPPER_LIP[::-1], _CORNER], anywhere),
        ([*_LOWER_LIP, _LOWER_MIDDLE, *_right(_LOWER_LIP[::-1])], anywhere),
        ([*_right([_INNER_CORNER, _INNER_LIP]), (0, _MOUTH), _INNER_LIP, _INNER_CORNER], chart.above_mouth),
        ([_INNER_LIP, (0, _MOUTH), *_right([_INNER_LIP])], ~chart.above_mouth),
    )
    return np.array([nearest_vertex(chart, at, among) for points, among in groups for at in points])


def _right(points: list[tuple[float, float]] | tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    return [(-x, y) for x, y in points]
