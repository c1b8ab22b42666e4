"""Displacement fields: how the skin moves when a muscle pulls, as a sum of a few strokes.

A stroke is written for the subject's left side and is mirrored for the right. One whose place is on the midline moves
both sides and is shared out between them, so that every field comes as a left half and a right half.
"""

from dataclasses import dataclass

import numpy as np

from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.chart import Places
from smile_pipe.pipeline.face_model.curves import Array, Points, bump, fade, near, rise


@dataclass(frozen=True)
class Skin:
    """The skin about `at` moves by `move` (mm), less with the distance: a Gaussian of `spread` (mm along x and y)."""

    at: tuple[float, float]
    spread: tuple[float, float]
    move: tuple[float, float, float]


@dataclass(frozen=True)
class Fold:
    """The skin along `line` sinks by `depth` mm; negative raises a ridge."""

    line: Points
    depth: float
    width: float = 1.7


@dataclass(frozen=True)
class UpperLip:
    """The upper lip alone moves by `move` (mm), most at x = `at`; nothing at the corners of the mouth."""

    move: tuple[float, float, float]
    at: float = 0.0
    spread: tuple[float, float] = (14.0, 9.0)


@dataclass(frozen=True)
class LowerLip(UpperLip):
    """The lower lip alone; see `UpperLip`."""


@dataclass(frozen=True)
class Lids:
    """The upper and the lower lid move by so many millimetres, up being positive; nothing at the corners of the eye."""

    upper: float = 0.0
    lower: float = 0.0


@dataclass(frozen=True)
class Jaw:
    """The jaw turns open by `angle` radians and takes the lower lip with it."""

    angle: float


@dataclass(frozen=True)
class Stretch:
    """The face widens and lengthens by these shares of x and y, most at the height `at`."""

    x: float = 0.0
    y: float = 0.0
    at: float = 0.0
    spread: float = 1e9


Stroke = Stretch | Skin | Fold | UpperLip | LowerLip | Lids | Jaw

# How far above and below the slit a lid's movement reaches; more than 1.6 times the movement, or the skin would fold.
LID_REACH = (21.0, 15.0)


def halves(strokes: tuple[Stroke, ...], places: Places, rest: Array) -> tuple[Array, Array]:
    """The left and the right half of a field.

    Args:
        strokes: what the field is made of.
        places: where the vertices lie on the closed face.
        rest: float [V, 3], where they lie in space; the jaw turns them.

    Returns:
        Displacements of the left and of the right half, float [V, 3] each, millimetres.
    """
    left = sum((_field(stroke, places, places.x, rest) for stroke in strokes), np.zeros((len(places.x), 3)))
    right = sum((_field(stroke, places, -places.x, rest) for stroke in strokes), np.zeros((len(places.x), 3)))
    return left, right * (-1, 1, 1)


def lip_opening(x: Array) -> Array:
    """How freely a lip moves at x: 1 in the middle, 0 at the corners of the mouth and beyond."""
    return np.clip(1 - (x / anatomy.MOUTH_CORNER) ** 2, 0, 1) ** 0.7


def lid_openings(x: Array) -> tuple[Array, Array]:
    """How freely the left eye's upper and lower lid move at x: about 1 in the middle, 0 at the corners and beyond."""
    inner, outer = anatomy.EYE_CORNERS
    along = np.clip((x - inner) / (outer - inner) * 2 - 1, -1, 1)
    arch = 1 - along**2
    return arch**0.75 * (1 - 0.18 * along), arch**0.9 * (1 + 0.22 * along)


def jaw_share(places: Places) -> Array:
    """What share of the jaw's turn each vertex makes, float [V]: 1 on lower lip and chin, 0 on the upper lip."""
    skin = 1 - rise(places.y, anatomy.MOUTH_LINE - 24, anatomy.MOUTH_LINE + 24)
    opening = lip_opening(places.x)
    return np.where(places.above_mouth, skin * (1 - opening), skin + (1 - skin) * opening)


def turn_jaw(rest: Array, angle: float) -> Array:
    """Displacement [V, 3] of points that turn with the jaw about its hinge, to first order in `angle` (radians)."""
    y, z = anatomy.JAW_HINGE
    return angle * np.stack([np.zeros(len(rest)), z - rest[:, 2], rest[:, 1] - y], axis=1)


def _field(stroke: Stroke, places: Places, x: Array, rest: Array) -> Array:
    y = places.y
    match stroke:
        case Skin(at, spread, move):
            return np.outer(_share(at[0], x) * bump(x, y, at, spread), move)
        case Stretch():
            weight = _share(0.0, x) * bump(x, y, (0, stroke.at), (1e9, stroke.spread))
            return weight[:, None] * np.stack([stroke.x * x, stroke.y * y, 0 * x], axis=1)
        case Fold(line, depth, width):
            return np.outer(_share(line[0][0], x) * near(x, y, line, width), (0, 0, -depth))
        case UpperLip(move, at, (spread_x, spread_y)):
            side = ~places.above_mouth if isinstance(stroke, LowerLip) else places.above_mouth
            about = bump(x, y, (at, anatomy.MOUTH_LINE), (spread_x, spread_y))
            return np.outer(side * lip_opening(x) * _share(at, x) * about, move)
        case Lids(upper, lower):
            return _lids(upper, lower, places, x)
        case Jaw(angle):
            return 0.5 * jaw_share(places)[:, None] * turn_jaw(rest, angle)


def _lids(upper: float, lower: float, places: Places, x: Array) -> Array:
    upper_opening, lower_opening = lid_openings(x)
    above = upper * upper_opening * fade(places.y - anatomy.EYE_LINE, LID_REACH[0])
    below = lower * lower_opening * fade(places.y - anatomy.EYE_LINE, LID_REACH[1])
    return np.outer(np.where(places.above_eyes, above, below), (0.0, 1.0, 0.0))


def _share(place: float, x: Array) -> Array | float:
    """What a side's half takes of a stroke: all of it off the midline, a smooth half of it on the midline."""
    return rise(x, -9.0, 9.0) if abs(place) < 1e-9 else 1.0
