"""Triton rasteriser: the loop of `kernels/faces.py` for GPUs.

It computes the same numbers as the CPU version, so both find the same faces. All views of a mesh are drawn at once, and
a pixel's key is updated with an atomic maximum, so the result does not depend on the order of the faces. With
TRITON_INTERPRET=1, Triton runs it on a CPU, slowly, for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from smile_pipe.pipeline.rendering.kernels import faces, vertices
from smile_pipe.pipeline.rendering.kernels.cuda_vertices import PLAIN, load_corners

OFFSCREEN = tl.constexpr(vertices.OFFSCREEN)
SUBPIXEL = tl.constexpr(vertices.SUBPIXEL)
SUBPIXEL_BITS = tl.constexpr(vertices.SUBPIXEL.bit_length() - 1)
HALF = tl.constexpr(vertices.SUBPIXEL // 2)
LAST_FACE = tl.constexpr(faces.LAST_FACE)
# Number of faces of one program. Each lane draws the pixels of its own face if its bounding box has at most
# `MAX_SMALL_FACE` pixels; all lanes together draw each larger face.
BLOCK = 128
MAX_SMALL_FACE = 64


def rasterise(snapped: Tensor, faces_f3: Tensor, size: int, perspective: bool) -> Tensor:
    """Find the nearest face at each pixel centre of all views.

    Args:
        snapped: int32 [V, N, 3], vertices snapped like in `smile_pipe.pipeline.rendering.kernels.vertices.project`.
        faces_f3: int32 [F, 3].
        size: Height and width of the images in pixels.
        perspective: Whether nearness is 1 / z, else -z.

    Returns:
        int64 [V, H, W], keys like those of `smile_pipe.pipeline.rendering.kernels.faces.rasterise`.
    """
    num_views, num_vertices, _ = snapped.shape
    zbuffer = torch.full((num_views, size, size), faces.NO_FACE, dtype=torch.int64, device=snapped.device)
    grid = (triton.cdiv(len(faces_f3), BLOCK), num_views)
    flip = 0 if perspective else -1
    # No fused multiply-add, because it rounds differently from the CPU version.
    _rasterise[grid](
        *(snapped.contiguous(), faces_f3.contiguous(), zbuffer, len(faces_f3), num_vertices, size),
        **{"flip": flip, "block": BLOCK, "max_small": MAX_SMALL_FACE, "enable_fp_fusion": False},
    )
    return zbuffer


@triton.jit(do_not_specialize=PLAIN)
def _rasterise(
    snapped,
    faces,
    zbuffer,
    num_faces,
    num_vertices,
    size,
    flip: tl.constexpr,
    block: tl.constexpr,
    max_small: tl.constexpr,
):
    first = tl.program_id(0) * block
    view = tl.program_id(1).to(tl.int64)
    snapped += view * num_vertices * 3
    zbuffer += view * size * size
    face = first + tl.arange(0, block)
    box, corners, plane = _set_up_faces(snapped, faces, face, face < num_faces, size)
    num = box[3]
    most = tl.max(tl.where(num <= max_small, num, 0))
    for n in range(most):
        _update_pixels(zbuffer, size, box, corners, plane, n, (n < num) & (num <= max_small), face, flip)
    if tl.max(num) > max_small:
        for lane in range(tl.minimum(block, num_faces - first)):
            _rasterise_if_large(zbuffer, size, snapped, faces, first + lane, num_faces, flip, block, max_small)


@triton.jit
def _rasterise_if_large(
    zbuffer, size, snapped, faces, face, num_faces, flip: tl.constexpr, block: tl.constexpr, max_small: tl.constexpr
):
    """Draw one face with all lanes of a program, if it is large."""
    box, corners, plane = _set_up_faces(snapped, faces, face, face < num_faces, size)
    if box[3] > max_small:
        for start in range(0, box[3], block):
            n = start + tl.arange(0, block)
            _update_pixels(zbuffer, size, box, corners, plane, n, n < box[3], face, flip)


@triton.jit
def _set_up_faces(snapped, faces, face, is_face, size):
    """Compute the bounding boxes of faces (left, top, columns, number of pixels), corners and planes of nearness."""
    i, j, k = load_corners(faces, face, is_face)
    x0, y0, q0 = _vertex(snapped, i)
    x1, y1, q1 = _vertex(snapped, j)
    x2, y2, q2 = _vertex(snapped, k)
    lowest = tl.minimum(tl.minimum(x0, x1), x2)
    left = tl.maximum((lowest + HALF - 1) >> SUBPIXEL_BITS, 0)
    right = tl.minimum((tl.maximum(tl.maximum(x0, x1), x2) - HALF) >> SUBPIXEL_BITS, size - 1)
    top = tl.maximum((tl.minimum(tl.minimum(y0, y1), y2) + HALF - 1) >> SUBPIXEL_BITS, 0)
    bottom = tl.minimum((tl.maximum(tl.maximum(y0, y1), y2) - HALF) >> SUBPIXEL_BITS, size - 1)
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    is_drawn = is_face & (left <= right) & (top <= bottom) & (area != 0) & (lowest != OFFSCREEN)
    columns = tl.maximum(right - left + 1, 1)
    num = tl.where(is_drawn, columns * (bottom - top + 1), 0).to(tl.int32)
    # Both sides are drawn: the winding of a face seen from behind is reversed.
    is_flipped = area < 0
    ax, ay, aq = tl.where(is_flipped, x2, x1), tl.where(is_flipped, y2, y1), tl.where(is_flipped, q2, q1)
    bx, by, bq = tl.where(is_flipped, x1, x2), tl.where(is_flipped, y1, y2), tl.where(is_flipped, q1, q2)
    abs_area = tl.maximum(tl.abs(area), 1).to(tl.float64)
    return (left, top, columns, num), (x0, y0, ax, ay, bx, by), (q0, (aq - q0) / abs_area, (bq - q0) / abs_area)


@triton.jit
def _vertex(snapped, number):
    address = snapped + number * 3
    nearness = tl.load(address + 2).to(tl.float32, bitcast=True).to(tl.float64)
    return tl.load(address).to(tl.int64), tl.load(address + 1).to(tl.int64), nearness


@triton.jit
def _update_pixels(zbuffer, size, box, corners, plane, n, is_active, face, flip: tl.constexpr):
    """Update the keys of the `n`-th pixels of faces whose centre the face covers."""
    left, top, columns, _ = box
    x0, y0, x1, y1, x2, y2 = corners
    row = n // columns
    column = n - row * columns
    u, v = (left + column) * SUBPIXEL + HALF, (top + row) * SUBPIXEL + HALF
    e0 = _edge(x1, y1, x2, y2, u, v)
    e1 = _edge(x2, y2, x0, y0, u, v)
    e2 = _edge(x0, y0, x1, y1, u, v)
    nearness = (plane[0] + plane[1] * e1.to(tl.float64) + plane[2] * e2.to(tl.float64)).to(tl.float32)
    bits = (nearness.to(tl.int32, bitcast=True) ^ flip).to(tl.int64)
    key = (bits << 32) | (-face + LAST_FACE).to(tl.int64)
    is_covered = is_active & ((e0 | e1 | e2) >= 0)
    # No order with other memory accesses is needed, because nothing else is exchanged between programs.
    tl.atomic_max(zbuffer + (top + row) * size + left + column, key, mask=is_covered, sem="relaxed")


@triton.jit
def _edge(x0, y0, x1, y1, u, v):
    """Edge function: at least 0 inside the edge, and on the edge if it is a top or left edge."""
    dx, dy = x1 - x0, y1 - y0
    is_top_left = (dy < 0) | ((dy == 0) & (dx > 0))
    return dx * (v - y0) - dy * (u - x0) - tl.where(is_top_left, 0, 1)
