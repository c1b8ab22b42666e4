"""The mean face: where the landmarks of each known set are on it, how far they may be from there, and the anchors.

Positions are millimetres from the midpoint between the eyes: +x is the subject's left, +y up, +z out of the face.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT_MM = 90.0
# The origin of the canonical frame.
ORIGIN = (0.0, -38.0, -22.0)
# Positions of the anchors on a mean adult face: our choice, near the means from anthropometry. They must be equal for
# all faces; they need not be exact.
EYE_CORNERS = ((-45.0, -1.0, -7.0), (-18.0, -2.0, -1.0), (18.0, -2.0, -1.0), (45.0, -1.0, -7.0))
EYE_RIGHT, EYE_LEFT = (-31.5, -1.5, -4.0), (31.5, -1.5, -4.0)  # midpoints of their corners, which lids do not move
EAR_RIGHT, EAR_LEFT = (-72.0, 2.0, -52.0), (72.0, 2.0, -52.0)  # the ends of the outline
NOSE_ROOT, NOSE_SIDES = (0.0, 3.0, 7.0), (0.0, -16.0, 15.0)
UPPER_BRIDGE, LOWER_BRIDGE, NOSE_TIP = (0.0, -9.0, 22.0), (0.0, -19.0, 30.0), (0.0, -30.0, 38.0)
NOSE_WINGS = ((-17.0, -40.0, 15.0), (17.0, -40.0, 15.0))
NOSE_BASE, NOSE_EDGE = (0.0, -45.0, 22.0), (0.0, -38.0, 17.0)
# Weights of anchors. Disgust moves the wings of the nose by 4 mm, its bridge by 1 mm, the corners of the eyes and the
# ends of the outline by half a millimetre (ICT-FaceKit). Without the others, the base still determines the pitch.
STABLE, BRIDGE, BASE = 1.0, 0.5, 0.25


@dataclass(frozen=True)
class Anchor:
    """A group of landmarks whose mean moves little with the expression.

    Attributes:
        landmarks: numbers of the landmarks.
        position: position of their mean on the mean face, mm.
        weight: weight of the squared distance between the two.
        is_pair: whether it is used only if both landmarks are known, since the files do not state which is which.
            Otherwise the known ones are compared with their part of the mean face.
    """

    landmarks: tuple[int, ...]
    position: tuple[float, float, float]
    weight: float = STABLE
    is_pair: bool = False


@dataclass(frozen=True, eq=False)
class LandmarkScheme:
    """Numbering of a landmark set.

    Attributes:
        anchors: the anchors, the subject's right side first.
        positions: float64 [L, 3], each landmark on the mean face at rest, mm.
        tolerances: float64 [L, 3], half axes (mm) of the ellipsoid around it that faces are expected in, whatever their
            shape and expression.
        opposites: int [L], the landmark at whose position each may be too: the opposite one of a ring that may start at
            either end; otherwise itself.
    """

    anchors: tuple[Anchor, ...]
    positions: NDArray[np.float64]
    tolerances: NDArray[np.float64]
    opposites: NDArray[np.intp]


# Half axes in x, y, z: about one and a half times the largest deviation of ICT and parametric faces with 1.7 times the
# variation of shape and with expressions at all levels. What the jaw carries moves far, but not sideways.
_EYE, _RIDGE, _NOSE, _BROW = (14, 14, 14), (12, 14, 16), (14, 20, 16), (16, 26, 18)
_EAR, _CHEEK, _JAW = (18, 18, 25), (20, 22, 25), (22, 45, 50)
_UPPER_LIP, _LOWER_LIP = (26, 28, 28), (18, 48, 30)


def _build(
    anchors: tuple[Anchor, ...],
    positions: str,
    tolerances: Mapping[tuple[int, ...], str],
    rings: Sequence[tuple[int, int]] = (),
) -> LandmarkScheme:
    """Build a scheme.

    Args:
        anchors: see `LandmarkScheme`.
        positions: `x,y,z` of each landmark.
        tolerances: numbers of the landmarks with each tolerance: ranges with both ends, `0-3 13 14`.
        rings: the first landmark and the size of each ring that may start at either end.
    """
    points = np.array([point.split(",") for point in positions.split()], np.float64)
    limits = np.full_like(points, np.nan)
    for tolerance, numbers in tolerances.items():
        for part in numbers.split():
            first, _, last = part.partition("-")
            limits[int(first) : int(last or first) + 1] = tolerance
    assert np.isfinite(limits).all()
    opposites = np.arange(len(points))
    for first_of_ring, size in rings:
        opposites[first_of_ring : first_of_ring + size] = first_of_ring + (np.arange(size) + size // 2) % size
    return LandmarkScheme(anchors, points, limits, opposites)


# Mouth and brows are not anchors in any scheme: they move with the expression, and the frame must not. In side views
# the far half of the landmarks is missing, so Bosphorus' anchors are single points. The positions are means over 60
# faces at rest: ICT-FaceKit (68 points, and the nearest of them for the 22) and the parametric face (83 points).
SCHEMES = {
    22: _build(
        (
            *(Anchor((6 + i,), position) for i, position in enumerate(EYE_CORNERS)),
            Anchor((13,), NOSE_TIP),
            *(Anchor((i,), position, BASE) for i, position in zip((12, 14), NOSE_WINGS, strict=True)),
        ),
        """
        -58,17,-14 -38,28,5 -12,25,14 12,25,14 38,28,5 58,17,-14
        -44,0,-7 -18,-2,-1 18,-2,-1 44,0,-7
        -9,1,9 9,1,9 -17,-40,15 0,-29,38 17,-40,15
        -25,-69,10 0,-58,26 25,-69,10 0,-66,21 0,-67,21 0,-76,24 0,-109,14
        """,
        {
            _BROW: "0-5",
            _EYE: "6-9",
            _RIDGE: "13",
            _NOSE: "10-12 14",
            _UPPER_LIP: "15-18",
            _LOWER_LIP: "19 20",
            _JAW: "21",
        },
    ),
    68: _build(
        (
            Anchor((36, 39), EYE_RIGHT),
            Anchor((42, 45), EYE_LEFT),
            Anchor((0,), EAR_RIGHT, BRIDGE),
            Anchor((16,), EAR_LEFT, BRIDGE),
            Anchor((28,), UPPER_BRIDGE, BRIDGE),
            Anchor((29,), LOWER_BRIDGE, BRIDGE),
            Anchor((30,), NOSE_TIP, BRIDGE),
            Anchor(tuple(range(31, 36)), NOSE_BASE, BASE),
        ),
        """
        -71,2,-54 -70,-20,-51 -67,-39,-45 -63,-57,-39 -56,-78,-30 -42,-95,-18 -30,-101,-4 -15,-105,10 0,-108,12
        15,-105,10 30,-101,-4 42,-95,-18 56,-78,-30 63,-57,-39 67,-39,-45 70,-20,-51 71,2,-54
        -57,16,-12 -48,24,-2 -37,27,6 -24,26,13 -11,23,15 11,23,15 24,26,13 37,27,6 48,24,-2 57,16,-12
        0,2,15 0,-9,23 0,-19,30 0,-30,38 -12,-45,16 -6,-45,22 0,-46,23 6,-45,22 12,-45,16
        -43,-1,-6 -37,4,2 -27,4,3 -18,-2,0 -26,-4,2 -37,-4,0 18,-2,0 27,4,3 37,4,2 43,-1,-6 37,-4,0 26,-4,2
        -24,-68,9 -16,-61,19 -7,-58,24 0,-58,25 7,-58,24 16,-61,19 24,-68,9
        17,-73,16 10,-76,21 0,-76,22 -10,-76,21 -17,-73,16
        -21,-68,9 -10,-66,18 0,-66,20 10,-66,18 21,-68,9 10,-67,18 0,-67,20 -10,-67,18
        """,
        {
            _EAR: "0 16",
            _CHEEK: "1-3 13-15",
            _JAW: "4-12",
            _BROW: "17-26",
            _RIDGE: "27-30",
            _NOSE: "31-35",
            _EYE: "36-47",
            _UPPER_LIP: "48-54 60-64",
            _LOWER_LIP: "55-59 65-67",
        },
    ),
    # The corners of an eye are opposite each other on its contour. The files of BU-3DFE do not state the first point of
    # a ring.
    83: _build(
        (
            Anchor((0, 4), EYE_RIGHT, is_pair=True),
            Anchor((8, 12), EYE_LEFT, is_pair=True),
            Anchor((68,), EAR_RIGHT, BRIDGE),
            Anchor((82,), EAR_LEFT, BRIDGE),
            Anchor((36, 47), NOSE_ROOT, BRIDGE),
            Anchor((37, 46), NOSE_SIDES, BRIDGE),
            Anchor(tuple(range(38, 46)), NOSE_EDGE, BASE),
        ),
        """
        -46,-1,-8 -39,6,-2 -32,8,-1 -26,7,-2 -19,-1,-4 -26,-3,-2 -32,-4,-1 -39,-3,-2
        19,-1,-4 26,7,-2 32,8,-1 39,6,-2 46,-1,-8 39,-3,-2 32,-4,-1 26,-3,-2
        -53,22,-13 -45,28,-5 -34,29,3 -22,27,9 -9,22,12 -11,17,10 -22,20,9 -33,22,4 -43,20,-3 -50,19,-10
        9,22,12 22,27,9 34,29,3 45,28,-5 53,22,-13 50,19,-10 43,20,-3 33,22,4 22,20,9 11,17,10
        -8,4,6 -9,-17,15 -15,-30,17 -18,-37,17 -15,-45,17 -6,-48,16
        6,-48,16 15,-45,17 18,-37,17 15,-30,17 9,-17,15 8,4,6
        -26,-70,6 -16,-64,16 -6,-63,17 0,-64,18 6,-63,17 16,-64,16 26,-70,6
        16,-77,13 9,-80,12 0,-80,13 -9,-80,12 -16,-77,13
        -26,-70,6 -12,-70,12 0,-70,14 12,-70,12 26,-70,6 12,-70,12 0,-70,14 -12,-70,12
        -73,1,-48 -73,-19,-44 -70,-40,-39 -65,-62,-37 -55,-85,-35 -39,-103,-21 -21,-115,-13 0,-116,-3
        21,-115,-13 39,-103,-21 55,-85,-35 65,-62,-37 70,-40,-39 73,-19,-44 73,1,-48
        """,
        {
            _EYE: "0-15",
            _BROW: "16-35",
            _RIDGE: "36 37 46 47",
            _NOSE: "38-45",
            _UPPER_LIP: "48-54 60-64",
            _LOWER_LIP: "55-59 65-67",
            _EAR: "68 82",
            _CHEEK: "69-71 79-81",
            _JAW: "72-78",
        },
        rings=((0, 8), (8, 8), (16, 10), (26, 10), (48, 12), (60, 8)),
    ),
}
