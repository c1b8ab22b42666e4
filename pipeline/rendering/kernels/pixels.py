"""What each pixel shows: a row at a time, in steps that each do one thing for all covered pixels of the row.

Memory is looked into at random by short loops that do nothing else, and what is computed is computed for many pixels at
once, in single precision: so a compiler can use a processor's vector instructions.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.kernels.faces import NO_FACE, face_of

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

_ZERO, _HALF, _ONE, _NEXT = np.float32(0), np.float32(0.5), np.float32(1), np.int32(1)
# The weights of a triangle that covers less than this (twice square pixels) are noise.
_TINY = np.float32(1e-12)


class Surface(NamedTuple):
    """What a mesh's faces look like; what it has not is empty.

    Attributes:
        faces: int32 [F, 3].
        normals: float32 [V, 3].
        colors: float32 [V, 3], 0-255, or one row for all; not looked at where there is a texture.
        face_uvs, uvs: int32 [F, 3], float32 [U, 2].
        texels, levels: the texture and its smaller copies, as `smile_pipe.pipeline.rendering.mipmap` packs them.
        face_texels: how many texels each face covers (twice), float32 [F].
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
    """How a view sees: R [3, 3] and K [3, 3] of its camera, and whether it divides by depth."""

    R: NDArray[np.float64]
    K: NDArray[np.float64]
    perspective: bool


class Images(NamedTuple):
    """The images of one view, as `ViewImages` has them; flow [0, 0, 3] is not drawn."""

    rgb: NDArray[np.uint8]
    depth: Floats
    normal: Floats
    flow: Floats


@njit(cache=True, nogil=True, error_model="numpy")
def shade(
    words: NDArray[np.int64],
    screen: Floats,
    surface: Surface,
    lens: ViewParams,
    ambient: float,
    background: tuple[int, int, int],
    images: Images,
) -> None:
    """Fill all of the images of one view: `words` [H, W] of `rasterise`, `screen` [V, 3] of `project`."""
    height, width = words.shape
    columns, seen = np.empty(width, np.int32), np.empty(width, np.int32)
    corners, weights = np.empty((3, width), np.int32), np.empty((3, width), np.float32)
    sizes, z, light = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    vectors, albedo = np.empty((3, width), np.float32), np.empty((3, width), np.float32)
    places, found = np.empty((4, width), np.int32), np.empty((4, width), np.uint32)
    for y in range(height):
        num = _covered(words[y], columns, seen)
        _corners(num, seen, surface.faces, corners)
        _weigh(num, columns, y, corners, screen, lens.perspective, weights, sizes, z)
        images.depth[y] = 0
        for p in range(num):
            images.depth[y, np.uint32(columns[p])] = z[p]
        _interpolate(num, corners, weights, surface.normals, vectors)
        _to_image_axes(num, lens.R, vectors)
        _face_camera(num, columns, y, lens, vectors, light)
        _put(num, columns, vectors, images.normal[y])
        if len(images.flow):
            _interpolate(num, corners, weights, surface.flow, vectors)
            _to_image_axes(num, lens.R, vectors)
            _put(num, columns, vectors, images.flow[y])
        if len(surface.face_uvs):
            _levels(num, seen, surface.face_texels, sizes, len(surface.levels), places[3])
            _corners(num, seen, surface.face_uvs, corners)
            _interpolate(num, corners, weights, surface.uvs, vectors)
            _look_up(num, vectors, surface.texels, surface.levels, places, found, albedo)
        else:
            _at_most(num, corners, len(surface.colors) - 1)
            _interpolate(num, corners, weights, surface.colors, albedo)
        _paint(num, columns, albedo, light, np.float32(ambient), background, images.rgb[y])


@njit(cache=True, nogil=True)
def _covered(words: NDArray[np.int64], columns: Ints, seen: Ints) -> int:
    """How many pixels of a row are covered, in which columns, and by which faces."""
    num = 0
    for x in range(len(words)):
        columns[num], seen[num] = x, face_of(words[x])
        num += words[x] != NO_FACE
    return num


@njit(cache=True, nogil=True)
def _corners(num: int, seen: Ints, faces: Ints, corners: Ints) -> None:
    """The corners of the faces, by number."""
    for p in range(num):
        f = np.uint32(seen[p])
        corners[0, p], corners[1, p], corners[2, p] = faces[f, 0], faces[f, 1], faces[f, 2]


@njit(cache=True, nogil=True)
def _at_most(num: int, corners: Ints, last: int) -> None:
    for c in range(3):
        for p in range(num):
            corners[c, p] = min(corners[c, p], last)


@njit(cache=True, nogil=True, error_model="numpy")
def _weigh(
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
    """What share each corner has in what a pixel shows, how large the face is (twice its area), and its depth there."""
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
        is_tiny = abs(area) < _TINY
        inverse = _ONE / (_ONE if is_tiny else area)
        third = _ONE / np.float32(3)
        a = third if is_tiny else (dx * yj - dy * xj) * inverse
        b = third if is_tiny else (dy * xi - dx * yi) * inverse
        # Snapping may put a pixel centre up to 1/512 pixel outside the exact triangle; never extrapolate from a sliver.
        a = min(max(a, _ZERO), _ONE)
        b = min(max(b, _ZERO), _ONE - a)
        c = _ONE - a - b
        # Weights are linear on the screen; what is linear in space has them times nearness.
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
    """Values [N, C] of the corners, weighted: the first C rows of `out`."""
    for m in range(values.shape[1]):
        for p in range(num):
            i, j, k = np.uint32(corners[0, p]), np.uint32(corners[1, p]), np.uint32(corners[2, p])
            out[m, p] = weights[0, p] * values[i, m] + weights[1, p] * values[j, m] + weights[2, p] * values[k, m]


@njit(cache=True, nogil=True)
def _to_image_axes(num: int, R: NDArray[np.float64], vectors: Floats) -> None:
    """Vectors of the frame as the image has them: camera axes are +x left, +y up, +z into the scene; the image's are
    +x right, +y up, +z to the viewer."""
    r = R.astype(np.float32)
    for p in range(num):
        x, y, z = vectors[0, p], vectors[1, p], vectors[2, p]
        vectors[0, p] = -(x * r[0, 0] + y * r[1, 0] + z * r[2, 0])
        vectors[1, p] = x * r[0, 1] + y * r[1, 1] + z * r[2, 1]
        vectors[2, p] = -(x * r[0, 2] + y * r[1, 2] + z * r[2, 2])


@njit(cache=True, nogil=True, error_model="numpy")
def _face_camera(num: int, columns: Ints, y: int, lens: ViewParams, normals: Floats, light: Floats) -> None:
    """Normals of unit length, turned to the camera, and the cosines of their angles with the directions to it."""
    left, up = _ZERO, _ZERO
    per_column = np.float32(1 / lens.K[0, 0]) if lens.perspective else _ZERO
    center = np.float32(lens.K[0, 2] - 0.5)
    if lens.perspective:
        up = np.float32((y + 0.5 - lens.K[1, 2]) / lens.K[1, 1])
    for p in range(num):
        x, y_, z = normals[0, p], normals[1, p], normals[2, p]
        left = (center - np.float32(columns[p])) * per_column
        length = max(np.sqrt(x * x + y_ * y_ + z * z), np.float32(1e-12))
        cosine = (x * left + y_ * up + z) / (np.sqrt(left * left + up * up + _ONE) * length)
        scale = (-_ONE if cosine < 0 else _ONE) / length
        normals[0, p], normals[1, p], normals[2, p] = x * scale, y_ * scale, z * scale
        light[p] = abs(cosine)


@njit(cache=True, nogil=True, error_model="numpy")
def _levels(num: int, seen: Ints, face_texels: Floats, sizes: Floats, num_levels: int, out: Ints) -> None:
    """The texture's copy with about one texel a pixel: half the binary logarithm of texels a pixel, rounded."""
    bits = np.empty(num, np.float32)
    for p in range(num):
        bits[p] = face_texels[np.uint32(seen[p])] / max(sizes[p], _TINY)
    exponents = bits.view(np.int32)
    for p in range(num):
        # The exponent of a float is its logarithm, rounded down.
        out[p] = min(max(((exponents[p] >> 23) - 126) >> 1, 0), num_levels - 1)


@njit(cache=True, nogil=True)
def _look_up(
    num: int,
    uv: Floats,
    texels: NDArray[np.uint32],
    levels: Ints,
    places: Ints,
    found: NDArray[np.uint32],
    albedo: Floats,
) -> None:
    """Bilinear lookup: (0, 0) is the texture's lower left corner, texel centres lie at halves, outside clamps.

    `places[3]` has the levels; the rest of `places` and `found` are for use in here.
    """
    us, vs, firsts, heights, widths = uv[0], uv[1], places[0], places[1], places[2]
    for p in range(num):
        level = np.uint32(places[3, p])
        firsts[p], heights[p], widths[p] = levels[level, 0], levels[level, 1], levels[level, 2]
    ats, rights, downs = firsts, widths, heights
    for p in range(num):
        height, width = heights[p], widths[p]
        last_row, last_column = np.int32(height - 1), np.int32(width - 1)
        x = _clamp(us[p] * np.float32(width) - _HALF, np.float32(last_column))
        y = _clamp((_ONE - vs[p]) * np.float32(height) - _HALF, np.float32(last_row))
        column, row = np.int32(x), np.int32(y)
        us[p], vs[p] = x - np.float32(column), y - np.float32(row)
        ats[p] = np.int32(firsts[p] + row * width) + column
        rights[p], downs[p] = min(np.int32(last_column - column), _NEXT), min(np.int32(last_row - row), _NEXT) * width
    for p in range(num):
        at, right, down = np.uint32(ats[p]), np.uint32(rights[p]), np.uint32(downs[p])
        found[0, p], found[1, p] = texels[at], texels[at + right]
        found[2, p], found[3, p] = texels[at + down], texels[at + down + right]
    for m in range(3):
        shift = np.uint32(8 * m)
        for p in range(num):
            a, b = _byte(found[0, p], shift), _byte(found[1, p], shift)
            c, d = _byte(found[2, p], shift), _byte(found[3, p], shift)
            upper, lower = a + (b - a) * us[p], c + (d - c) * us[p]
            albedo[m, p] = upper + (lower - upper) * vs[p]


@njit(cache=True, nogil=True)
def _clamp(value: np.float32, most: np.float32) -> np.float32:
    """A number from 0 to `most`, also where `value` is beyond all bounds, or none: it becomes a place in memory."""
    return min(value, most) if value > _ZERO else _ZERO


@njit(cache=True, nogil=True)
def _put(num: int, columns: Ints, vectors: Floats, row: NDArray) -> None:
    """Vectors where pixels are covered, else 0."""
    row[:] = 0
    for p in range(num):
        x = np.uint32(columns[p])
        row[x, 0], row[x, 1], row[x, 2] = vectors[0, p], vectors[1, p], vectors[2, p]


@njit(cache=True, nogil=True)
def _paint(
    num: int,
    columns: Ints,
    albedo: Floats,
    light: Floats,
    ambient: float,
    background: tuple[int, int, int],
    row: NDArray,
) -> None:
    """Colours in their light where pixels are covered, else the background."""
    for x in range(len(row)):
        row[x, 0], row[x, 1], row[x, 2] = background
    for m in range(3):
        for p in range(num):
            lit = albedo[m, p] * (ambient + (_ONE - ambient) * light[p])
            row[np.uint32(columns[p]), m] = np.uint8(min(lit + _HALF, np.float32(255)))


@njit(cache=True, nogil=True)
def _byte(texel: np.uint32, shift: np.uint32) -> np.float32:
    return np.float32((texel >> shift) & np.uint32(255))
