"""Mip maps: a texture with smaller copies, so that a lookup can use a copy with about one texel per pixel.

A lookup uses the level whose texels are closest to the pixels in area, and is bilinear within that level.
Source: L. Williams, "Pyramidal parametrics", SIGGRAPH 1983.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class MipMap(NamedTuple):
    """All levels of a texture, packed in one array.

    Attributes:
        texels: uint32 [N], red in the lowest byte, then green and blue; the rows of a level in order from the top.
        levels: int32 [L, 3]: start in `texels`, height and width of each level, largest first.
    """

    texels: NDArray[np.uint32]
    levels: NDArray[np.int32]

    @classmethod
    def build(cls, texture: NDArray[np.uint8]) -> "MipMap":
        """Halve `texture` uint8 [H, W, 3] repeatedly, down to one texel.

        A texel is the mean over the area that it covers in the level before. A side of 2k + 1 texels becomes k texels,
        each covering 2 + 1/k of the larger ones.
        """
        height, width, _ = texture.shape
        levels = [(0, height, width)]
        while (height, width) != (1, 1):
            first = levels[-1][0] + height * width
            height, width = max(height // 2, 1), max(width // 2, 1)
            levels.append((first, height, width))
        texels = np.empty(levels[-1][0] + 1, np.uint32)
        table = np.array(levels, np.int32)
        _fill(texture, table, texels)
        return cls(texels, table)


@njit(cache=True, nogil=True)
def texels_covered(
    face_uvs: NDArray[np.int32], uvs: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """Compute how many texels each face covers.

    Args:
        face_uvs: int32 [F, 3], indices into `uvs`.
        uvs: float32 [U, 2].
        height, width: Size of the texture in texels.

    Returns:
        float32 [F], twice the area of each face in texels.
    """
    covered = np.empty(len(face_uvs), np.float32)
    for f in range(len(face_uvs)):
        i, j, k = face_uvs[f, 0], face_uvs[f, 1], face_uvs[f, 2]
        ax, ay = uvs[j, 0] - uvs[i, 0], uvs[j, 1] - uvs[i, 1]
        bx, by = uvs[k, 0] - uvs[i, 0], uvs[k, 1] - uvs[i, 1]
        covered[f] = abs(ax * by - ay * bx) * np.float32(height * width)
    return covered


@njit(cache=True, nogil=True)
def _fill(texture: NDArray[np.uint8], levels: NDArray[np.int32], texels: NDArray[np.uint32]) -> None:
    index = 0
    for y in range(texture.shape[0]):
        for x in range(texture.shape[1]):
            red, green, blue = np.uint32(texture[y, x, 0]), np.uint32(texture[y, x, 1]), np.uint32(texture[y, x, 2])
            texels[index] = red | green << np.uint32(8) | blue << np.uint32(16)
            index += 1
    for n in range(1, len(levels)):
        first, height, width = levels[n]
        larger = texels[levels[n - 1, 0] : first].reshape(levels[n - 1, 1], levels[n - 1, 2])
        smaller = texels[first : first + height * width].reshape(height, width)
        if larger.shape[0] == 2 * height and larger.shape[1] == 2 * width:
            _halve(larger, smaller)
        else:
            _shrink(larger, smaller)


@njit(cache=True, nogil=True)
def _halve(larger: NDArray[np.uint32], smaller: NDArray[np.uint32]) -> None:
    """Halve even sides: the mean of four texels in integers, red and blue in one addition.

    Halves are rounded up and down alternately; always rounding up would make each level brighter.
    """
    red_blue, green = np.uint32(0xFF00FF), np.uint32(0x00FF00)
    for y in range(smaller.shape[0]):
        upper, lower = larger[2 * y], larger[2 * y + 1]
        for x in range(smaller.shape[1]):
            a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
            rounding = np.uint32(0x010001) << np.uint32((x ^ y) & 1)
            rb = (a & red_blue) + (b & red_blue) + (c & red_blue) + (d & red_blue) + rounding
            g = (a & green) + (b & green) + (c & green) + (d & green) + ((rounding & np.uint32(3)) << np.uint32(8))
            smaller[y, x] = (rb >> np.uint32(2)) & red_blue | (g >> np.uint32(2)) & green


@njit(cache=True, nogil=True)
def _shrink(larger: NDArray[np.uint32], smaller: NDArray[np.uint32]) -> None:
    """Halve odd sides: the mean weighted by area."""
    for y in range(smaller.shape[0]):
        rows = _area_weights(y, larger.shape[0])
        for x in range(smaller.shape[1]):
            columns = _area_weights(x, larger.shape[1])
            red, green, blue = np.float32(0.5), np.float32(0.5), np.float32(0.5)
            for i in range(3):
                for j in range(3):
                    weight = rows[i] * columns[j]
                    if weight > 0:
                        texel = larger[2 * y + i, 2 * x + j]
                        red += weight * _channel(texel, 0)
                        green += weight * _channel(texel, 8)
                        blue += weight * _channel(texel, 16)
            smaller[y, x] = np.uint32(red) | np.uint32(green) << np.uint32(8) | np.uint32(blue) << np.uint32(16)


@njit(cache=True, nogil=True)
def _channel(texel: np.uint32, shift: int) -> np.float32:
    return np.float32(texel >> np.uint32(shift) & np.uint32(255))


@njit(cache=True, nogil=True)
def _area_weights(n: int, size: int) -> tuple[np.float32, np.float32, np.float32]:
    """Return the area weights of the texels 2n, 2n + 1 and 2n + 2 in texel n of the halved side."""
    half = size // 2
    if size == 1:
        return np.float32(1), np.float32(0), np.float32(0)
    if size % 2 == 0:
        return np.float32(0.5), np.float32(0.5), np.float32(0)
    return np.float32((half - n) / size), np.float32(half / size), np.float32((n + 1) / size)
