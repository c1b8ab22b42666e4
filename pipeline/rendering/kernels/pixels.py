"""Numba shading: fill the images of a view row by row, in steps over all covered pixels of the row.

Random memory accesses are in short loops of their own. Arithmetic is in loops over many pixels in single precision, so
the compiler can use vector instructions.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.kernels.faces import NO_FACE, decode_face

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

_ZERO, _HALF, _ONE, _NEXT = np.float32(0), np.float32(0.5), np.float32(1), np.int32(1)
# Lower limit of twice a triangle's area in square pixels; the weights of a smaller one would be rounding noise.
_MIN_AREA = np.float32(1e-12)


class Surface(NamedTuple):
    """The attributes of a mesh that shading needs; arrays of attributes that the mesh lacks are empty.

    Attributes:
        faces: int32 [F, 3].
        normals: float32 [V, 3].
        colors: float32 [V, 3], 0-255, or one row for all vertices; unused if there is a texture.
        face_uvs: int32 [F, 3].
        uvs: float32 [U, 2].
        texels, levels: The mip map of the texture, see `smile_pipe.pipeline.rendering.mipmap.MipMap`.
        face_texels: float32 [F], twice the area of each face in texels.
        flow: float32 [V, 3].
    """

    faces: Ints
    normals: Floats
    colors: Floats
    face_uvs: Ints
    uvs: Floats
    texels: NDArray[np.uint32]
    levels: Ints
    face_texels: Floats
    flow: Floats


class ViewParams(NamedTuple):
    """Rotation R [3, 3] and intrinsics K [3, 3] of a view's camera, and whether it divides by depth."""

    R: NDArray[np.float64]
    K: NDArray[np.float64]
    perspective: bool


class Images(NamedTuple):
    """The images of one view, see `ViewImages`; flow is not drawn if it is [0, 0, 3]."""

    rgb: NDArray[np.uint8]
    depth: Floats
    normal: Floats
    flow: Floats


@njit(cache=True, nogil=True, error_model="numpy")
def shade(
    zbuffer: NDArray[np.int64],
    screen: Floats,
    surface: Surface,
    view: ViewParams,
    ambient: float,
    background: tuple[int, int, int],
    images: Images,
) -> None:
    """Fill the images of one view.

    Args:
        zbuffer: int64 [H, W], from `rasterise`.
        screen: float32 [V, 3], from `project`.
        surface: The mesh.
        view: The camera.
        ambient: Share of the ambient light.
        background: Colour of pixels without a face.
        images: Output.
    """
    height, width = zbuffer.shape
    columns, face_ids = np.empty(width, np.int32), np.empty(width, np.int32)
    corners, weights = np.empty((3, width), np.int32), np.empty((3, width), np.float32)
    sizes, z, light = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    vectors, albedo = np.empty((3, width), np.float32), np.empty((3, width), np.float32)
    lookup, neighbours = np.empty((4, width), np.int32), np.empty((4, width), np.uint32)
    for y in range(height):
        num = _covered_pixels(zbuffer[y], columns, face_ids)
        _gather_corners(num, face_ids, surface.faces, corners)
        _barycentric_weights(num, columns, y, corners, screen, view.perspective, weights, sizes, z)
        images.depth[y] = 0
        for p in range(num):
            images.depth[y, np.uint32(columns[p])] = z[p]
        _interpolate(num, corners, weights, surface.normals, vectors)
        _to_image_axes(num, view.R, vectors)
        _orient_normals(num, columns, y, view, vectors, light)
        _scatter(num, columns, vectors, images.normal[y])
        if len(images.flow):
            _interpolate(num, corners, weights, surface.flow, vectors)
            _to_image_axes(num, view.R, vectors)
            _scatter(num, columns, vectors, images.flow[y])
        if len(surface.face_uvs):
            _mip_levels(num, face_ids, surface.face_texels, sizes, len(surface.levels), lookup[3])
            _gather_corners(num, face_ids, surface.face_uvs, corners)
            _interpolate(num, corners, weights, surface.uvs, vectors)
            _sample_texture(num, vectors, surface.texels, surface.levels, lookup, neighbours, albedo)
        else:
            _clamp_corners(num, corners, len(surface.colors) - 1)
            _interpolate(num, corners, weights, surface.colors, albedo)
        _write_colors(num, columns, albedo, light, np.float32(ambient), background, images.rgb[y])


@njit(cache=True, nogil=True)
def _covered_pixels(zbuffer: NDArray[np.int64], columns: Ints, face_ids: Ints) -> int:
    """Count the covered pixels of a row; fill `columns` and `face_ids` with their columns and faces."""
    num = 0
    for x in range(len(zbuffer)):
        columns[num], face_ids[num] = x, decode_face(zbuffer[x])
        num += zbuffer[x] != NO_FACE
    return num


@njit(cache=True, nogil=True)
def _gather_corners(num: int, face_ids: Ints, faces: Ints, corners: Ints) -> None:
    """Fill `corners` [3, P] with the vertex indices of the faces."""
    for p in range(num):
        f = np.uint32(face_ids[p])
        corners[0, p], corners[1, p], corners[2, p] = faces[f, 0], faces[f, 1], faces[f, 2]


@njit(cache=True, nogil=True)
def _clamp_corners(num: int, corners: Ints, last: int) -> None:
    for c in range(3):
        for p in range(num):
            corners[c, p] = min(corners[c, p], last)


@njit(cache=True, nogil=True, error_model="numpy")
def _barycentric_weights(
    num: int,
    columns: Ints,
    y: int,
    corners: Ints,
    screen: Floats,
    perspective: bool,
    weights: Floats,
    sizes: Floats,
    z: Floats,
) -> None:
    """Fill the perspective-correct barycentric weights, twice the face's area, and the depth of each pixel."""
    at = np.empty((9, num), np.float32)
    for p in range(num):
        i, j, k = np.uint32(corners[0, p]), np.uint32(corners[1, p]), np.uint32(corners[2, p])
        at[0, p], at[1, p], at[2, p] = screen[i, 0], screen[i, 1], screen[i, 2]
        at[3, p], at[4, p], at[5, p] = screen[j, 0], screen[j, 1], screen[j, 2]
        at[6, p], at[7, p], at[8, p] = screen[k, 0], screen[k, 1], screen[k, 2]
    v = np.float32(y) + _HALF
    for p in range(num):
        xk, yk = at[6, p], at[7, p]
        xi, yi, xj, yj = at[0, p] - xk, at[1, p] - yk, at[3, p] - xk, at[4, p] - yk
        dx, dy = np.float32(columns[p]) + _HALF - xk, v - yk
        area = xi * yj - xj * yi
        is_tiny = abs(area) < _MIN_AREA
        inverse = _ONE / (_ONE if is_tiny else area)
        third = _ONE / np.float32(3)
        a = third if is_tiny else (dx * yj - dy * xj) * inverse
        b = third if is_tiny else (dy * xi - dx * yi) * inverse
        # Snapping can place a pixel centre up to 1/512 pixel outside the exact triangle; a sliver must not extrapolate.
        a = min(max(a, _ZERO), _ONE)
        b = min(max(b, _ZERO), _ONE - a)
        c = _ONE - a - b
        # These weights are linear on the screen; weights that are linear in space are multiplied by nearness.
        aq, bq, cq = a * at[2, p], b * at[5, p], c * at[8, p]
        nearness = aq + bq + cq
        distance = _ONE / nearness
        sizes[p] = abs(area)
        z[p] = distance if perspective else -nearness
        weights[0, p] = aq * distance if perspective else a
        weights[1, p] = bq * distance if perspective else b
        weights[2, p] = cq * distance if perspective else c


@njit(cache=True, nogil=True)
def _interpolate(num: int, corners: Ints, weights: Floats, values: Floats, out: Floats) -> None:
    """Fill the first C rows of `out` with the weighted means of the corners' `values` [N, C]."""
    for m in range(values.shape[1]):
        for p in range(num):
            i, j, k = np.uint32(corners[0, p]), np.uint32(corners[1, p]), np.uint32(corners[2, p])
            out[m, p] = weights[0, p] * values[i, m] + weights[1, p] * values[j, m] + weights[2, p] * values[k, m]


@njit(cache=True, nogil=True)
def _to_image_axes(num: int, R: NDArray[np.float64], vectors: Floats) -> None:
    """Rotate frame vectors to image axes: +x right, +y up, +z to the viewer.

    Camera axes are +x left, +y up, +z into the scene.
    """
    r = R.astype(np.float32)
    for p in range(num):
        x, y, z = vectors[0, p], vectors[1, p], vectors[2, p]
        vectors[0, p] = -(x * r[0, 0] + y * r[1, 0] + z * r[2, 0])
        vectors[1, p] = x * r[0, 1] + y * r[1, 1] + z * r[2, 1]
        vectors[2, p] = -(x * r[0, 2] + y * r[1, 2] + z * r[2, 2])


@njit(cache=True, nogil=True, error_model="numpy")
def _orient_normals(num: int, columns: Ints, y: int, view: ViewParams, normals: Floats, light: Floats) -> None:
    """Normalise the normals, flip them towards the camera, and fill `light` with their cosines to the camera."""
    left, up = _ZERO, _ZERO
    per_column = np.float32(1 / view.K[0, 0]) if view.perspective else _ZERO
    center = np.float32(view.K[0, 2] - 0.5)
    if view.perspective:
        up = np.float32((y + 0.5 - view.K[1, 2]) / view.K[1, 1])
    for p in range(num):
        x, y_, z = normals[0, p], normals[1, p], normals[2, p]
        left = (center - np.float32(columns[p])) * per_column
        length = max(np.sqrt(x * x + y_ * y_ + z * z), np.float32(1e-12))
        cosine = (x * left + y_ * up + z) / (np.sqrt(left * left + up * up + _ONE) * length)
        scale = (-_ONE if cosine < 0 else _ONE) / length
        normals[0, p], normals[1, p], normals[2, p] = x * scale, y_ * scale, z * scale
        light[p] = abs(cosine)


@njit(cache=True, nogil=True, error_model="numpy")
def _mip_levels(num: int, face_ids: Ints, face_texels: Floats, sizes: Floats, num_levels: int, out: Ints) -> None:
    """Fill the mip level with about one texel per pixel: log2(texels per pixel) / 2, rounded."""
    bits = np.empty(num, np.float32)
    for p in range(num):
        bits[p] = face_texels[np.uint32(face_ids[p])] / max(sizes[p], _MIN_AREA)
    exponents = bits.view(np.int32)
    for p in range(num):
        # The exponent of a float is floor(log2).
        out[p] = min(max(((exponents[p] >> 23) - 126) >> 1, 0), num_levels - 1)


@njit(cache=True, nogil=True)
def _sample_texture(
    num: int,
    uv: Floats,
    texels: NDArray[np.uint32],
    levels: Ints,
    lookup: Ints,
    neighbours: NDArray[np.uint32],
    albedo: Floats,
) -> None:
    """Sample the texture bilinearly: (0, 0) is its lower left corner, texel centres are at halves, outside clamps.

    `lookup[3]` has the mip levels; the rest of `lookup`, and `neighbours`, are scratch memory.
    """
    us, vs, starts, heights, widths = uv[0], uv[1], lookup[0], lookup[1], lookup[2]
    for p in range(num):
        level = np.uint32(lookup[3, p])
        starts[p], heights[p], widths[p] = levels[level, 0], levels[level, 1], levels[level, 2]
    indices, rights, downs = starts, widths, heights
    for p in range(num):
        height, width = heights[p], widths[p]
        last_row, last_column = np.int32(height - 1), np.int32(width - 1)
        x = _clamp(us[p] * np.float32(width) - _HALF, np.float32(last_column))
        y = _clamp((_ONE - vs[p]) * np.float32(height) - _HALF, np.float32(last_row))
        column, row = np.int32(x), np.int32(y)
        us[p], vs[p] = x - np.float32(column), y - np.float32(row)
        indices[p] = np.int32(starts[p] + row * width) + column
        rights[p], downs[p] = min(np.int32(last_column - column), _NEXT), min(np.int32(last_row - row), _NEXT) * width
    for p in range(num):
        at, right, down = np.uint32(indices[p]), np.uint32(rights[p]), np.uint32(downs[p])
        neighbours[0, p], neighbours[1, p] = texels[at], texels[at + right]
        neighbours[2, p], neighbours[3, p] = texels[at + down], texels[at + down + right]
    for m in range(3):
        shift = np.uint32(8 * m)
        for p in range(num):
            a, b = _channel(neighbours[0, p], shift), _channel(neighbours[1, p], shift)
            c, d = _channel(neighbours[2, p], shift), _channel(neighbours[3, p], shift)
            upper, lower = a + (b - a) * us[p], c + (d - c) * us[p]
            albedo[m, p] = upper + (lower - upper) * vs[p]


@njit(cache=True, nogil=True)
def _clamp(value: np.float32, most: np.float32) -> np.float32:
    """Clamp to 0 ... `most`; NaN becomes 0, because the result is used as an index."""
    return min(value, most) if value > _ZERO else _ZERO


@njit(cache=True, nogil=True)
def _scatter(num: int, columns: Ints, vectors: Floats, row: NDArray) -> None:
    """Write the vectors to the covered pixels of a row, and 0 to the others."""
    row[:] = 0
    for p in range(num):
        x = np.uint32(columns[p])
        row[x, 0], row[x, 1], row[x, 2] = vectors[0, p], vectors[1, p], vectors[2, p]


@njit(cache=True, nogil=True)
def _write_colors(
    num: int,
    columns: Ints,
    albedo: Floats,
    light: Floats,
    ambient: np.float32,
    background: tuple[int, int, int],
    row: NDArray,
) -> None:
    """Write the lit colours to the covered pixels of a row, and the background to the others."""
    for x in range(len(row)):
        row[x, 0], row[x, 1], row[x, 2] = background
    for m in range(3):
        for p in range(num):
            lit = albedo[m, p] * (ambient + (_ONE - ambient) * light[p])
            row[np.uint32(columns[p]), m] = np.uint8(min(lit + _HALF, np.float32(255)))


@njit(cache=True, nogil=True)
def _channel(texel: np.uint32, shift: np.uint32) -> np.float32:
    return np.float32((texel >> shift) & np.uint32(255))
