"""The materials of a glTF 2.0 file: base colour images with their samplers, and base colours."""

from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.gltf_json import JsonObject
from smile_pipe.pipeline.meshes.mesh import Material, MeshError, Wrap
from smile_pipe.pipeline.meshes.texture import MAX_PIXELS, decode_texture

_WRAPS: Final[dict[int, Wrap]] = {10497: "repeat", 33648: "mirror", 33071: "clamp"}
_REPEAT = 10497


def srgb_of(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert linear colours to sRGB (IEC 61966-2-1), 0 to 1; values outside are clipped.

    Vertex colours and factors are linear in glTF 2.0 (3.7.2.1, 3.9.2), images are sRGB.
    """
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def read_materials(
    document: JsonObject,
    numbers: Sequence[int | None],
    with_images: Sequence[bool],
    read_image: Callable[[JsonObject], NDArray[np.uint8]],
) -> list[Material]:
    """Read the materials of shapes, each material and each embedded image once.

    Args:
        document: the JSON.
        numbers: index of the material of each shape, or None.
        with_images: whether the shape can show an image.
        read_image: returns the encoded bytes of an embedded image.

    Raises:
        MeshError: a material is malformed, or an embedded image cannot be decoded or is too large.
    """
    materials: dict[tuple[int | None, bool], Material] = {}
    images: dict[int, NDArray[np.uint8]] = {}
    keys = list(zip(numbers, with_images, strict=True))
    for number, with_image in dict.fromkeys(keys):
        values = JsonObject({}) if number is None else document.item("materials", number)
        base = values.inside("pbrMetallicRoughness")
        texture = base.inside("baseColorTexture")
        names, image, wrap = _read_texture(document, texture, images, read_image) if texture and with_image else _NONE
        color = None
        if "baseColorFactor" in base.values:
            rgb = np.rint(255 * srgb_of(base.numbers("baseColorFactor", (1.0,) * 4)[:3])).astype(int)
            color = (int(rgb[0]), int(rgb[1]), int(rgb[2]))
        materials[number, with_image] = Material(names, image, color, wrap)
    return [materials[key] for key in keys]


_Texture = tuple[tuple[str, ...], NDArray[np.uint8] | None, tuple[Wrap, Wrap]]
_NONE: Final[_Texture] = ((), None, ("repeat", "repeat"))


def _read_texture(
    document: JsonObject,
    texture: JsonObject,
    images: dict[int, NDArray[np.uint8]],
    read_image: Callable[[JsonObject], NDArray[np.uint8]],
) -> _Texture:
    """Return names, image and wrap modes. Images that are decoded are added to `images`."""
    values = document.item("textures", texture.count("index"))
    sampler = values.index("sampler")
    modes = JsonObject({}) if sampler is None else document.item("samplers", sampler)
    wrap_u, wrap_v = (_WRAPS.get(modes.count(name, _REPEAT), "repeat") for name in ("wrapS", "wrapT"))
    number = values.index("source")
    if number is None:
        return (), None, (wrap_u, wrap_v)
    image = document.item("images", number)
    uri = image.text("uri")
    if uri and not uri.startswith("data:"):
        return (unquote(uri),), None, (wrap_u, wrap_v)
    if number not in images:
        left = MAX_PIXELS - sum(decoded.size // 3 for decoded in images.values())
        try:
            images[number] = decode_texture(read_image(image).tobytes(), left)
        except MeshError as error:
            raise MeshError(f"image {number}: {error}") from error
    return (), images[number], (wrap_u, wrap_v)
