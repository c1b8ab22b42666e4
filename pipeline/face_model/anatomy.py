"""Anatomy of the parametric face: outline, profile and features, in millimetres.

Coordinates: x to the subject's left, y up, both 0 at the middle of the nose; z out of the face, 0 at the glabella. Eyes
and mouth are closed slits in the skin; `RESTING_LIDS` and the action units open them. All numbers are our choice,
within the range of adult proportions.
"""

import numpy as np

from smile_pipe.pipeline.face_model.curves import Array, bump, interpolate, line_falloff, mirrored_bump

# Curves (y, value): half the width of the head, depth from middle to side, and z of the middle without the nose.
HALF_WIDTH = (
    (-98, 22),
    (-92, 29),
    (-84, 38),
    (-72, 48.5),
    (-55, 60),
    (-35, 68),
    (-10, 73),
    (20, 75),
    (45, 74),
    (70, 68),
    (86, 60),
)
DEPTH = ((-98, 36), (-84, 52), (-72, 62), (-55, 72), (-20, 77), (20, 79), (60, 77), (86, 70))
PROFILE = (
    (-98, -34),
    (-94, -20),
    (-89, -8),
    (-84, -2),
    (-76, 1),
    (-62, 1),
    (-48, 4),
    (-25, 3),
    (0, -1),
    (25, -3),
    (45, 0),
    (60, -1),
    (74, -4),
    (86, -10),
)

NOSE_HEIGHT = (
    (-34, 0),
    (-29, 1),
    (-26, 5),
    (-22, 14),
    (-17, 20.5),
    (-12, 22),
    (-7, 19.5),
    (2, 13),
    (12, 7.5),
    (22, 3.5),
    (31, 0),
)
NOSE_WIDTH = ((-30, 10), (-20, 11), (-12, 10), (0, 8.5), (12, 8), (22, 9), (31, 11))

EYE = (31.0, 20.0)  # centre of the left eyeball
EYE_DEPTH = -25.0
EYE_RADIUS = 14.5
EYE_LINE = 17.5  # y of the closed lids
EYE_CORNERS = (18.0, 44.0)
MOUTH_LINE = -48.0
MOUTH_CORNER = 25.0
JAW_HINGE = (-2.0, -72.0)  # y, z of the rotation axis of the jaw

BROW = ((8.5, 36.5), (16, 40.0), (26, 42.5), (37, 43.0), (44, 41.0), (50, 37.5))


def half_width(y: Array) -> Array:
    """Return half the width of the head at height y."""
    return interpolate(HALF_WIDTH, y)


def lip_heights(x: Array) -> tuple[Array, Array]:
    """Return the heights of the closed upper and lower lip at x, measured from the mouth line; 0 outside the mouth."""
    inside = np.clip(1 - (x / MOUTH_CORNER) ** 2, 0, 1)
    upper = 7.5 * inside**0.8 * (1 - 0.16 * np.exp(-0.5 * (x / 2.6) ** 2))
    return upper, 9.5 * inside**0.65


def skin(x: Array, y: Array) -> Array:
    """Return z of the closed skin at (x, y)."""
    across = np.clip(1 - (x / half_width(y)) ** 2, 0, 1)
    z = interpolate(PROFILE, y) - interpolate(DEPTH, y) * (1 - np.sqrt(across))
    return z + _nose(x, y) + _upper_face(x, y) + _lower_face(x, y)


def _nose(x: Array, y: Array) -> Array:
    ridge = interpolate(NOSE_HEIGHT, y) * np.exp(-0.5 * np.abs(x / interpolate(NOSE_WIDTH, y)) ** 2.3)
    wings = 5.5 * mirrored_bump(x, y, (12.5, -18.5), (4.6, 5.2))
    creases = 1.8 * line_falloff(np.abs(x), y, ((17.5, -11), (19.5, -18), (17, -25)), 1.8)
    nostrils = 5.0 * mirrored_bump(x, y, (6.5, -24), (2.9, 1.8))
    return ridge + wings - creases - nostrils


def _upper_face(x: Array, y: Array) -> Array:
    brows = 3.5 * mirrored_bump(x, y, (24, 38), (16, 6.5)) + 2.0 * bump(x, y, (0, 38), (9, 8))
    sockets = 6.5 * mirrored_bump(x, y, (29, 19), (15, 10)) + 4.0 * mirrored_bump(x, y, (15.5, 20), (5, 8))
    cheekbones = 4.0 * mirrored_bump(x, y, (44, -6), (15, 13))
    temples = 3.0 * mirrored_bump(x, y, (64, 45), (10, 20))
    return brows - sockets + cheekbones - temples


def _lower_face(x: Array, y: Array) -> Array:
    d = y - MOUTH_LINE
    red = np.clip(1 - (x / (MOUTH_CORNER + 1)) ** 2, 0, 1) ** 0.6
    lips = red * (4.0 * np.exp(-0.5 * ((d - 4) / 2.6) ** 2) + 4.5 * np.exp(-0.5 * ((d + 5) / 3.2) ** 2))
    seam = 3.2 * np.exp(-0.5 * (d / 1.5) ** 2) * np.clip(1.15 - (x / (MOUTH_CORNER + 4)) ** 2, 0, 1)
    philtrum = 1.2 * bump(x, y, (0, -36), (2.4, 5))
    corners = 2.0 * mirrored_bump(x, y, (MOUTH_CORNER + 3, -49), (4, 6))
    fold = 1.6 * line_falloff(np.abs(x), y, ((19, -24), (27, -36), (32, -50)), 3.5)
    chin = 5.5 * bump(x, y, (0, -79), (13, 9)) - 3.2 * bump(x, y, (0, -62.5), (14, 4))
    return lips - seam - philtrum - corners - fold + chin
