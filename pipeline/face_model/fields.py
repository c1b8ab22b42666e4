"""Displacement fields of the skin, as sums of a few deformers.

A deformer is defined on the subject's left side and mirrored for the right side. A deformer on the midline moves both
sides; it is divided between them, so every field has a left half and a right half.
"""

from dataclasses import dataclass

import numpy as np

from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.chart import SurfacePoints
from smile_pipe.pipeline.face_model.curves import Array, Points, bump, cosine_falloff, line_falloff, smoothstep


@dataclass(frozen=True)
class Skin:
    """Move the skin around `at` by `move` (mm), with a Gaussian falloff of `spread` (mm along x and y)."""

    at: tuple[float, float]
    spread: tuple[float, float]
    move: tuple[float, float, float]


@dataclass(frozen=True)
class Fold:
    """Sink the skin along `line` by `depth` mm; a negative depth raises a ridge."""

    line: Points
    depth: float
    width: float = 1.7


@dataclass(frozen=True)
class UpperLip:
    """Move only the upper lip by `move` (mm), most at x = `at`, not at the corners of the mouth."""

    move: tuple[float, float, float]
    at: float = 0.0
    spread: tuple[float, float] = (14.0, 9.0)


@dataclass(frozen=True)
class LowerLip(UpperLip):
    """Move only the lower lip; see `UpperLip`."""


@dataclass(frozen=True)
class Lids:
    """Move the upper and the lower lid by `upper` and `lower` mm (positive is up), not at the corners of the eye."""

    upper: float = 0.0
    lower: float = 0.0


@dataclass(frozen=True)
class Jaw:
    """Rotate the jaw open by `angle` radians, with the lower lip."""

    angle: float


@dataclass(frozen=True)
class Stretch:
    """Scale the face by the shares `x` and `y`, most at the height `at`."""

    x: float = 0.0
    y: float = 0.0
    at: float = 0.0
    spread: float = 1e9


Deformer = Stretch | Skin | Fold | UpperLip | LowerLip | Lids | Jaw

# Reach of a lid's movement above and below the slit, mm; below 1.6 times the movement, the skin would fold over.
LID_REACH = (21.0, 15.0)


def left_right_fields(deformers: tuple[Deformer, ...], points: SurfacePoints, rest: Array) -> tuple[Array, Array]:
    """Compute the left and the right half of a displacement field.

    Args:
        deformers: Deformers of the field.
        points: Positions of the vertices on the closed face.
        rest: float64 [V, 3], positions of the vertices in space, which the jaw rotates.

    Returns:
        Displacements of the left and of the right half, float64 [V, 3] each, millimetres.
    """
    left = sum((_field(deformer, points, points.x, rest) for deformer in deformers), np.zeros((len(points.x), 3)))
    right = sum((_field(deformer, points, -points.x, rest) for deformer in deformers), np.zeros((len(points.x), 3)))
    return left, right * (-1, 1, 1)


def lip_opening(x: Array) -> Array:
    """Return the mobility of a lip at x: 1 in the middle, 0 from the corners of the mouth on."""
    return np.clip(1 - (x / anatomy.MOUTH_CORNER) ** 2, 0, 1) ** 0.7


def lid_openings(x: Array) -> tuple[Array, Array]:
    """Return the mobility of the left eye's upper and lower lid at x: about 1 in the middle, 0 from the corners on."""
    inner, outer = anatomy.EYE_CORNERS
    along = np.clip((x - inner) / (outer - inner) * 2 - 1, -1, 1)
    arch = 1 - along**2
    return arch**0.75 * (1 - 0.18 * along), arch**0.9 * (1 + 0.22 * along)


def jaw_share(points: SurfacePoints) -> Array:
    """Return each vertex's share of the jaw's rotation, float64 [V]: 1 on lower lip and chin, 0 on the upper lip."""
    skin = 1 - smoothstep(points.y, anatomy.MOUTH_LINE - 24, anatomy.MOUTH_LINE + 24)
    opening = lip_opening(points.x)
    return np.where(points.above_mouth, skin * (1 - opening), skin + (1 - skin) * opening)


def turn_jaw(rest: Array, angle: float) -> Array:
    """Return the displacement [V, 3] of points that rotate with the jaw, to first order in `angle` (radians)."""
    y, z = anatomy.JAW_HINGE
    return angle * np.stack([np.zeros(len(rest)), z - rest[:, 2], rest[:, 1] - y], axis=1)


def _field(deformer: Deformer, points: SurfacePoints, x: Array, rest: Array) -> Array:
    y = points.y
    match deformer:
        case Skin(at, spread, move):
            return np.outer(_share(at[0], x) * bump(x, y, at, spread), move)
        case Stretch():
            weight = _share(0.0, x) * bump(x, y, (0, deformer.at), (1e9, deformer.spread))
            return weight[:, None] * np.stack([deformer.x * x, deformer.y * y, 0 * x], axis=1)
        case Fold(line, depth, width):
            return np.outer(_share(line[0][0], x) * line_falloff(x, y, line, width), (0, 0, -depth))
        case UpperLip(move, at, (spread_x, spread_y)):
            side = ~points.above_mouth if isinstance(deformer, LowerLip) else points.above_mouth
            falloff = bump(x, y, (at, anatomy.MOUTH_LINE), (spread_x, spread_y))
            return np.outer(side * lip_opening(x) * _share(at, x) * falloff, move)
        case Lids(upper, lower):
            return _lids(upper, lower, points, x)
        case Jaw(angle):
            return 0.5 * jaw_share(points)[:, None] * turn_jaw(rest, angle)


def _lids(upper: float, lower: float, points: SurfacePoints, x: Array) -> Array:
    upper_opening, lower_opening = lid_openings(x)
    above = upper * upper_opening * cosine_falloff(points.y - anatomy.EYE_LINE, LID_REACH[0])
    below = lower * lower_opening * cosine_falloff(points.y - anatomy.EYE_LINE, LID_REACH[1])
    return np.outer(np.where(points.above_eyes, above, below), (0.0, 1.0, 0.0))


def _share(place: float, x: Array) -> Array | float:
    """Return the share of a deformer in one half: 1 off the midline, a smooth transition for one on the midline."""
    return smoothstep(x, -9.0, 9.0) if abs(place) < 1e-9 else 1.0
