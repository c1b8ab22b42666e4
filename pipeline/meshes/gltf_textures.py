"""Base colour textures of the parts of a glTF file, combined into the one texture of a `Mesh`."""

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
    """A shape with its image.

    Attributes:
        shape: its texture coordinates have (0, 0) at the upper left, as in the file.
        image: index of its image in the file, or None.
    """

    shape: Shape
    image: int | None


def texture_info(document: Document, material: int | None) -> TextureInfo | None:
    """Return the base colour texture of a material, or None."""
    if material is None:
        return None
    return get_item(document.materials, material, "material").pbr_metallic_roughness.base_color_texture


def find_image(document: Document, info: TextureInfo | None) -> int | None:
    """Return the index of the image of a texture; None without a texture, or if an extension supplies the image."""
    return None if info is None else get_item(document.textures, info.index, "texture").source


def build_texture(buffers: Buffers, parts: list[Part]) -> tuple[list[Shape], NDArray[np.uint8] | None, str]:
    """Combine the images of all parts into one texture.

    If parts use several images embedded in the file, the images are stacked, and parts without an image become white.

    Returns:
        The shapes, with texture coordinates from the lower left; the texture uint8 [H, W, 3], or None; and the first
        image name, unresolved and untrusted, if no used image is embedded, else "".

    Raises:
        MeshError: an image cannot be read, or the images have more than `MAX_PIXELS` pixels together.
    """
    shapes = [part.shape for part in parts]
    part_images = [part.image if len(part.shape.uvs) else None for part in parts]
    used = [image for image in dict.fromkeys(part_images) if image is not None]
    names = {image: _name(buffers.document, image) for image in used}
    embedded = _decode_images(buffers, [image for image in used if not names[image]])
    texture = next(iter(embedded.values()), None)
    if embedded and any(image not in embedded for image in part_images):
        embedded[None] = _WHITE
    if len(embedded) > 1:
        texture, tops = _stack_images(embedded)
        keys = [image if image in embedded else None for image in part_images]
        shapes = [
            _to_stack_uvs(shape, embedded[key].shape[:2], tops[key], texture.shape[:2])
            for shape, key in zip(shapes, keys, strict=True)
        ]
    name = "" if embedded else next(iter(names.values()), "")
    return [_flip_v(shape) for shape in shapes], texture, name


def _name(document: Document, index: int) -> str:
    """File name of an image, or "" if the image is embedded."""
    uri = get_item(document.images, index, "image").uri
    return "" if uri is None or uri.startswith("data:") else unquote(uri)


def _decode_images(buffers: Buffers, images: list[int]) -> dict[int | None, NDArray[np.uint8]]:
    """Decode embedded images."""
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
                raise MeshError("no bytes and no URI")
            decoded[index] = decode_texture(content, left)
        except MeshError as error:
            raise MeshError(f"image {index}: {error}") from error
        left -= decoded[index].size // 3
    return decoded


def _stack_images(images: dict[int | None, NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], dict[int | None, int]]:
    """Stack images vertically; return the stack and the first row of each image."""
    height, width = sum(len(image) for image in images.values()), max(image.shape[1] for image in images.values())
    if height * width > MAX_PIXELS:
        raise MeshError(f"textures too large: {width} x {height} pixels together; the limit is {MAX_PIXELS}")
    stack = np.zeros((height, width, 3), np.uint8)
    tops: dict[int | None, int] = {}
    top = 0
    for index, image in images.items():
        stack[top : top + len(image), : image.shape[1]] = image
        tops[index] = top
        top += len(image)
    return stack, tops


def _to_stack_uvs(shape: Shape, size: tuple[int, ...], top: int, stack_size: tuple[int, ...]) -> Shape:
    """Convert texture coordinates on an image of `size` (height, width) to coordinates on the stack of size `of`."""
    if not len(shape.uvs):
        return replace(shape, uvs=np.array([[0.5 / stack_size[1], (top + 0.5) / stack_size[0]]], np.float32))
    inside = (shape.uvs >= 0) & (shape.uvs <= 1)
    with np.errstate(invalid="ignore"):  # `Mesh.build` rejects values that are not finite
        uvs = np.where(inside, shape.uvs, shape.uvs % 1) * (size[1], size[0]) + (0, top)
    return replace(shape, uvs=(uvs / (stack_size[1], stack_size[0])).astype(np.float32))


def _flip_v(shape: Shape) -> Shape:
    uvs = shape.uvs.copy()
    uvs[:, 1] = 1 - uvs[:, 1]
    return replace(shape, uvs=uvs)
