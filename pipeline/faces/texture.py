"""Painting our face's skin: brows, lips, lids and blushes lie where the chart says, and so move with the skin.

The upper part of the image is the closed face unrolled around the head; below it lie the tiles of `parts.py`.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.faces import anatomy, insides, parts
from pipeline.faces.canvas import Canvas, Tile, grain, paint_tiles
from pipeline.faces.chart import EDGE, ROWS, Chart
from pipeline.faces.curves import Array, both, bump, near, rise
from pipeline.faces.look import Look

SKIN_TILE: Tile = (0.004, 0.168, 0.992, 0.828)
LOW, HIGH = float(ROWS[0][0]), float(ROWS[-1][0])


def skin_uvs(chart: Chart) -> Array:
    """Texture coordinates of the skin, float [V, 2]."""
    across, up = 0.5 + 0.5 * chart.angle / EDGE, (chart.y - LOW) / (HIGH - LOW)
    left, bottom, width, height = SKIN_TILE
    return np.stack([left + across * width, bottom + up * height], axis=1)


def paint(look: Look, size: int) -> NDArray[np.uint8]:
    """The texture of a subject, uint8 [size, size, 3], row 0 at the top."""
    tiles = (
        (SKIN_TILE, _skin),
        (parts.EYE_TILE, insides.eye),
        (parts.TEETH_TILE, insides.teeth),
        (parts.MOUTH_TILE, insides.mouth),
    )
    return paint_tiles(tiles, look, size)


def _skin(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    y = LOW + canvas.v * (HIGH - LOW)
    angle = (2 * canvas.u - 1) * EDGE
    x = anatomy.half_width(y) * np.sin(angle)
    canvas.pixels *= 1 + 0.02 * grain(rng, x.shape, 10)[..., None] + 0.015 * grain(rng, x.shape, 90)[..., None]
    _blush(canvas, look, x, y)
    _hollows(canvas, x, y)
    _beard(canvas, look, x, y, grain(rng, x.shape, 150))
    _lips(canvas, look, x, y)
    _eyelids(canvas, look, x, y)
    _brows(canvas, look, x, y, grain(rng, x.shape, 170))
    _hair(canvas, look, x, y, angle, grain(rng, x.shape, 60))


def _blush(canvas: Canvas, look: Look, x: Array, y: Array) -> None:
    red = np.array(look.skin) * (1.0, 0.74, 0.72)
    canvas.tint(0.55 * look.blush * both(x, y, (41, -14), (13, 12)), red)
    canvas.tint(0.5 * look.blush * bump(x, y, (0, -16), (10, 8)), red)


def _hollows(canvas: Canvas, x: Array, y: Array) -> None:
    side = np.abs(x)
    canvas.shade(0.22 * both(x, y, (20, 22), (7, 9)) + 0.12 * both(x, y, (32, 10), (13, 4)))
    canvas.shade(0.20 * near(side, y, ((17.5, -12), (19.5, -18), (16.5, -25)), 1.6))
    canvas.shade(0.75 * both(x, y, (6.5, -24.5), (2.7, 1.5)) + 0.2 * bump(x, y, (0, -28), (9, 2.5)))
    canvas.shade(0.14 * near(side, y, ((18, -22), (27, -36), (33, -50)), 2.2))
    canvas.shade(0.2 * bump(x, y, (0, -60.5), (13, 2.6)) + 0.35 * rise(-y, 84, 97))


def _beard(canvas: Canvas, look: Look, x: Array, y: Array, hairs: Array) -> None:
    jaw = rise(-y, 34, 52) * rise(np.abs(x) - 0.4 * (y + 60), 30, 42) + bump(x, y, (0, -74), (24, 13))
    lip = bump(x, y, (0, -36), (17, 4.5))
    canvas.tint(look.stubble * np.clip(jaw + lip, 0, 1) * (0.8 + 0.25 * hairs), look.hair)


def _lips(canvas: Canvas, look: Look, x: Array, y: Array) -> None:
    upper, lower = anatomy.lip_heights(x)
    d = y - anatomy.MOUTH_LINE
    edge = 0.9
    red = np.clip(0.5 + (upper - d) / edge, 0, 1) * np.clip(0.5 + (lower + d) / edge, 0, 1) * (upper > 0)
    colour = np.array(look.skin) * (0.86, 0.5, 0.52)
    canvas.tint((0.55 + 0.4 * look.lip) * red, colour)
    canvas.shade(0.14 * red * (d > 0))
    inside = np.clip(1.25 - (x / (anatomy.MOUTH_CORNER + 1)) ** 2, 0, 1)
    canvas.shade(0.7 * np.exp(-0.5 * (d / 0.7) ** 2) * inside)


def _eyelids(canvas: Canvas, look: Look, x: Array, y: Array) -> None:
    side, d = np.abs(x), y - anatomy.EYE_LINE
    inner, outer = anatomy.EYE_CORNERS
    along = np.clip((side - inner) / (outer - inner), 0, 1)
    within = rise(side, inner - 1.5, inner + 1) * rise(-side, -outer - 2.5, -outer)
    lash = np.exp(-0.5 * ((d - 0.6) / 1.0) ** 2) * (0.65 + 0.3 * along) * (d > -0.2)
    lower_lash = np.exp(-0.5 * ((d + 0.4) / 0.55) ** 2) * (0.2 + 0.35 * along)
    crease = near(side, y, ((inner + 1, 21.5), (25, 26.5), (33, 27.0), (41, 24.5), (47, 20)), 0.9)
    canvas.shade(0.42 * crease + 0.1 * within * rise(d, 0, 3) * rise(-d, -10, -7))
    canvas.tint(within * np.maximum(lash, lower_lash), np.array(look.hair) * 0.6)
    canvas.tint(0.5 * both(x, y, (inner - 0.3, anatomy.EYE_LINE), (1.6, 1.2)), np.array(look.skin) * (0.85, 0.5, 0.48))


def _brows(canvas: Canvas, look: Look, x: Array, y: Array, hairs: Array) -> None:
    side = np.abs(x)
    taper = 1 - 0.55 * rise(side, 30, 52) - 0.25 * rise(-side, -14, -7)
    inside = near(side, y, anatomy.BROW, 1.0)
    distance = np.sqrt(np.maximum(-2 * np.log(np.maximum(inside, 1e-30)), 0))
    amount = rise(look.brow * taper - distance, -0.8, 0.9)
    canvas.tint(0.88 * amount * (0.88 + 0.12 * hairs), look.hair)


def _hair(canvas: Canvas, look: Look, x: Array, y: Array, angle: Array, locks: Array) -> None:
    line = 76 - 4 * np.cos(3.2 * angle) - 26 * rise(np.abs(angle), 0.75, 1.25)
    top = rise(y - line + 2.5 * locks, 0, 6)
    sideburn = rise(np.abs(angle), 1.16, 1.26) * rise(y, -12, 10)
    canvas.tint(np.maximum(top, sideburn) * (0.93 + 0.05 * locks), look.hair)
