"""Procedural textures: a canvas for tiles, painters of eyes, teeth and mouth, and the skin of the parametric face.

The upper part of the image is the closed face, unrolled around the head; below it are the tiles of `parts.py`. Brows,
lips and lids are painted at their positions on the chart, so they move with the skin.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model import anatomy, parts
from smile_pipe.pipeline.face_model.chart import EDGE, ROWS, Chart
from smile_pipe.pipeline.face_model.curves import Array, bump, line_falloff, mirrored_bump, smoothstep
from smile_pipe.pipeline.face_model.interface import Appearance, Colour

# A rectangle of the texture: u, v of its lower left corner, width, height.
Tile = tuple[float, float, float, float]


class Canvas:
    """A tile to paint on: coordinates `u`, `v` [H, W] (0 to 1 inside) and `pixels` [H, W, 3] (0 to 255)."""

    def __init__(self, u: Array, v: Array, ground: Colour) -> None:
        self.u, self.v = u, v
        self.pixels = np.empty((*u.shape, 3))
        self.pixels[:] = ground

    def tint(self, amount: Array, colour: Colour | Array) -> None:
        """Blend with `colour` by `amount` (0 to 1)."""
        mix = np.clip(amount, 0, 1)[..., None]
        self.pixels += mix * (np.asarray(colour, float) - self.pixels)

    def shade(self, amount: Array) -> None:
        """Darken by `amount` (0 to 1), like in a shadow; darker skin is redder."""
        self.pixels *= 1 - np.clip(amount, 0, 1)[..., None] * (0.85, 1.0, 1.05)


Painter = Callable[[Canvas, Appearance, np.random.Generator], None]


def paint_tiles(tiles: Iterable[tuple[Tile, Painter]], appearance: Appearance, size: int) -> NDArray[np.uint8]:
    """Paint each tile with its painter, in order, on a background of skin.

    Returns:
        uint8 [size, size, 3], row 0 at the top.
    """
    image = np.tile(np.array(appearance.skin), (size, size, 1))
    rng = np.random.default_rng(appearance.seed)
    for (left, bottom, width, height), painter in tiles:
        # One more texel on each side, so interpolation at the edge uses the tile's own colours.
        columns = np.arange(max(int(left * size) - 1, 0), min(int((left + width) * size) + 2, size))
        rows = np.arange(max(int((1 - bottom - height) * size) - 1, 0), min(int((1 - bottom) * size) + 2, size))
        u, v = np.meshgrid((columns + 0.5) / size, 1 - (rows + 0.5) / size)
        canvas = Canvas((u - left) / width, (v - bottom) / height, appearance.skin)
        painter(canvas, appearance, rng)
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = canvas.pixels
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def grain(rng: np.random.Generator, shape: tuple[int, ...], num_cells: int) -> Array:
    """Draw smooth noise [H, W] of about unit variance, with features of 1/num_cells of the image."""
    coarse = rng.normal(size=(num_cells + 1, num_cells + 1))
    rows, columns = (np.linspace(0, num_cells, n) for n in shape)
    r, c = (np.minimum(at.astype(int), num_cells - 1) for at in (rows, columns))
    down, across = (rows - r)[:, None], columns - c
    upper, lower = (coarse[i][:, c] * (1 - across) + coarse[i][:, c + 1] * across for i in (r, r + 1))
    return upper * (1 - down) + lower * down


def eye(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
    """Paint an eyeball unrolled around the pupil: the tile's centre is the front, its inscribed circle the back."""
    away = np.hypot(canvas.u - 0.5, canvas.v - 0.5) * 2 * np.deg2rad(100) * anatomy.EYE_RADIUS
    around = np.arctan2(canvas.v - 0.5, canvas.u - 0.5)
    canvas.tint(np.ones_like(away), (228, 222, 216))
    canvas.tint(0.35 * smoothstep(away, 9, 16), (205, 150, 140))
    iris = smoothstep(-away, -6.6, -5.9)
    fibres = 0.12 * np.sin(around * 17 + rng.uniform(0, 6)) + 0.08 * np.sin(around * 29)
    canvas.tint(iris, np.array(appearance.iris) * (1.15 + fibres[..., None]))
    canvas.tint(0.6 * smoothstep(away, 4.6, 6.3) * iris, (20, 16, 14))
    canvas.tint(smoothstep(-away, -2.9, -2.4), (8, 8, 8))
    highlight = np.hypot((canvas.u - 0.5) * 50 - 1.5, (canvas.v - 0.5) * 50 - 2.0)
    canvas.tint(0.9 * smoothstep(-highlight, -1.2, -0.7), (255, 255, 255))


def teeth(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
    """Paint a row of teeth along u; the gums are at v = 1."""
    canvas.tint(np.ones_like(canvas.u), (236, 229, 214))
    gaps = np.abs(((canvas.u - 0.5) * 13 + 0.5) % 1 - 0.5)
    canvas.shade(0.3 * np.exp(-0.5 * (gaps / 0.05) ** 2))
    canvas.shade(0.5 * smoothstep(np.abs(canvas.u - 0.5), 0.22, 0.5))
    canvas.tint(smoothstep(canvas.v + 0.06 * np.cos((canvas.u - 0.5) * 26 * np.pi), 0.72, 0.8), (176, 88, 88))


def mouth(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
    """Paint the mouth cavity, with a tongue at the bottom."""
    canvas.tint(np.ones_like(canvas.u), (46, 18, 18))
    canvas.tint(0.7 * bump(canvas.u, canvas.v, (0.5, 0.18), (0.2, 0.16)), (150, 70, 70))


SKIN_TILE: Tile = (0.004, 0.168, 0.992, 0.828)
LOW, HIGH = float(ROWS[0][0]), float(ROWS[-1][0])


def skin_uvs(chart: Chart) -> Array:
    """Compute the texture coordinates of the skin, float64 [V, 2]."""
    across, up = 0.5 + 0.5 * chart.angle / EDGE, (chart.y - LOW) / (HIGH - LOW)
    left, bottom, width, height = SKIN_TILE
    return np.stack([left + across * width, bottom + up * height], axis=1)


def paint(appearance: Appearance, size: int) -> NDArray[np.uint8]:
    """Paint the texture of a subject, uint8 [size, size, 3], row 0 at the top."""
    tiles = (
        (SKIN_TILE, _skin),
        (parts.EYE_TILE, eye),
        (parts.TEETH_TILE, teeth),
        (parts.MOUTH_TILE, mouth),
    )
    return paint_tiles(tiles, appearance, size)


def _skin(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
    y = LOW + canvas.v * (HIGH - LOW)
    angle = (2 * canvas.u - 1) * EDGE
    x = anatomy.half_width(y) * np.sin(angle)
    canvas.pixels *= 1 + 0.02 * grain(rng, x.shape, 10)[..., None] + 0.015 * grain(rng, x.shape, 90)[..., None]
    _blush(canvas, appearance, x, y)
    _hollows(canvas, x, y)
    _beard(canvas, appearance, x, y, grain(rng, x.shape, 150))
    _lips(canvas, appearance, x, y)
    _eyelids(canvas, appearance, x, y)
    _brows(canvas, appearance, x, y, grain(rng, x.shape, 170))
    _hair(canvas, appearance, x, y, angle, grain(rng, x.shape, 60))


def _blush(canvas: Canvas, appearance: Appearance, x: Array, y: Array) -> None:
    red = np.array(appearance.skin) * (1.0, 0.74, 0.72)
    canvas.tint(0.55 * appearance.blush * mirrored_bump(x, y, (41, -14), (13, 12)), red)
    canvas.tint(0.5 * appearance.blush * bump(x, y, (0, -16), (10, 8)), red)


def _hollows(canvas: Canvas, x: Array, y: Array) -> None:
    side = np.abs(x)
    canvas.shade(0.22 * mirrored_bump(x, y, (20, 22), (7, 9)) + 0.12 * mirrored_bump(x, y, (32, 10), (13, 4)))
    canvas.shade(0.20 * line_falloff(side, y, ((17.5, -12), (19.5, -18), (16.5, -25)), 1.6))
    canvas.shade(0.75 * mirrored_bump(x, y, (6.5, -24.5), (2.7, 1.5)) + 0.2 * bump(x, y, (0, -28), (9, 2.5)))
    canvas.shade(0.14 * line_falloff(side, y, ((18, -22), (27, -36), (33, -50)), 2.2))
    canvas.shade(0.2 * bump(x, y, (0, -60.5), (13, 2.6)) + 0.35 * smoothstep(-y, 84, 97))


def _beard(canvas: Canvas, appearance: Appearance, x: Array, y: Array, hairs: Array) -> None:
    jaw = smoothstep(-y, 34, 52) * smoothstep(np.abs(x) - 0.4 * (y + 60), 30, 42) + bump(x, y, (0, -74), (24, 13))
    lip = bump(x, y, (0, -36), (17, 4.5))
    canvas.tint(appearance.stubble * np.clip(jaw + lip, 0, 1) * (0.8 + 0.25 * hairs), appearance.hair)


def _lips(canvas: Canvas, appearance: Appearance, x: Array, y: Array) -> None:
    upper, lower = anatomy.lip_heights(x)
    d = y - anatomy.MOUTH_LINE
    edge = 0.9
    red = np.clip(0.5 + (upper - d) / edge, 0, 1) * np.clip(0.5 + (lower + d) / edge, 0, 1) * (upper > 0)
    colour = np.array(appearance.skin) * (0.86, 0.5, 0.52)
    canvas.tint((0.55 + 0.4 * appearance.lip) * red, colour)
    canvas.shade(0.14 * red * (d > 0))
    inside = np.clip(1.25 - (x / (anatomy.MOUTH_CORNER + 1)) ** 2, 0, 1)
    canvas.shade(0.7 * np.exp(-0.5 * (d / 0.7) ** 2) * inside)


def _eyelids(canvas: Canvas, appearance: Appearance, x: Array, y: Array) -> None:
    side, d = np.abs(x), y - anatomy.EYE_LINE
    inner, outer = anatomy.EYE_CORNERS
    along = np.clip((side - inner) / (outer - inner), 0, 1)
    within = smoothstep(side, inner - 1.5, inner + 1) * smoothstep(-side, -outer - 2.5, -outer)
    lash = np.exp(-0.5 * ((d - 0.6) / 1.0) ** 2) * (0.65 + 0.3 * along) * (d > -0.2)
    lower_lash = np.exp(-0.5 * ((d + 0.4) / 0.55) ** 2) * (0.2 + 0.35 * along)
    crease = line_falloff(side, y, ((inner + 1, 21.5), (25, 26.5), (33, 27.0), (41, 24.5), (47, 20)), 0.9)
    canvas.shade(0.42 * crease + 0.1 * within * smoothstep(d, 0, 3) * smoothstep(-d, -10, -7))
    canvas.tint(within * np.maximum(lash, lower_lash), np.array(appearance.hair) * 0.6)
    canvas.tint(
        0.5 * mirrored_bump(x, y, (inner - 0.3, anatomy.EYE_LINE), (1.6, 1.2)),
        np.array(appearance.skin) * (0.85, 0.5, 0.48),
    )


def _brows(canvas: Canvas, appearance: Appearance, x: Array, y: Array, hairs: Array) -> None:
    side = np.abs(x)
    taper = 1 - 0.55 * smoothstep(side, 30, 52) - 0.25 * smoothstep(-side, -14, -7)
    inside = line_falloff(side, y, anatomy.BROW, 1.0)
    distance = np.sqrt(np.maximum(-2 * np.log(np.maximum(inside, 1e-30)), 0))
    amount = smoothstep(appearance.brow * taper - distance, -0.8, 0.9)
    canvas.tint(0.88 * amount * (0.88 + 0.12 * hairs), appearance.hair)


def _hair(canvas: Canvas, appearance: Appearance, x: Array, y: Array, angle: Array, locks: Array) -> None:
    line = 76 - 4 * np.cos(3.2 * angle) - 26 * smoothstep(np.abs(angle), 0.75, 1.25)
    top = smoothstep(y - line + 2.5 * locks, 0, 6)
    sideburn = smoothstep(np.abs(angle), 1.16, 1.26) * smoothstep(y, -12, 10)
    canvas.tint(np.maximum(top, sideburn) * (0.93 + 0.05 * locks), appearance.hair)
