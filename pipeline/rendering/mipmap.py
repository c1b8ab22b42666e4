"""A texture and its smaller copies, so that a lookup finds about one texel a pixel, however small the texture is seen.

L. Williams, "Pyramidal parametrics", SIGGRAPH 1983. A lookup takes the copy whose texels come nearest to the pixels in
area, and is bilinear within it.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class MipMap(NamedTuple):
    """All copies, packed.

    Attributes:
        texels: uint32 [N], red in the lowest byte, then green and blue; a copy's rows follow each other from the top.
        levels: int32 [L, 3]: of each copy where it begins in `texels`, its height and its width, largest first.
    """

    texels: NDArray[np.uint32]
    levels: NDArray[np.int32]

    @classmethod
    def build(cls, texture: NDArray[np.uint8]) -> "MipMap":
        """Halve `texture` uint8 [H, W, 3] down to one texel, each time to the mean of the area that a texel covers.

        A side of 2k + 1 becomes one of k, whose texels cover 2 + 1/k each.
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
    """Twice the area of each face on its texture of `height` x `width`, in texels [F]."""
    covered = np.empty(len(face_uvs), np.float32)
    for f in range(len(face_uvs)):
        i, j, k = face_uvs[f, 0], face_uvs[f, 1], face_uvs[f, 2]
        ax, ay = uvs[j, 0] - uvs[i, 0], uvs[j, 1] - uvs[i, 1]
        bx, by = uvs[k, 0] - uvs[i, 0], uvs[k, 1] - uvs[i, 1]
        covered[f] = abs(ax * by - ay * bx) * np.float32(height * width)
    return covered


@njit(cache=True, nogil=True)
def _fill(texture: NDArray[np.uint8], levels: NDArray[np.int32], texels: NDArray[np.uint32]) -> None:
    at = 0
    for y in range(texture.shape[0]):
        for x in range(texture.shape[1]):
            red, green, blue = np.uint32(texture[y, x, 0]), np.uint32(texture[y, x, 1]), np.uint32(texture[y, x, 2])
            texels[at] = red | green << np.uint32(8) | blue << np.uint32(16)
            at += 1
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
    """The mean of four, for even sides: in integers, red and blue at once.

    Halves go up and down in turn; else each copy would be brighter than the one before.
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
    """The mean by area."""
    for y in range(smaller.shape[0]):
        rows = _parts(y, larger.shape[0])
        for x in range(smaller.shape[1]):
            columns = _parts(x, larger.shape[1])
            red, green, blue = np.float32(0.5), np.float32(0.5), np.float32(0.5)
            for i in range(3):
                for j in range(3):
                    weight = rows[i] * columns[j]
                    if weight > 0:
                        texel = larger[2 * y + i, 2 * x + j]
                        red += weight * _byte(texel, 0)
                        green += weight * _byte(texel, 8)
                        blue += weight * _byte(texel, 16)
            smaller[y, x] = np.uint32(red) | np.uint32(green) << np.uint32(8) | np.uint32(blue) << np.uint32(16)


@njit(cache=True, nogil=True)
def _byte(texel: np.uint32, shift: int) -> np.float32:
    return np.float32(texel >> np.uint32(shift) & np.uint32(255))


@njit(cache=True, nogil=True)
def _parts(n: int, size: int) -> tuple[np.float32, np.float32, np.float32]:
    """What part of the n-th of half as many texels is each of three, from the one at 2n."""
    half = size // 2
    if size == 1:
        return np.float32(1), np.float32(0), np.float32(0)
    if size % 2 == 0:
        return np.float32(0.5), np.float32(0.5), np.float32(0)
    return np.float32((half - n) / size), np.float32(half / size), np.float32((n + 1) / size)
