"""Triton kernels per pixel: shading, as in `kernels/pixels.py`, and the reduction to the stored integers.

They compute the formulas of the CPU version in the same order and precision. Every pixel is computed, covered or not,
so the host never has to know which pixels are covered.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from smile_pipe.pipeline.rendering import backend, encoding
from smile_pipe.pipeline.rendering.kernels import faces
from smile_pipe.pipeline.rendering.kernels.cuda_vertices import CAMERA_VALUES, PLAIN, load_corners, round_to_even

LAST_FACE = tl.constexpr(faces.LAST_FACE)
NO_FACE = tl.constexpr(faces.NO_FACE)
AMBIENT = tl.constexpr(backend.AMBIENT)
RED, GREEN, BLUE = (tl.constexpr(value) for value in backend.BACKGROUND)
# Lower limit of twice a triangle's area in square pixels; the weights of a smaller one would be rounding noise.
MIN_AREA = tl.constexpr(1e-12)
BLOCK = 256


class Surface(NamedTuple):
    """A mesh on the device; attributes that it lacks are None.

    Attributes:
        vertices: float32 [N, 3].
        faces: int32 [F, 3].
        normals: float32 [N, 3].
        colors: float32 [N, 3], 0-255, or one row for all vertices; unused if there is a texture.
        face_uvs: int32 [F, 3].
        uvs: float32 [U, 2].
        texels: int32 [T], the bits of `MipMap.texels`.
        levels: int32 [L, 3], as in `smile_pipe.pipeline.rendering.mipmap.MipMap`.
        face_texels: float32 [F], twice the area of each face in texels.
        flow: float32 [N, 3].
    """

    vertices: Tensor
    faces: Tensor
    normals: Tensor
    colors: Tensor
    face_uvs: Tensor | None = None
    uvs: Tensor | None = None
    texels: Tensor | None = None
    levels: Tensor | None = None
    face_texels: Tensor | None = None
    flow: Tensor | None = None


class DeviceImages(NamedTuple):
    """The images of some views on the device, see `smile_pipe.pipeline.rendering.backend.ViewImages`."""

    rgb: Tensor
    depth: Tensor
    normal: Tensor
    flow: Tensor | None


def shade(
    zbuffer: Tensor, screen: Tensor, surface: Surface, cameras: Tensor, perspective: bool, status: Tensor
) -> DeviceImages:
    """Draw the images of all views of a mesh.

    Args:
        zbuffer: int64 [V, H, W], keys like those of `smile_pipe.pipeline.rendering.kernels.faces.rasterise`; only the
            face in a key is used.
        screen: float32 [V, N, 3], from `project`.
        surface: The mesh.
        cameras: float64 [V, 16], see `CAMERA_VALUES`.
        perspective: Whether the cameras divide by depth.
        status: int32; its first value is set to 1 if any pixel is covered.
    """
    shape, device = zbuffer.shape, zbuffer.device
    rgb = torch.empty(*shape, 3, dtype=torch.uint8, device=device)
    depth = torch.empty(shape, dtype=torch.float32, device=device)
    normal = torch.empty(*shape, 3, dtype=torch.float32, device=device)
    flow = None if surface.flow is None else torch.empty_like(normal)
    num_levels = 0 if surface.levels is None else len(surface.levels)
    _shade[(triton.cdiv(shape[1] * shape[2], BLOCK), shape[0])](
        *(zbuffer, screen, *surface[1:], cameras, rgb, depth, normal, flow, status),
        *(len(surface.vertices), len(surface.colors), num_levels, shape[1], shape[2]),
        **{"has_texture": num_levels > 0, "has_flow": flow is not None, "perspective": perspective},
        **{"block": BLOCK, "enable_fp_fusion": False},
    )
    return DeviceImages(rgb, depth, normal, flow)


def encoding_scales(device: torch.device) -> Tensor:
    """Return the scales of stored depth and flow for `reduce`: float64 near, step, and step of flow, on the device."""
    # A tensor, because Triton passes numbers to a kernel in single precision.
    depth, flow = encoding.DEPTH_SCALE, encoding.FLOW_SCALE
    return torch.tensor([depth.near, depth.step, flow.step], dtype=torch.float64, device=device)


def reduce(images: DeviceImages, side: int, channels: Sequence[str], scales: Tensor) -> dict[str, Tensor]:
    """Reduce images to the output size and quantise them, like `downsample` and `quantise_views`.

    Args:
        images: Images with `side` samples along each side of an output pixel.
        side: 1 or more.
        channels: What to compute.
        scales: From `encoding_scales`.

    Returns:
        By channel: uint8 [V, H, W, 3] for `rgb` and `normal`; the bits of uint16 in int16, [V, H, W] for `depth` and
        [V, H, W, 3] for `flow`.
    """
    num_views, height, width = images.depth.shape
    height, width = height // side, width // side
    outputs = {
        channel: torch.empty(
            (num_views, height, width, 3)[: 3 if channel == "depth" else 4],
            dtype=torch.uint8 if channel in ("rgb", "normal") else torch.int16,
            device=images.depth.device,
        )
        for channel in channels
    }
    names = ("rgb", "depth", "normal", "flow")
    _reduce[(triton.cdiv(height * width, BLOCK), num_views)](
        *(*images, *map(outputs.get, names), scales, height, width),
        **{f"has_{name}": name in outputs for name in names},
        **{"side": side, "block": BLOCK, "enable_fp_fusion": False},
    )
    return outputs


@triton.jit(do_not_specialize=PLAIN)
def _shade(
    zbuffer, screen, faces, normals, colors, face_uvs, uvs, texels, levels, face_texels, flows, cameras,
    rgb, depth, normal, flow, status, num_vertices, num_colors, num_levels, height, width,
    has_texture: tl.constexpr, has_flow: tl.constexpr, perspective: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    view = tl.program_id(1).to(tl.int64)
    is_pixel = pixel < height * width
    at = view * height * width + pixel
    key = tl.load(zbuffer + at, mask=is_pixel, other=NO_FACE)
    is_covered = key != NO_FACE
    tl.atomic_max(status, tl.max(is_covered.to(tl.int32)), sem="relaxed")
    face = LAST_FACE - (key & LAST_FACE)
    row = pixel // width
    column = pixel - row * width
    i, j, k = load_corners(faces, face, is_covered)
    a, b, c, z, size = _weights(screen + view * num_vertices * 3, i, j, k, row, column, is_covered, perspective)
    tl.store(depth + at, tl.where(is_covered, z, 0), mask=is_pixel)

    camera = cameras + view * CAMERA_VALUES
    x, y, z = _to_image_axes(camera, *_interpolate(normals, i, j, k, a, b, c))
    x, y, z, light = _orient(camera, x, y, z, row, column, perspective)
    _store(normal, at, x, y, z, is_covered, is_pixel)
    if has_flow:
        x, y, z = _to_image_axes(camera, *_interpolate(flows, i, j, k, a, b, c))
        _store(flow, at, x, y, z, is_covered, is_pixel)

    if has_texture:
        ui, uj, uk = load_corners(face_uvs, face, is_covered)
        u = a * tl.load(uvs + 2 * ui) + b * tl.load(uvs + 2 * uj) + c * tl.load(uvs + 2 * uk)
        v = a * tl.load(uvs + 2 * ui + 1) + b * tl.load(uvs + 2 * uj + 1) + c * tl.load(uvs + 2 * uk + 1)
        texels_of_face = tl.load(face_texels + face, mask=is_covered, other=0)
        red, green, blue = _sample_texture(texels, levels, num_levels, texels_of_face, size, u, v)
    else:
        i, j, k = tl.minimum(i, num_colors - 1), tl.minimum(j, num_colors - 1), tl.minimum(k, num_colors - 1)
        red, green, blue = _interpolate(colors, i, j, k, a, b, c)
    ambient = tl.full((block,), AMBIENT, tl.float32)
    light = ambient + (1 - ambient) * light
    red, green, blue = _lit(red, light), _lit(green, light), _lit(blue, light)
    tl.store(rgb + 3 * at, tl.where(is_covered, red, RED).to(tl.uint8), mask=is_pixel)
    tl.store(rgb + 3 * at + 1, tl.where(is_covered, green, GREEN).to(tl.uint8), mask=is_pixel)
    tl.store(rgb + 3 * at + 2, tl.where(is_covered, blue, BLUE).to(tl.uint8), mask=is_pixel)


@triton.jit
def _weights(screen, i, j, k, row, column, is_covered, perspective: tl.constexpr):
    """Return the perspective-correct barycentric weights, the depth, and twice the area of the face."""
    xk, yk = tl.load(screen + 3 * k), tl.load(screen + 3 * k + 1)
    xi, yi = tl.load(screen + 3 * i) - xk, tl.load(screen + 3 * i + 1) - yk
    xj, yj = tl.load(screen + 3 * j) - xk, tl.load(screen + 3 * j + 1) - yk
    dx, dy = column.to(tl.float32) + 0.5 - xk, row.to(tl.float32) + 0.5 - yk
    area = xi * yj - xj * yi
    is_tiny = tl.abs(area) < MIN_AREA
    one = tl.full(area.shape, 1, tl.float32)
    third = tl.math.div_rn(one, one * 3)
    inverse = tl.math.div_rn(one, tl.where(is_tiny, one, area))
    a = tl.where(is_tiny, third, (dx * yj - dy * xj) * inverse)
    b = tl.where(is_tiny, third, (dy * xi - dx * yi) * inverse)
    a = tl.minimum(tl.maximum(a, 0), 1)
    b = tl.minimum(tl.maximum(b, 0), 1 - a)
    c = 1 - a - b
    # Weights that are linear in space are those on the screen times nearness.
    aq, bq, cq = (
        a * tl.load(screen + 3 * i + 2),
        b * tl.load(screen + 3 * j + 2),
        c * tl.load(screen + 3 * k + 2),
    )
    nearness = aq + bq + cq
    if perspective:
        distance = tl.math.div_rn(one, tl.where(is_covered, nearness, one))
        a, b, c = aq * distance, bq * distance, cq * distance
    else:
        distance = -nearness
    return a, b, c, distance, tl.abs(area)


@triton.jit
def _interpolate(values, i, j, k, a, b, c):
    x = a * tl.load(values + 3 * i) + b * tl.load(values + 3 * j) + c * tl.load(values + 3 * k)
    y = a * tl.load(values + 3 * i + 1) + b * tl.load(values + 3 * j + 1) + c * tl.load(values + 3 * k + 1)
    z = a * tl.load(values + 3 * i + 2) + b * tl.load(values + 3 * j + 2) + c * tl.load(values + 3 * k + 2)
    return x, y, z


@triton.jit
def _to_image_axes(camera, x, y, z):
    """Rotate frame vectors to image axes: +x right, +y up, +z to the viewer; camera axes are left, up, forward."""
    left = x * _rotation(camera, 0) + y * _rotation(camera, 3) + z * _rotation(camera, 6)
    up = x * _rotation(camera, 1) + y * _rotation(camera, 4) + z * _rotation(camera, 7)
    forward = x * _rotation(camera, 2) + y * _rotation(camera, 5) + z * _rotation(camera, 8)
    return -left, up, -forward


@triton.jit
def _rotation(camera, n: tl.constexpr):
    return tl.load(camera + n).to(tl.float32)


@triton.jit
def _orient(camera, x, y, z, row, column, perspective: tl.constexpr):
    """Normalise normals and flip them towards the camera; also return their cosines to it."""
    if perspective:
        center = (tl.load(camera + 14) - 0.5).to(tl.float32)
        left = (center - column.to(tl.float32)) * (1 / tl.load(camera + 12)).to(tl.float32)
        up = ((row.to(tl.float64) + 0.5 - tl.load(camera + 15)) / tl.load(camera + 13)).to(tl.float32)
    else:
        left, up = x * 0, y * 0
    length = tl.maximum(tl.math.sqrt_rn(x * x + y * y + z * z), 1e-12)
    cosine = tl.math.div_rn(x * left + y * up + z, tl.math.sqrt_rn(left * left + up * up + 1) * length)
    scale = tl.math.div_rn(tl.where(cosine < 0, -1.0, 1.0).to(tl.float32), length)
    return x * scale, y * scale, z * scale, tl.abs(cosine)


@triton.jit
def _store(image, at, x, y, z, is_covered, is_pixel):
    tl.store(image + 3 * at, tl.where(is_covered, x, 0), mask=is_pixel)
    tl.store(image + 3 * at + 1, tl.where(is_covered, y, 0), mask=is_pixel)
    tl.store(image + 3 * at + 2, tl.where(is_covered, z, 0), mask=is_pixel)


@triton.jit
def _sample_texture(texels, levels, num_levels, texels_of_face, size, u, v):
    """Sample the texture bilinearly in the level with about one texel per pixel."""
    ratio = tl.math.div_rn(texels_of_face, tl.maximum(size, MIN_AREA))
    # The exponent of a float is floor(log2).
    level = ((ratio.to(tl.int32, bitcast=True) >> 23) - 126) >> 1
    level = tl.minimum(tl.maximum(level, 0), num_levels - 1)
    start, height = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
    width = tl.load(levels + 3 * level + 2)
    x = _clamp(u * width.to(tl.float32) - 0.5, (width - 1).to(tl.float32))
    y = _clamp((1 - v) * height.to(tl.float32) - 0.5, (height - 1).to(tl.float32))
    column, row = x.to(tl.int32), y.to(tl.int32)
    x, y = x - column.to(tl.float32), y - row.to(tl.float32)
    at = start + row * width + column
    right, down = tl.minimum(width - 1 - column, 1), tl.minimum(height - 1 - row, 1) * width
    p, q = tl.load(texels + at), tl.load(texels + at + right)
    r, s = tl.load(texels + at + down), tl.load(texels + at + down + right)
    return _bilinear(p, q, r, s, x, y, 0), _bilinear(p, q, r, s, x, y, 8), _bilinear(p, q, r, s, x, y, 16)


@triton.jit
def _clamp(value, most):
    """Clamp to 0 ... `most`; NaN becomes 0, because the result is used as an index."""
    return tl.where(value > 0, tl.minimum(value, most), 0)


@triton.jit
def _bilinear(p, q, r, s, x, y, shift: tl.constexpr):
    a, b = ((p >> shift) & 255).to(tl.float32), ((q >> shift) & 255).to(tl.float32)
    c, d = ((r >> shift) & 255).to(tl.float32), ((s >> shift) & 255).to(tl.float32)
    upper, lower = a + (b - a) * x, c + (d - c) * x
    return upper + (lower - upper) * y


@triton.jit
def _lit(albedo, light):
    return tl.minimum(albedo * light + 0.5, 255).to(tl.int32)


@triton.jit(do_not_specialize=PLAIN)
def _reduce(
    rgb, depth, normal, flow, out_rgb, out_depth, out_normal, out_flow, scales, height, width,
    has_rgb: tl.constexpr, has_depth: tl.constexpr, has_normal: tl.constexpr, has_flow: tl.constexpr,
    side: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    view = tl.program_id(1).to(tl.int64)
    is_pixel = pixel < height * width
    row = pixel // width
    out = view * height * width + pixel
    # The first sample of the pixel; the samples are `width * side` apart from row to row.
    stride = width * side
    first = view * height * side * stride + row.to(tl.int64) * side * stride + (pixel - row * width) * side
    if has_rgb:
        for m in tl.static_range(3):
            total = tl.full((block,), side * side // 2, tl.int32)
            for n in tl.static_range(side * side):
                at = first + (n // side) * stride + n % side
                total += tl.load(rgb + 3 * at + m, mask=is_pixel, other=0).to(tl.int32)
            tl.store(out_rgb + 3 * out + m, (total // (side * side)).to(tl.uint8), mask=is_pixel)
    if has_normal:
        num = tl.full((block,), side * side, tl.float32)
        for m in tl.static_range(3):
            total = tl.zeros((block,), tl.float32)
            for n in tl.static_range(side * side):
                at = first + (n // side) * stride + n % side
                total += tl.load(normal + 3 * at + m, mask=is_pixel, other=0)
            value = tl.math.div_rn(total, num) * 127.5 + 128
            tl.store(out_normal + 3 * out + m, value.to(tl.int32).to(tl.uint8), mask=is_pixel)
    if has_depth or has_flow:
        # Depth and flow are those of the sample nearest to the camera.
        nearest = first
        z = tl.load(depth + first, mask=is_pixel, other=0)
        for n in tl.static_range(1, side * side):
            at = first + (n // side) * stride + n % side
            other = tl.load(depth + at, mask=is_pixel, other=0)
            is_nearer = (other > 0) & ((z <= 0) | (other < z))
            nearest, z = tl.where(is_nearer, at, nearest), tl.where(is_nearer, other, z)
        if has_depth:
            steps = round_to_even((z.to(tl.float64) - tl.load(scales)) / tl.load(scales + 1)) + 1
            steps = tl.where(z > 0, tl.minimum(tl.maximum(steps, 1), 65535), 0)
            tl.store(out_depth + out, steps.to(tl.int32).to(tl.int16), mask=is_pixel)
        if has_flow:
            for m in tl.static_range(3):
                value = tl.load(flow + 3 * nearest + m, mask=is_pixel, other=0).to(tl.float64)
                steps = round_to_even(tl.minimum(tl.maximum(value / tl.load(scales + 2), -32767), 32767)) + 32768
                tl.store(out_flow + 3 * out + m, steps.to(tl.int32).to(tl.int16), mask=is_pixel)
