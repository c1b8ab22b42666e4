"""Which face each pixel shows, in Triton: the loop of `kernels/faces.py` for GPUs.

It computes what that one does, number by number, so that both find the same faces; but all views of a mesh are drawn
at once, and faces meet in a pixel's word by an atomic maximum. The greatest word wins in whatever order they come, so
nothing depends on that order. Where TRITON_INTERPRET is 1, Triton runs it on a CPU, slowly, for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from smile_pipe.pipeline.rendering.kernels import faces, vertices

NOWHERE = tl.constexpr(vertices.NOWHERE)
SUBPIXEL = tl.constexpr(vertices.SUBPIXEL)
HALF = tl.constexpr(vertices.SUBPIXEL // 2)
LAST_FACE = tl.constexpr(faces.LAST_FACE)
# Faces of one program, each of which goes through its own pixels while it has few; all go through those of a larger one
# together.
BLOCK = 128
FEW = 64


def rasterise(snapped: Tensor, faces_f3: Tensor, size: int, perspective: bool) -> Tensor:
    """Words int64 [V, H, W] of all views, as `smile_pipe.pipeline.rendering.kernels.faces.rasterise` has them.

    Args:
        snapped: int32 [V, N, 3], vertices as `smile_pipe.pipeline.rendering.kernels.vertices.project` snaps them.
        faces_f3: int32 [F, 3].
        size: height and width of the images.
        perspective: whether nearness is 1 / z, else -z.
    """
    num_views, num_vertices, _ = snapped.shape
    words = torch.full((num_views, size, size), faces.NO_FACE, dtype=torch.int64, device=snapped.device)
    grid = (triton.cdiv(len(faces_f3), BLOCK), num_views)
    flip = 0 if perspective else -1
    # Without fused products, which round otherwise than the processor does.
    _rasterise[grid](
        *(snapped.contiguous(), faces_f3.contiguous(), words, len(faces_f3), num_vertices, size),
        **{"flip": flip, "block": BLOCK, "few": FEW, "enable_fp_fusion": False},
    )
    return words


@triton.jit
def _rasterise(
    snapped, faces, words, num_faces, num_vertices, size, flip: tl.constexpr, block: tl.constexpr, few: tl.constexpr
):
    first = tl.program_id(0) * block
    view = tl.program_id(1).to(tl.int64)
    snapped += view * num_vertices * 3
    words += view * size * size
    face = first + tl.arange(0, block)
    box, corners, plane = _set_up(snapped, faces, face, face < num_faces, size)
    num = box[3]
    most = tl.max(tl.where(num <= few, num, 0))
    for n in range(most):
        _meet(words, size, box, corners, plane, n, (n < num) & (num <= few), face, flip)
    if tl.max(num) > few:
        for lane in range(block):
            _draw_if_large(words, size, snapped, faces, first + lane, first + lane < num_faces, flip, block, few)


@triton.jit
def _draw_if_large(
    words, size, snapped, faces, face, is_face, flip: tl.constexpr, block: tl.constexpr, few: tl.constexpr
):
    """One face, by all lanes of a program."""
    box, corners, plane = _set_up(snapped, faces, face, is_face, size)
    if box[3] > few:
        for start in range(0, box[3], block):
            n = start + tl.arange(0, block)
            _meet(words, size, box, corners, plane, n, n < box[3], face, flip)


@triton.jit
def _set_up(snapped, faces, face, is_face, size):
    """The pixels that faces may cover (left, top, columns, number), their corners, and their planes of nearness."""
    i = tl.load(faces + 3 * face, mask=is_face, other=0)
    j = tl.load(faces + 3 * face + 1, mask=is_face, other=0)
    k = tl.load(faces + 3 * face + 2, mask=is_face, other=0)
    x0, y0, q0 = _vertex(snapped, i)
    x1, y1, q1 = _vertex(snapped, j)
    x2, y2, q2 = _vertex(snapped, k)
    lowest = tl.minimum(tl.minimum(x0, x1), x2)
    left = tl.maximum((lowest + HALF - 1) >> 8, 0)
    right = tl.minimum((tl.maximum(tl.maximum(x0, x1), x2) - HALF) >> 8, size - 1)
    top = tl.maximum((tl.minimum(tl.minimum(y0, y1), y2) + HALF - 1) >> 8, 0)
    bottom = tl.minimum((tl.maximum(tl.maximum(y0, y1), y2) - HALF) >> 8, size - 1)
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    is_drawn = is_face & (left <= right) & (top <= bottom) & (area != 0) & (lowest != NOWHERE)
    columns = tl.maximum(right - left + 1, 1)
    num = tl.where(is_drawn, columns * (bottom - top + 1), 0).to(tl.int32)
    # Both sides are drawn: a face seen from behind is walked the other way round.
    turned = area < 0
    ax, ay, aq = tl.where(turned, x2, x1), tl.where(turned, y2, y1), tl.where(turned, q2, q1)
    bx, by, bq = tl.where(turned, x1, x2), tl.where(turned, y1, y2), tl.where(turned, q1, q2)
    size_of = tl.maximum(tl.abs(area), 1).to(tl.float64)
    return (left, top, columns, num), (x0, y0, ax, ay, bx, by), (q0, (aq - q0) / size_of, (bq - q0) / size_of)


@triton.jit
def _vertex(snapped, number):
    at = snapped + number.to(tl.int64) * 3
    nearness = tl.load(at + 2).to(tl.float32, bitcast=True).to(tl.float64)
    return tl.load(at).to(tl.int64), tl.load(at + 1).to(tl.int64), nearness


@triton.jit
def _meet(words, size, box, corners, plane, n, is_mine, face, flip: tl.constexpr):
    """Let faces meet in the words of their `n`-th pixels, each where it covers the centre."""
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
    word = (bits << 32) | (-face + LAST_FACE).to(tl.int64)
    tl.atomic_max(words + (top + row) * size + left + column, word, mask=is_mine & ((e0 | e1 | e2) >= 0))


@triton.jit
def _edge(x0, y0, x1, y1, u, v):
    """At least 0 on the inner side of an edge, and on it where it is a top or left one."""
    dx, dy = x1 - x0, y1 - y0
    is_ours = (dy < 0) | ((dy == 0) & (dx > 0))
    return dx * (v - y0) - dy * (u - x0) - tl.where(is_ours, 0, 1)
