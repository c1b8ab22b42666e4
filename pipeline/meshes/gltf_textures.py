"""The base colour textures of a glTF file's parts, as the one texture that a Mesh has."""

from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.gltf_buffers import Buffers, decode_data_uri
from smile_pipe.pipeline.meshes.gltf_document import Document, TextureInfo, get_item
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.shapes import Shape
from smile_pipe.pipeline.meshes.texture import MAX_PIXELS, decode_texture

_WHITE = np.full((1, 1, 3), 255, np.uint8)


@dataclass(frozen=True, eq=False)
class Part:
    """A shape, and the image that colours it.

    Attributes:
        shape: its texture coordinates have (0, 0) at the upper left, as in the file.
        image: which of the file's images it is, or None.
    """

    shape: Shape
    image: int | None


def texture_info(document: Document, material: int | None) -> TextureInfo | None:
    """The base colour texture of a material, if it has one."""
    if material is None:
        return None
    return get_item(document.materials, material, "material").pbr_metallic_roughness.base_color_texture


def find_image(document: Document, info: TextureInfo | None) -> int | None:
    """Which image a texture shows; None where it has none, or one that an extension gives."""
    return None if info is None else get_item(document.textures, info.index, "texture").source


def build_texture(buffers: Buffers, parts: list[Part]) -> tuple[list[Shape], NDArray[np.uint8] | None, str]:
    """Find one texture for all parts.

    Where the parts have several images that the file holds, these are stacked, and a part without one becomes white.

    Returns:
        the shapes, their texture coordinates from the lower left; the texture uint8 [H, W, 3]; and, where the file
        holds no image in use but names some, the first of the names, unresolved and untrusted, or "".

    Raises:
        MeshError: an image cannot be read, or all in use have more than `MAX_PIXELS` pixels.
    """
    shapes = [part.shape for part in parts]
    wanted = [part.image if len(part.shape.uvs) else None for part in parts]
    used = [image for image in dict.fromkeys(wanted) if image is not None]
    names = {image: _name(buffers.document, image) for image in used}
    held = _decode_images(buffers, [image for image in used if not names[image]])
    texture = next(iter(held.values()), None)
    if held and any(image not in held for image in wanted):
        held[None] = _WHITE
    if len(held) > 1:
        texture, tops = _stack_images(held)
        keys = [image if image in held else None for image in wanted]
        shapes = [
            _to_stack_uvs(shape, held[key].shape[:2], tops[key], texture.shape[:2])
            for shape, key in zip(shapes, keys, strict=True)
        ]
    name = "" if held else next(iter(names.values()), "")
    return [_flip_v(shape) for shape in shapes], texture, name


def _name(document: Document, index: int) -> str:
    """The file that an image lies in, "" where the glTF holds it itself."""
    uri = get_item(document.images, index, "image").uri
    return "" if uri is None or uri.startswith("data:") else unquote(uri)


def _decode_images(buffers: Buffers, images: list[int]) -> dict[int | None, NDArray[np.uint8]]:
    """The pixels of images that the file holds."""
    decoded: dict[int | None, NDArray[np.uint8]] = {}
    left = MAX_PIXELS
    for index in images:
        image = buffers.document.images[index]
        try:
            if image.uri is not None:
                content = decode_data_uri(image.uri)
            elif image.buffer_view is not None:
                content = buffers.content(image.buffer_view).tobytes()
            else:
                raise MeshError("has neither bytes nor a URI")
            decoded[index] = decode_texture(content, left)
        except MeshError as error:
            raise MeshError(f"image {index} {error}") from error
        left -= decoded[index].size // 3
    return decoded


def _stack_images(images: dict[int | None, NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], dict[int | None, int]]:
    """The images one below the other, and the row that each begins in."""
    height, width = sum(len(image) for image in images.values()), max(image.shape[1] for image in images.values())
    if height * width > MAX_PIXELS:
        raise MeshError(f"has textures of {width} x {height} pixels together; at most {MAX_PIXELS} are read")
    stack = np.zeros((height, width, 3), np.uint8)
    tops: dict[int | None, int] = {}
    top = 0
    for index, image in images.items():
        stack[top : top + len(image), : image.shape[1]] = image
        tops[index] = top
        top += len(image)
    return stack, tops


def _to_stack_uvs(shape: Shape, size: tuple[int, ...], top: int, of: tuple[int, ...]) -> Shape:
    """Texture coordinates on an image of `size` (height, width) as coordinates on the stack of size `of`."""
    if not len(shape.uvs):
        return replace(shape, uvs=np.array([[0.5 / of[1], (top + 0.5) / of[0]]], np.float32))
    inside = (shape.uvs >= 0) & (shape.uvs <= 1)
    with np.errstate(invalid="ignore"):  # what is not finite is refused later, by name
        uvs = np.where(inside, shape.uvs, shape.uvs % 1) * (size[1], size[0]) + (0, top)
    return replace(shape, uvs=(uvs / (of[1], of[0])).astype(np.float32))


def _flip_v(shape: Shape) -> Shape:
    uvs = shape.uvs.copy()
    uvs[:, 1] = 1 - uvs[:, 1]
    return replace(shape, uvs=uvs)
