"""Triton kernels per vertex and per face: projection, vertex normals, and the number of faces in each bin of an image.

Projection computes the numbers of `kernels/vertices.py`, bit by bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from smile_pipe.pipeline.rendering import backend
from smile_pipe.pipeline.rendering.kernels import vertices

OFFSCREEN = tl.constexpr(vertices.OFFSCREEN)
SUBPIXEL = tl.constexpr(vertices.SUBPIXEL)
GUARD_BAND = tl.constexpr(vertices.GUARD_BAND)
NEAR = tl.constexpr(vertices.NEAR)
MAX_FACE_AREA = tl.constexpr(backend.MAX_FACE_AREA)
# Normals are summed as integers with this scale: only sums of integers do not depend on the order of a GPU.
NORMAL_SCALE = tl.constexpr(2.0**40)
# At this size float64 has no fraction: x + ROUNDER - ROUNDER is rounded.
ROUNDER = tl.constexpr(1.5 * 2.0**52)
# Number of float64 values of a camera: R by rows, T, focal lengths and centre in pixels.
CAMERA_VALUES = tl.constexpr(16)
BLOCK = 128
# Triton compiles a kernel again for numbers that are 1 or multiples of 16, unless they are named here.
PLAIN = ["num_vertices", "num_faces", "num_colors", "num_levels", "size", "height", "width", "bin_size", "num_bins"]
# Pixels by which `count_faces_in_bins` enlarges each face; far more than rounding.
BIN_MARGIN = tl.constexpr(0.01)


def project(
    vertices_n3: Tensor, cameras: Tensor, size: int, perspective: bool, as_ndc: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Project vertices to the images of all views.

    Args:
        vertices_n3: float32 [N, 3], frame units.
        cameras: float64 [V, 16], see `CAMERA_VALUES`.
        size: Height and width of the images in pixels.
        perspective: Whether the cameras divide by depth.
        as_ndc: Whether to compute `ndc`, otherwise `snapped`; the other one is None.

    Returns:
        `screen` float32 [V, N, 3] and `snapped` int32 [V, N, 3] like those of
        `smile_pipe.pipeline.rendering.kernels.vertices.project`; and `ndc` float32 [V, N, 3], x left and y up from -1
        to 1 over the image, z the depth. A vertex that cannot be drawn has a `ndc` of 0.
    """
    shape = (len(cameras), len(vertices_n3), 3)
    screen = torch.empty(shape, dtype=torch.float32, device=cameras.device)
    snapped = None if as_ndc else torch.empty(shape, dtype=torch.int32, device=cameras.device)
    ndc = torch.empty_like(screen) if as_ndc else None
    grid = (triton.cdiv(len(vertices_n3), BLOCK), len(cameras))
    # In all kernels: no fused multiply-add, because it rounds differently from the CPU version.
    _project[grid](
        *(vertices_n3, cameras, screen, snapped, ndc, len(vertices_n3), size),
        **{"perspective": perspective, "as_ndc": as_ndc, "block": BLOCK, "enable_fp_fusion": False},
    )
    return screen, snapped, ndc


def vertex_normals(vertices_n3: Tensor, faces_f3: Tensor) -> Tensor:
    """Compute unit normals float32 [N, 3]: means of the adjacent faces' normals, weighted by area; 0 without a face.

    Args:
        vertices_n3: float32 [N, 3].
        faces_f3: int32 [F, 3].
    """
    sums = torch.zeros(vertices_n3.shape, dtype=torch.int64, device=vertices_n3.device)
    normals = torch.empty_like(vertices_n3)
    options = {"block": BLOCK, "enable_fp_fusion": False}
    _sum_normals[(triton.cdiv(len(faces_f3), BLOCK),)](vertices_n3, faces_f3, sums, len(faces_f3), **options)
    _normalise[(triton.cdiv(len(vertices_n3), BLOCK),)](sums, normals, len(vertices_n3), **options)
    return normals


def count_faces_in_bins(ndc: Tensor, faces_f3: Tensor, size: int, bin_size: int) -> Tensor:
    """Count the faces whose bounding boxes overlap each bin of each image.

    Args:
        ndc: float32 [V, N, 3], from `project`.
        faces_f3: int32 [F, 3].
        size: Height and width of the images in pixels.
        bin_size: Height and width of a bin in pixels; bins start at the right and lower edges of the image.

    Returns:
        int32 [V, B, B]; at least the number of faces of which PyTorch3D's coarse pass keeps a place in the bin.
    """
    num_views, num_vertices, _ = ndc.shape
    num_bins = triton.cdiv(size, bin_size)
    # A face adds 1 to a rectangle of bins: +1 and -1 at its corners, which cumulative sums spread.
    corners = torch.zeros(num_views, num_bins + 1, num_bins + 1, dtype=torch.int32, device=ndc.device)
    _count_faces_in_bins[(triton.cdiv(len(faces_f3), BLOCK), num_views)](
        *(ndc, faces_f3, corners, num_vertices, len(faces_f3), size / 2, bin_size, num_bins), block=BLOCK
    )
    counts = corners.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return counts[:, :num_bins, :num_bins]


@triton.jit(do_not_specialize=PLAIN)
def _project(
    vertices, cameras, screen, snapped, ndc, num_vertices, size,
    perspective: tl.constexpr, as_ndc: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    vertex = tl.program_id(0) * block + tl.arange(0, block)
    view = tl.program_id(1).to(tl.int64)
    is_vertex = vertex < num_vertices
    x = tl.load(vertices + 3 * vertex, mask=is_vertex, other=0).to(tl.float64)
    y = tl.load(vertices + 3 * vertex + 1, mask=is_vertex, other=0).to(tl.float64)
    z = tl.load(vertices + 3 * vertex + 2, mask=is_vertex, other=0).to(tl.float64)
    camera = cameras + view * CAMERA_VALUES
    cx = x * tl.load(camera) + y * tl.load(camera + 3) + z * tl.load(camera + 6) + tl.load(camera + 9)
    cy = x * tl.load(camera + 1) + y * tl.load(camera + 4) + z * tl.load(camera + 7) + tl.load(camera + 10)
    cz = x * tl.load(camera + 2) + y * tl.load(camera + 5) + z * tl.load(camera + 8) + tl.load(camera + 11)
    scale = 1 / cz if perspective else cz * 0 + 1
    u = tl.load(camera + 14) - tl.load(camera + 12) * cx * scale
    v = tl.load(camera + 15) - tl.load(camera + 13) * cy * scale
    is_visible = is_vertex & (cz > NEAR) & (tl.abs(u) < GUARD_BAND) & (tl.abs(v) < GUARD_BAND)
    u, v, cz = tl.where(is_visible, u, 0), tl.where(is_visible, v, 0), tl.where(is_visible, cz, 0)
    nearness = tl.where(is_visible, scale, 0).to(tl.float32) if perspective else (-cz).to(tl.float32)
    at = (view * num_vertices + vertex) * 3
    tl.store(screen + at, u.to(tl.float32), mask=is_vertex)
    tl.store(screen + at + 1, v.to(tl.float32), mask=is_vertex)
    tl.store(screen + at + 2, nearness, mask=is_vertex)
    if as_ndc:
        tl.store(ndc + at, tl.where(is_visible, 1 - 2 * u / size, 0).to(tl.float32), mask=is_vertex)
        tl.store(ndc + at + 1, tl.where(is_visible, 1 - 2 * v / size, 0).to(tl.float32), mask=is_vertex)
        tl.store(ndc + at + 2, cz.to(tl.float32), mask=is_vertex)
    else:
        snapped_u = round_to_even(u * SUBPIXEL).to(tl.int32)
        tl.store(snapped + at, tl.where(is_visible, snapped_u, OFFSCREEN), mask=is_vertex)
        tl.store(snapped + at + 1, round_to_even(v * SUBPIXEL).to(tl.int32), mask=is_vertex)
        tl.store(snapped + at + 2, nearness.to(tl.int32, bitcast=True), mask=is_vertex)


@triton.jit(do_not_specialize=PLAIN)
def _sum_normals(vertices, faces, sums, num_faces, block: tl.constexpr):
    face = tl.program_id(0) * block + tl.arange(0, block)
    is_face = face < num_faces
    i, j, k = load_corners(faces, face, is_face)
    x, y, z = _position(vertices, i)
    xj, yj, zj = _position(vertices, j)
    xk, yk, zk = _position(vertices, k)
    ax, ay, az, bx, by, bz = xj - x, yj - y, zj - z, xk - x, yk - y, zk - z
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    is_small = (tl.abs(nx) < MAX_FACE_AREA) & (tl.abs(ny) < MAX_FACE_AREA) & (tl.abs(nz) < MAX_FACE_AREA)
    _add_normal(sums, i, j, k, nx, ny, nz, is_face & is_small)


@triton.jit
def load_corners(faces, face, mask):
    """Return the vertices of faces, 0 where `mask` is not set."""
    i = tl.load(faces + 3 * face, mask=mask, other=0).to(tl.int64)
    j = tl.load(faces + 3 * face + 1, mask=mask, other=0).to(tl.int64)
    k = tl.load(faces + 3 * face + 2, mask=mask, other=0).to(tl.int64)
    return i, j, k


@triton.jit
def round_to_even(value):
    """Round float64 to the nearest integer, halves to even."""
    return (value + ROUNDER) - ROUNDER


@triton.jit
def _position(vertices, vertex):
    x = tl.load(vertices + 3 * vertex).to(tl.float64)
    y = tl.load(vertices + 3 * vertex + 1).to(tl.float64)
    z = tl.load(vertices + 3 * vertex + 2).to(tl.float64)
    return x, y, z


@triton.jit
def _add_normal(sums, i, j, k, nx, ny, nz, mask):
    x = tl.floor(tl.where(mask, nx, 0) * NORMAL_SCALE + 0.5).to(tl.int64)
    y = tl.floor(tl.where(mask, ny, 0) * NORMAL_SCALE + 0.5).to(tl.int64)
    z = tl.floor(tl.where(mask, nz, 0) * NORMAL_SCALE + 0.5).to(tl.int64)
    tl.atomic_add(sums + 3 * i, x, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * i + 1, y, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * i + 2, z, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * j, x, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * j + 1, y, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * j + 2, z, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * k, x, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * k + 1, y, mask=mask, sem="relaxed")
    tl.atomic_add(sums + 3 * k + 2, z, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=PLAIN)
def _normalise(sums, normals, num_vertices, block: tl.constexpr):
    vertex = tl.program_id(0) * block + tl.arange(0, block)
    is_vertex = vertex < num_vertices
    x = tl.load(sums + 3 * vertex, mask=is_vertex, other=0).to(tl.float64)
    y = tl.load(sums + 3 * vertex + 1, mask=is_vertex, other=0).to(tl.float64)
    z = tl.load(sums + 3 * vertex + 2, mask=is_vertex, other=0).to(tl.float64)
    # The sums are integers: a length below 1 is 0.
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), 1)
    tl.store(normals + 3 * vertex, (x / length).to(tl.float32), mask=is_vertex)
    tl.store(normals + 3 * vertex + 1, (y / length).to(tl.float32), mask=is_vertex)
    tl.store(normals + 3 * vertex + 2, (z / length).to(tl.float32), mask=is_vertex)


@triton.jit(do_not_specialize=PLAIN)
def _count_faces_in_bins(
    ndc, faces, corners, num_vertices, num_faces, half_size, bin_size, num_bins, block: tl.constexpr
):
    face = tl.program_id(0) * block + tl.arange(0, block)
    view = tl.program_id(1).to(tl.int64)
    is_face = face < num_faces
    ndc += view * num_vertices * 3
    corners += view * (num_bins + 1) * (num_bins + 1)
    i, j, k = load_corners(faces, face, is_face)
    left, right = _bins_along(ndc, i, j, k, half_size, bin_size)
    low, high = _bins_along(ndc + 1, i, j, k, half_size, bin_size)
    nearest = tl.minimum(tl.minimum(tl.load(ndc + 3 * i + 2), tl.load(ndc + 3 * j + 2)), tl.load(ndc + 3 * k + 2))
    is_inside = (right >= 0) & (left < num_bins) & (high >= 0) & (low < num_bins)
    mask = is_face & (nearest > 0) & is_inside
    left, right = tl.maximum(left, 0), tl.minimum(right, num_bins - 1) + 1
    low, high = tl.maximum(low, 0) * (num_bins + 1), (tl.minimum(high, num_bins - 1) + 1) * (num_bins + 1)
    one = tl.full((block,), 1, tl.int32)
    tl.atomic_add(corners + low + left, one, mask=mask, sem="relaxed")
    tl.atomic_add(corners + low + right, -one, mask=mask, sem="relaxed")
    tl.atomic_add(corners + high + left, -one, mask=mask, sem="relaxed")
    tl.atomic_add(corners + high + right, one, mask=mask, sem="relaxed")


@triton.jit
def _bins_along(ndc, i, j, k, half_size, bin_size):
    """Return the first and the last bin that faces overlap along one axis."""
    a, b, c = tl.load(ndc + 3 * i), tl.load(ndc + 3 * j), tl.load(ndc + 3 * k)
    lowest = (tl.minimum(tl.minimum(a, b), c) + 1) * half_size - BIN_MARGIN
    highest = (tl.maximum(tl.maximum(a, b), c) + 1) * half_size + BIN_MARGIN
    return tl.floor(lowest / bin_size).to(tl.int32), tl.floor(highest / bin_size).to(tl.int32)
