"""What textures are painted on: tiles of an image, layers of colour, and grain.

Painting what lies behind the skin: eyes, teeth and the inside of the mouth.

Painting our face's skin: brows, lips, lids and blushes lie where the chart says, and so move with the skin.

The upper part of the image is the closed face unrolled around the head; below it lie the tiles of `parts.py`.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model import anatomy, parts
from smile_pipe.pipeline.face_model.chart import EDGE, ROWS, Chart
from smile_pipe.pipeline.face_model.curves import Array, both, bump, near, rise
from smile_pipe.pipeline.face_model.interface import Appearance, Colour

# A part of the texture: u, v of its lower left corner, width, height.
Tile = tuple[float, float, float, float]


class Canvas:
    """A tile to paint on: its coordinates `u`, `v` (0 to 1 inside) and its `pixels` [H, W, 3]."""

    def __init__(self, u: Array, v: Array, ground: Colour) -> None:
        self.u, self.v = u, v
        self.pixels = np.empty((*u.shape, 3))
        self.pixels[:] = ground

    def tint(self, amount: Array, colour: Colour | Array) -> None:
        """Mix in `colour` by `amount` (0 to 1)."""
        mix = np.clip(amount, 0, 1)[..., None]
        self.pixels += mix * (np.asarray(colour, float) - self.pixels)

    def shade(self, amount: Array) -> None:
        """Darken by `amount` (0 to 1), as where little light reaches; skin goes redder as it goes darker."""
        self.pixels *= 1 - np.clip(amount, 0, 1)[..., None] * (0.85, 1.0, 1.05)


Painter = Callable[[Canvas, Appearance, np.random.Generator], None]


def paint_tiles(tiles: Iterable[tuple[Tile, Painter]], look: Appearance, size: int) -> NDArray[np.uint8]:
    """A texture, uint8 [size, size, 3], row 0 at the top: each tile by its painter, in order; the rest is bare skin."""
    image = np.tile(np.array(look.skin), (size, size, 1))
    rng = np.random.default_rng(look.seed)
    for (left, bottom, width, height), painter in tiles:
        # A texel beyond the tile, so that interpolation at its edge finds the tile's own colours.
        columns = np.arange(max(int(left * size) - 1, 0), min(int((left + width) * size) + 2, size))
        rows = np.arange(max(int((1 - bottom - height) * size) - 1, 0), min(int((1 - bottom) * size) + 2, size))
        u, v = np.meshgrid((columns + 0.5) / size, 1 - (rows + 0.5) / size)
        canvas = Canvas((u - left) / width, (v - bottom) / height, look.skin)
        painter(canvas, look, rng)
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = canvas.pixels
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def grain(rng: np.random.Generator, shape: tuple[int, ...], num_cells: int) -> Array:
    """Smooth random values [H, W] of about unit variance, which vary over 1/num_cells of the image."""
    coarse = rng.normal(size=(num_cells + 1, num_cells + 1))
    rows, columns = (np.linspace(0, num_cells, n) for n in shape)
    r, c = (np.minimum(at.astype(int), num_cells - 1) for at in (rows, columns))
    down, across = (rows - r)[:, None], columns - c
    upper, lower = (coarse[i][:, c] * (1 - across) + coarse[i][:, c + 1] * across for i in (r, r + 1))
    return upper * (1 - down) + lower * down


def eye(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    """An eyeball unrolled about the pupil: the middle of the tile looks ahead, its inscribed circle lies behind."""
    away = np.hypot(canvas.u - 0.5, canvas.v - 0.5) * 2 * np.deg2rad(100) * anatomy.EYE_RADIUS
    around = np.arctan2(canvas.v - 0.5, canvas.u - 0.5)
    canvas.tint(np.ones_like(away), (228, 222, 216))
    canvas.tint(0.35 * rise(away, 9, 16), (205, 150, 140))
    iris = rise(-away, -6.6, -5.9)
    fibres = 0.12 * np.sin(around * 17 + rng.uniform(0, 6)) + 0.08 * np.sin(around * 29)
    canvas.tint(iris, np.array(look.iris) * (1.15 + fibres[..., None]))
    canvas.tint(0.6 * rise(away, 4.6, 6.3) * iris, (20, 16, 14))
    canvas.tint(rise(-away, -2.9, -2.4), (8, 8, 8))
    highlight = np.hypot((canvas.u - 0.5) * 50 - 1.5, (canvas.v - 0.5) * 50 - 2.0)
    canvas.tint(0.9 * rise(-highlight, -1.2, -0.7), (255, 255, 255))


def teeth(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    """A row of teeth, side by side along u; v = 1 is at the gums."""
    canvas.tint(np.ones_like(canvas.u), (236, 229, 214))
    gaps = np.abs(((canvas.u - 0.5) * 13 + 0.5) % 1 - 0.5)
    canvas.shade(0.3 * np.exp(-0.5 * (gaps / 0.05) ** 2))
    canvas.shade(0.5 * rise(np.abs(canvas.u - 0.5), 0.22, 0.5))
    canvas.tint(rise(canvas.v + 0.06 * np.cos((canvas.u - 0.5) * 26 * np.pi), 0.72, 0.8), (176, 88, 88))


def mouth(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    """The dark of the mouth, with a tongue at the bottom."""
    canvas.tint(np.ones_like(canvas.u), (46, 18, 18))
    canvas.tint(0.7 * bump(canvas.u, canvas.v, (0.5, 0.18), (0.2, 0.16)), (150, 70, 70))


SKIN_TILE: Tile = (0.004, 0.168, 0.992, 0.828)
LOW, HIGH = float(ROWS[0][0]), float(ROWS[-1][0])


def skin_uvs(chart: Chart) -> Array:
    """Texture coordinates of the skin, float [V, 2]."""
    across, up = 0.5 + 0.5 * chart.angle / EDGE, (chart.y - LOW) / (HIGH - LOW)
    left, bottom, width, height = SKIN_TILE
    return np.stack([left + across * width, bottom + up * height], axis=1)


def paint(look: Appearance, size: int) -> NDArray[np.uint8]:
    """The texture of a subject, uint8 [size, size, 3], row 0 at the top."""
    tiles = (
        (SKIN_TILE, _skin),
        (parts.EYE_TILE, eye),
        (parts.TEETH_TILE, teeth),
        (parts.MOUTH_TILE, mouth),
    )
    return paint_tiles(tiles, look, size)


def _skin(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
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


def _blush(canvas: Canvas, look: Appearance, x: Array, y: Array) -> None:
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


def _beard(canvas: Canvas, look: Appearance, x: Array, y: Array, hairs: Array) -> None:
    jaw = rise(-y, 34, 52) * rise(np.abs(x) - 0.4 * (y + 60), 30, 42) + bump(x, y, (0, -74), (24, 13))
    lip = bump(x, y, (0, -36), (17, 4.5))
    canvas.tint(look.stubble * np.clip(jaw + lip, 0, 1) * (0.8 + 0.25 * hairs), look.hair)


def _lips(canvas: Canvas, look: Appearance, x: Array, y: Array) -> None:
    upper, lower = anatomy.lip_heights(x)
    d = y - anatomy.MOUTH_LINE
    edge = 0.9
    red = np.clip(0.5 + (upper - d) / edge, 0, 1) * np.clip(0.5 + (lower + d) / edge, 0, 1) * (upper > 0)
    colour = np.array(look.skin) * (0.86, 0.5, 0.52)
    canvas.tint((0.55 + 0.4 * look.lip) * red, colour)
    canvas.shade(0.14 * red * (d > 0))
    inside = np.clip(1.25 - (x / (anatomy.MOUTH_CORNER + 1)) ** 2, 0, 1)
    canvas.shade(0.7 * np.exp(-0.5 * (d / 0.7) ** 2) * inside)


def _eyelids(canvas: Canvas, look: Appearance, x: Array, y: Array) -> None:
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


def _brows(canvas: Canvas, look: Appearance, x: Array, y: Array, hairs: Array) -> None:
    side = np.abs(x)
    taper = 1 - 0.55 * rise(side, 30, 52) - 0.25 * rise(-side, -14, -7)
    inside = near(side, y, anatomy.BROW, 1.0)
    distance = np.sqrt(np.maximum(-2 * np.log(np.maximum(inside, 1e-30)), 0))
    amount = rise(look.brow * taper - distance, -0.8, 0.9)
    canvas.tint(0.88 * amount * (0.88 + 0.12 * hairs), look.hair)


def _hair(canvas: Canvas, look: Appearance, x: Array, y: Array, angle: Array, locks: Array) -> None:
    line = 76 - 4 * np.cos(3.2 * angle) - 26 * rise(np.abs(angle), 0.75, 1.25)
    top = rise(y - line + 2.5 * locks, 0, 6)
    sideburn = rise(np.abs(angle), 1.16, 1.26) * rise(y, -12, 10)
    canvas.tint(np.maximum(top, sideburn) * (0.93 + 0.05 * locks), look.hair)
