"""What textures are painted on: tiles of an image, layers of colour, and grain."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.faces.curves import Array
from pipeline.faces.look import Colour, Look

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


Painter = Callable[[Canvas, Look, np.random.Generator], None]


def paint_tiles(tiles: Iterable[tuple[Tile, Painter]], look: Look, size: int) -> NDArray[np.uint8]:
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
