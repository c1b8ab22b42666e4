"""Which face each pixel shows: one pass over the triangles, a z-buffer of 64-bit words."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.kernels.vertices import NOWHERE, SUBPIXEL

# A pixel's word has the nearness in its upper and the face in its lower half, so that the greatest word is that of the
# nearest face, and of faces equally near that of the first. Of no face it is this.
NO_FACE = 0
LAST_FACE = 0x7FFFFFFF


@njit(cache=True, nogil=True, error_model="numpy")
def rasterise(
    snapped: NDArray[np.int32], faces: NDArray[np.int32], perspective: bool, words: NDArray[np.int64]
) -> None:
    """Fill `words` [H, W], of which `face_of` tells the nearest face of each pixel centre.

    `snapped` is as `project` fills it. A pixel centre on an edge belongs to the face whose top or left edge that is.
    """
    height, width = words.shape
    words[:] = NO_FACE
    pixels = words.reshape(-1)
    nearness = snapped.view(np.float32)
    half = SUBPIXEL // 2
    # The bits of positive floats rise with them. Those of negative ones, as -z is, fall, and are turned about.
    flip = np.int32(0 if perspective else -1)
    for f in range(len(faces)):
        # Unsigned, or each access would ask whether it counts from the end.
        i, j, k = np.uint32(faces[f, 0]), np.uint32(faces[f, 1]), np.uint32(faces[f, 2])
        x0, x1, x2 = np.int64(snapped[i, 0]), np.int64(snapped[j, 0]), np.int64(snapped[k, 0])
        lowest = min(x0, x1, x2)
        left: int = max(int(lowest + half - 1) // SUBPIXEL, 0)
        right = min((max(x0, x1, x2) - half) // SUBPIXEL, width - 1)
        if left > right or lowest == NOWHERE:
            continue
        y0, y1, y2 = np.int64(snapped[i, 1]), np.int64(snapped[j, 1]), np.int64(snapped[k, 1])
        top: int = max(int(min(y0, y1, y2) + half - 1) // SUBPIXEL, 0)
        bottom = min((max(y0, y1, y2) - half) // SUBPIXEL, height - 1)
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if top > bottom or area == 0:
            continue
        q0, q1, q2 = np.float64(nearness[i, 2]), np.float64(nearness[j, 2]), np.float64(nearness[k, 2])
        if area < 0:  # Both sides are drawn: a face seen from behind is walked the other way round.
            x1, y1, q1, x2, y2, q2, area = x2, y2, q2, x1, y1, q1, -area
        # The edge functions at the first pixel centre, and their steps to the next column (-dy) and row (dx).
        u, v = left * SUBPIXEL + half, top * SUBPIXEL + half
        dx0, dy0, dx1, dy1, dx2, dy2 = x2 - x1, y2 - y1, x0 - x2, y0 - y2, x1 - x0, y1 - y0
        e0 = dx0 * (v - y1) - dy0 * (u - x1) - (not (dy0 < 0 or (dy0 == 0 and dx0 > 0)))
        e1 = dx1 * (v - y2) - dy1 * (u - x2) - (not (dy1 < 0 or (dy1 == 0 and dx1 > 0)))
        e2 = dx2 * (v - y0) - dy2 * (u - x0) - (not (dy2 < 0 or (dy2 == 0 and dx2 > 0)))
        dx0, dy0, dx1, dy1 = dx0 * SUBPIXEL, dy0 * SUBPIXEL, dx1 * SUBPIXEL, dy1 * SUBPIXEL
        dx2, dy2 = dx2 * SUBPIXEL, dy2 * SUBPIXEL
        slope1, slope2 = (q1 - q0) / area, (q2 - q0) / area
        q = q0 + slope1 * e1 + slope2 * e2
        q_column, q_row = -(slope1 * dy1 + slope2 * dy2), slope1 * dx1 + slope2 * dx2
        word = np.int64(LAST_FACE - f)
        # All pixels of the bounding box in one loop without a branch but its own: most boxes have few, of which some
        # are outside, and a processor that guesses wrongly loses more time than a pixel takes.
        columns = right - left + 1
        back = columns - 1
        back0, back1, back2, q_back = dx0 + back * dy0, dx1 + back * dy1, dx2 + back * dy2, q_row - back * q_column
        at, left_in_row = top * width + left, columns
        for _ in range(columns * (bottom - top + 1)):
            inside = ~((e0 | e1 | e2) >> 63)
            candidate = ((np.int64(_bits(q) ^ flip) << 32) | word) & inside
            pixels[np.uint64(at)] = max(pixels[np.uint64(at)], candidate)
            left_in_row -= 1
            is_last = left_in_row == 0
            e0 += back0 if is_last else -dy0
            e1 += back1 if is_last else -dy1
            e2 += back2 if is_last else -dy2
            q += q_back if is_last else q_column
            at += width - back if is_last else 1
            left_in_row = columns if is_last else left_in_row


@njit(cache=True, nogil=True)
def face_of(word: np.int64) -> np.int32:
    """The face of a pixel's word."""
    return np.int32(LAST_FACE - (word & LAST_FACE))


@njit(cache=True, nogil=True)
def _bits(value: float) -> np.int32:
    return np.float32(value).view(np.int32)
