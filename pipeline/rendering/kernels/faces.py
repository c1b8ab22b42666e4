"""Numba rasteriser: one pass over the triangles finds the visible face of each pixel in a z-buffer of 64-bit keys."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.kernels.vertices import OFFSCREEN, SUBPIXEL

# A pixel's key has the nearness in its upper 32 bits and `LAST_FACE - face` in its lower 32 bits. The largest key is
# that of the nearest face, and of equally near faces that of the first. `NO_FACE` is the key of a pixel without a face.
NO_FACE = 0
LAST_FACE = 0x7FFFFFFF


@njit(cache=True, nogil=True, error_model="numpy")
def rasterise(
    snapped: NDArray[np.int32], faces: NDArray[np.int32], perspective: bool, zbuffer: NDArray[np.int64]
) -> None:
    """Find the nearest face at each pixel centre.

    A pixel centre on an edge belongs to the face of which the edge is a top or left edge.

    Args:
        snapped: int32 [V, 3], vertices from `smile_pipe.pipeline.rendering.kernels.vertices.project`.
        faces: int32 [F, 3].
        perspective: Whether nearness is 1 / z, else -z.
        zbuffer: int64 [H, W], output: the key of each pixel; `decode_face` returns its face.
    """
    height, width = zbuffer.shape
    zbuffer[:] = NO_FACE
    pixels = zbuffer.reshape(-1)
    nearness = snapped.view(np.float32)
    half = SUBPIXEL // 2
    # The bits of positive floats, read as integers, are in the order of the floats. Those of negative floats (-z) are
    # in reverse order and are inverted.
    flip = np.int32(0 if perspective else -1)
    for f in range(len(faces)):
        # Unsigned indices avoid the check for negative indices in each access.
        i, j, k = np.uint32(faces[f, 0]), np.uint32(faces[f, 1]), np.uint32(faces[f, 2])
        x0, x1, x2 = np.int64(snapped[i, 0]), np.int64(snapped[j, 0]), np.int64(snapped[k, 0])
        lowest = min(x0, x1, x2)
        left: int = max(int(lowest + half - 1) // SUBPIXEL, 0)
        right = min((max(x0, x1, x2) - half) // SUBPIXEL, width - 1)
        if left > right or lowest == OFFSCREEN:
            continue
        y0, y1, y2 = np.int64(snapped[i, 1]), np.int64(snapped[j, 1]), np.int64(snapped[k, 1])
        top: int = max(int(min(y0, y1, y2) + half - 1) // SUBPIXEL, 0)
        bottom = min((max(y0, y1, y2) - half) // SUBPIXEL, height - 1)
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if top > bottom or area == 0:
            continue
        q0, q1, q2 = np.float64(nearness[i, 2]), np.float64(nearness[j, 2]), np.float64(nearness[k, 2])
        if area < 0:  # Both sides are drawn: the winding of a face seen from behind is reversed.
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
        key = np.int64(LAST_FACE - f)
        # One loop over all pixels of the bounding box, without branches: most boxes have few pixels, some of them
        # outside the face, and a mispredicted branch costs more than a pixel.
        columns = right - left + 1
        back = columns - 1
        back0, back1, back2, q_back = dx0 + back * dy0, dx1 + back * dy1, dx2 + back * dy2, q_row - back * q_column
        at, left_in_row = top * width + left, columns
        for _ in range(columns * (bottom - top + 1)):
            inside = ~((e0 | e1 | e2) >> 63)
            candidate = ((np.int64(_bits(q) ^ flip) << 32) | key) & inside
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
def decode_face(key: np.int64) -> np.int32:
    """Return the face in a pixel's key."""
    return np.int32(LAST_FACE - (key & LAST_FACE))


@njit(cache=True, nogil=True)
def _bits(value: float) -> np.int32:
    return np.float32(value).view(np.int32)
