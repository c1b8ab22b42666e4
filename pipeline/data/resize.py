"""Views at the size that the image tower takes.

Goes in: a decoded view. Comes out: the same view in a batch's layout. Promised: what is shrunk has no aliasing, and
other threads go on meanwhile.
"""

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image


def fit_image(pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Pixels uint8 [H, W, 3] -> the same view at the size of `out`, uint8 [3, h, w].

    Shrunk, a pixel is the mean of those that it covers, rounded: no aliasing. Growing interpolates.
    """
    sizes = list(zip(pixels.shape[:2], out.shape[1:], strict=True))
    if all(given == wanted for given, wanted in sizes):
        out[:] = pixels.transpose(2, 0, 1)
    elif all(given >= wanted for given, wanted in sizes):
        rows, columns = (_covered(*size) for size in sizes)
        _shrink(pixels.reshape(len(pixels), -1), *rows, *columns, out)
    else:
        grown = Image.fromarray(pixels).resize(out.shape[:0:-1], Image.Resampling.BILINEAR)
        out[:] = np.asarray(grown).transpose(2, 0, 1)


@lru_cache(maxsize=16)
def _covered(num: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which of `num` pixels of a line each of `wanted` covers: the first [wanted], and shares of n from there on.

    Of pixels that are at least twice as small each counts as a whole where its centre lies. Larger ones are shared:
    most would else be taken one to one, and a few in pairs.
    """
    edges = np.arange(wanted + 1) * num / wanted
    if num >= 2 * wanted:
        edges = np.floor(edges + 0.5)
    first = edges[:-1].astype(np.int64)
    most = int((np.ceil(edges[1:]) - first).max())
    first = np.minimum(first, num - most)
    pixels = first[:, None] + np.arange(most)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return first, (shares.clip(0) / np.diff(edges)[:, None]).astype(np.float32)


@njit(cache=True, nogil=True)
def _shrink(
    lines: NDArray[np.uint8],
    first_rows: NDArray[np.int64],
    row_shares: NDArray[np.float32],
    first_columns: NDArray[np.int64],
    column_shares: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Fill `out` [3, h, w] with the means of what its pixels cover of `lines` [H, 3 W]; see `_covered`."""
    sums = np.empty(lines.shape[1], np.float32)
    for y in range(len(first_rows)):
        sums[:] = np.float32(0.5)  # for rounding
        for n in range(row_shares.shape[1]):
            share, i = row_shares[y, n], first_rows[y] + n
            if share > 0:
                for j in range(len(sums)):
                    sums[j] += share * np.float32(lines[i, j])
        for x in range(len(first_columns)):
            red = green = blue = np.float32(0)
            # A number without a sign need not be asked whether it counts from the end.
            at = np.uint64(3 * first_columns[x])
            for n in range(column_shares.shape[1]):
                share = column_shares[x, n]
                red += share * sums[at]
                green += share * sums[at + np.uint64(1)]
                blue += share * sums[at + np.uint64(2)]
                at += np.uint64(3)
            # By way of int32, which processors convert to.
            out[0, y, x] = np.uint8(np.int32(red))
            out[1, y, x] = np.uint8(np.int32(green))
            out[2, y, x] = np.uint8(np.int32(blue))
