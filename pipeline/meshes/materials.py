"""The images and colours of the materials of a mesh, as the one texture of a `Mesh`.

Renderers sample one texture and clamp outside it. So that all of them show what a file describes, its other rules are
applied here. Where a texture repeats, a face is moved onto the image by whole tiles, and the image is continued as far
as the faces that cross its border need it. Several images are stacked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_pipe.pipeline.meshes.mesh import Material, Mesh, Wrap
from smile_pipe.pipeline.meshes.texture import MAX_KEPT_PIXELS

MAX_STACK_PIXELS = 2 * MAX_KEPT_PIXELS
"""Limit of a texture that is continued or stacked; images are reduced to fit."""

_WHITE = (255, 255, 255)
_TOLERANCE = 1e-4  # in sides of the image; coordinates that are outside by less are rounded ones
_GUTTER = 8  # pixels around an image in a stack, so that its neighbours do not show in it, also in small mip levels
_WIDE = 2.0  # faces beyond this coordinate get a copy of the image that may be coarser
_PALETTE_WIDTH = 256
_PAD_MODES: Final[dict[Wrap, Literal["wrap", "symmetric", "edge"]]] = {
    "repeat": "wrap",
    "mirror": "symmetric",
    "clamp": "edge",
}


@dataclass(eq=False)
class _Tile:
    """An image with the faces that show it.

    Attributes:
        image: uint8 [H, W, 3].
        wrap: modes along x and y.
        faces: [N], indices of the faces.
        corners: float64 [N, 3, 2], x and y of their corners in sides of the image, from its upper left corner.
        can_shrink: False if each pixel is a colour of its own.
    """

    image: NDArray[np.uint8]
    wrap: tuple[Wrap, Wrap]
    faces: NDArray[np.intp]
    corners: NDArray[np.float64]
    can_shrink: bool = True


def load_images(mesh: Mesh, load: Callable[[Material], NDArray[np.uint8] | None]) -> Mesh:
    """Set the image of each material that is in use, has coordinates and has no image yet."""
    used = set(_used_materials(mesh).tolist())
    return replace(
        mesh,
        materials=tuple(
            replace(material, image=load(material))
            if number in used and material.image is None and material.has_uvs and mesh.uvs is not None
            else material
            for number, material in enumerate(mesh.materials or (Material(),))
        ),
    )


def apply_materials(mesh: Mesh) -> Mesh:
    """Convert the materials of a mesh to a texture or to vertex colours.

    - Without any image, vertex colours of the mesh are kept; else the colours of the materials are shown.
    - With an image, faces without one show the colour of their material, or white if that names an image.

    A mesh with one image and coordinates inside it stays as it is.

    Returns:
        The mesh without materials. Coordinates that are changed are not shared between faces.
    """
    materials = mesh.materials or (Material(),)
    used = [materials[number] for number in _used_materials(mesh)]
    plain = replace(mesh, materials=(), face_materials=None)
    if mesh.uvs is None:
        used = [replace(material, has_uvs=False) for material in used]
    images = [material for material in used if _image_of(material) is not None]
    colors = {_color_of(material) for material in used}
    if not images and (mesh.colors is not None or colors == {None}):
        return plain
    if not images and len(colors) == 1:
        return replace(plain, colors=np.full((len(mesh.vertices), 3), colors.pop(), np.uint8))
    if len(images) == len(used) and len({_key(material) for material in used}) == 1 and _is_inside(mesh, used[0]):
        return replace(plain, texture=used[0].image)
    texture, uvs = _stack(list(_tiles(mesh, materials)), len(mesh.faces))
    corners = np.arange(3 * len(mesh.faces), dtype=np.int32).reshape(-1, 3)
    return replace(plain, texture=texture, uvs=uvs, face_uvs=corners)


def _used_materials(mesh: Mesh) -> NDArray[np.intp]:
    return np.zeros(1, np.intp) if mesh.face_materials is None else np.flatnonzero(np.bincount(mesh.face_materials))


def _image_of(material: Material) -> NDArray[np.uint8] | None:
    return material.image if material.has_uvs else None


def _color_of(material: Material) -> tuple[int, int, int] | None:
    """The colour of faces without an image. Next to an image tools write any colour; it does not replace the image."""
    return None if material.names and material.has_uvs else material.color


def _key(material: Material) -> tuple[object, ...]:
    """Equal for materials that show the same image in the same way."""
    return id(material.image), material.wrap, material.uv_scale, material.uv_offset


def _is_inside(mesh: Mesh, material: Material) -> bool:
    """Whether clamping gives what the material describes."""
    if (material.uv_scale, material.uv_offset) != ((1.0, 1.0), (0.0, 0.0)):
        return False
    assert mesh.uvs is not None
    # By column: along the first axis, NumPy takes 70 times as long.
    return all(
        mode == "clamp" or (values.min() >= -_TOLERANCE and values.max() <= 1.0 + _TOLERANCE)
        for values, mode in zip(mesh.uvs.T, material.wrap, strict=True)
    )


def _tiles(mesh: Mesh, materials: Sequence[Material]) -> Iterator[_Tile]:
    """Yield the images of a mesh with their faces; colours are the pixels of the last one."""
    num_faces = len(mesh.faces)
    numbers = np.zeros(num_faces, np.int32) if mesh.face_materials is None else mesh.face_materials
    keys = [None if _image_of(material) is None or mesh.uvs is None else _key(material) for material in materials]
    distinct = list(dict.fromkeys(key for key in keys if key is not None))
    # -1 for materials without an image
    tile_of_material = np.array([-1 if key is None else distinct.index(key) for key in keys])
    tile_of_face = tile_of_material[numbers]
    for tile, key in enumerate(distinct):
        faces = np.flatnonzero(tile_of_face == tile)
        if not len(faces):
            continue
        material = materials[keys.index(key)]
        assert mesh.uvs is not None and mesh.face_uvs is not None and material.image is not None
        corners = mesh.uvs[mesh.face_uvs[faces]] * np.array(material.uv_scale) + np.array(material.uv_offset)
        corners[..., 1] = 1.0 - corners[..., 1]
        for axis, mode in enumerate(material.wrap):
            corners[..., axis] = _move_onto_image(corners[..., axis], mode)
        is_wide = ((corners < 1.0 - _WIDE) | (corners > _WIDE)).any(axis=(1, 2))
        for part in (~is_wide, is_wide):
            if part.any():
                yield _Tile(material.image, material.wrap, faces[part], corners[part])
    faces = np.flatnonzero(tile_of_face == -1)
    if len(faces):
        yield _palette(faces, [_color_of(materials[number]) or _WHITE for number in numbers[faces].tolist()])


def _move_onto_image(values: NDArray[np.float64], mode: Wrap) -> NDArray[np.float64]:
    """Move faces along one axis by tiles, so that they cross as little as possible of the border of the image.

    Args:
        values: [N, 3], coordinates of the corners.
        mode: what is beyond the image.
    """
    if mode == "clamp":
        # All beyond the image is equal. A face that reaches far beyond it is shortened.
        return np.clip(values, 1.0 - _WIDE, _WIDE)
    period = 2.0 if mode == "mirror" else 1.0
    low = values.min(axis=1, keepdims=True)
    values = values - period * np.floor((low + _TOLERANCE) / period)
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    if mode == "mirror":
        return np.where(low >= 1.0 - _TOLERANCE, 2.0 - values, values)
    return np.where(high - 1.0 > np.maximum(1.0 - low, _TOLERANCE), values - 1.0, values)


def _palette(faces: NDArray[np.intp], colors: Sequence[tuple[int, int, int]]) -> _Tile:
    """Return an image with a pixel for each colour; all corners of a face are at the centre of its pixel."""
    pixels = {color: number for number, color in enumerate(dict.fromkeys(colors))}
    width, height = min(len(pixels), _PALETTE_WIDTH), -(-len(pixels) // _PALETTE_WIDTH)
    image = np.zeros((height * width, 3), np.uint8)
    image[: len(pixels)] = list(pixels)
    rows, columns = np.divmod(np.array([pixels[color] for color in colors]), width)
    centres = (np.stack([columns, rows], axis=1) + 0.5) / (width, height)
    corners = np.repeat(centres[:, None], 3, axis=1)
    return _Tile(image.reshape(height, width, 3), ("clamp", "clamp"), faces, corners, can_shrink=False)


def _stack(tiles: Sequence[_Tile], num_faces: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Stack images from the top down; return the stack and the coordinates of all corners [3 F, 2]."""
    gutter, limit = _GUTTER if len(tiles) > 1 else 0, MAX_STACK_PIXELS
    while True:
        sizes = [_fitting_size(tile, gutter, limit) for tile in tiles]
        bounds = [_bounds(tile, size, gutter) for tile, size in zip(tiles, sizes, strict=True)]
        width, height = max(right - left for left, _, right, _ in bounds), sum(b[3] - b[1] for b in bounds)
        if width * height <= MAX_STACK_PIXELS or limit == 0:
            break
        limit //= 2
    images = [_continued(tile, size, box) for tile, size, box in zip(tiles, sizes, bounds, strict=True)]
    uvs, top = np.empty((num_faces, 3, 2), np.float64), 0
    for tile, size, (left, upper, _, lower) in zip(tiles, sizes, bounds, strict=True):
        # One pixel is the mean of an image: its centre shows no other.
        corners = tile.corners if size != (1, 1) else np.full_like(tile.corners, 0.5)
        uvs[tile.faces] = (corners * size - (left, upper - top)) / (width, height)
        top += lower - upper
    uvs[..., 1] = 1.0 - uvs[..., 1]
    return _joined(images, width, height), uvs.reshape(-1, 2).astype(np.float32)


def _joined(images: Sequence[NDArray[np.uint8]], width: int, height: int) -> NDArray[np.uint8]:
    if len(images) == 1:
        return images[0]
    stack, top = np.zeros((height, width, 3), np.uint8), 0
    for image in images:
        stack[top : top + len(image), : image.shape[1]] = image
        top += len(image)
    return stack


def _fitting_size(tile: _Tile, gutter: int, limit: int) -> tuple[int, int]:
    """Return width and height to which an image is reduced so that it takes at most `limit` pixels, if possible."""
    height, width, _ = tile.image.shape
    divisor, size = 1, (width, height)
    while tile.can_shrink and size != (1, 1):
        left, upper, right, lower = _bounds(tile, size, gutter)
        if (right - left) * (lower - upper) <= limit:
            break
        divisor *= 2
        size = (max(width // divisor, 1), max(height // divisor, 1))
    return size


def _bounds(tile: _Tile, size: tuple[int, int], gutter: int) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower bound of the pixels that a tile's faces show, in an image of `size`."""
    if not tile.can_shrink:
        return 0, 0, *size
    low, high = tile.corners.min(axis=(0, 1)), tile.corners.max(axis=(0, 1))
    low = np.where((low > -_TOLERANCE) | (size == (1, 1)), 0.0, low)
    high = np.where((high < 1.0 + _TOLERANCE) | (size == (1, 1)), 1.0, high)
    left, upper = (int(value) - gutter for value in np.floor(low * size))
    right, lower = (int(value) + gutter for value in np.ceil(high * size))
    return left, upper, right, lower


def _continued(tile: _Tile, size: tuple[int, int], bounds: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return the pixels of an image within `bounds`, which reach beyond it."""
    image, (left, upper, right, lower) = tile.image, bounds
    if size != image.shape[1::-1]:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    pads: Iterable[tuple[int, int, int]] = ((0, -upper, lower - size[1]), (1, -left, right - size[0]))
    for axis, before, after in pads:
        if before or after:
            widths = [(0, 0)] * 3
            widths[axis] = (before, after)
            image = np.pad(image, widths, _PAD_MODES[tile.wrap[1 - axis]])
    return image
