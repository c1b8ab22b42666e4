"""Texture images as RGB bytes (JPEG, PNG, BMP or TIFF), and the path of the texture that a mesh refers to."""

import io
import math
import posixpath
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_pipe.pipeline.common.content import HEAD_BYTES, describe_content
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.paths import is_inside, open_file

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
MAX_PIXELS = 64 * 1024 * 1024
MAX_KEPT_PIXELS = 16 * 1024 * 1024
"""Larger textures are downscaled to half of each side or less. Views of 2048 pixels show no more detail, and a task
holds many textures."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # of a URL, or a drive letter


def read_texture(path: Path) -> NDArray[np.uint8]:
    """Read a texture. Grey and palette images become RGB; alpha is dropped.

    A texture of more than `MAX_KEPT_PIXELS` is downscaled; see `downscale_texture`.

    Returns:
        uint8 [H, W, 3], row 0 at the top.

    Raises:
        MeshError: the file is missing, larger than `MAX_BYTES`, not one of `FORMATS` (by content, not by suffix),
            damaged, truncated, or has more than `MAX_PIXELS` pixels (checked before decoding).
    """
    try:
        with io.BufferedReader(open_file(path)) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged files; MAX_PIXELS is stricter than Pillow's limit
            return _decode(file, MAX_PIXELS)
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        if isinstance(error, OSError) and error.strerror:  # from the file system, not from Pillow
            raise MeshError(f"{path}: cannot be read: {error.strerror}") from error
        with open_file(path) as file:
            if what := describe_content(file.read(HEAD_BYTES), path.suffix.lower()):
                raise MeshError(f"{path}: is {what}") from error
        raise MeshError(f"{path}: not a readable {', '.join(FORMATS)} image: {error}") from error


def decode_texture(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a texture embedded in another file, as `read_texture` does.

    Raises:
        MeshError: the data are not one of `FORMATS`, are damaged, or have more than `max_pixels` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(io.BytesIO(data), max_pixels)
    except (MeshError, MemoryError):
        raise
    except Exception as error:  # as above
        raise MeshError(f"not a readable {', '.join(FORMATS)} image: {error}") from error


def _decode(file: BinaryIO, max_pixels: int) -> NDArray[np.uint8]:
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise MeshError(f"image too large: {image.width} x {image.height} pixels; the limit is {max_pixels}")
        width, divisor = image.width, _divisor(image.width, image.height, MAX_KEPT_PIXELS)
        if divisor == 1 and image.format == "PNG" and image.mode == "RGB":
            # It imports Numba, which a plan does not need.
            from smile_pipe.pipeline.meshes.png import decode_rgb_png

            # Takes a fifth of the time of Pillow, which is a large part of the time per scan.
            file.seek(0)
            data = file.read()
            decoded = decode_rgb_png(data)
            if decoded is None:
                decoded = imagecodecs.png_decode(data)
            return decoded[..., :3] if decoded.dtype == np.uint8 else (decoded[..., :3] >> 8).astype(np.uint8)
        if divisor > 1:
            # JPEG can be decoded at that size, in a quarter of the memory. For other formats this has no effect.
            image.draft(image.mode, (image.width // divisor, image.height // divisor))
        if image.mode.startswith("I;16"):
            return downscale_texture(np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2))
        pixels = image if image.mode == "RGB" else image.convert("RGB")
        remaining = math.ceil(divisor / round(width / pixels.width))
        return np.array(pixels.reduce(remaining) if remaining > 1 else pixels)


def downscale_texture(texture: NDArray[np.uint8], max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Downscale a texture [H, W, 3] to at most about `max_pixels` (`MAX_KEPT_PIXELS`); smaller ones are unchanged.

    Both sides are divided by the smallest sufficient integer, and each pixel is the mean of the pixels that it
    replaces. Texture coordinates stay valid, since they are fractions of the sides.
    """
    divisor = _divisor(texture.shape[1], texture.shape[0], max_pixels or MAX_KEPT_PIXELS)
    return texture if divisor == 1 else np.array(Image.fromarray(texture).reduce(divisor))


def _divisor(width: int, height: int, max_pixels: int) -> int:
    return max(1, math.ceil(math.sqrt(width * height / max_pixels)))


def resolve_texture_name(root: Path, mesh: str, name: str) -> str | None:
    """Resolve the texture name of a mesh inside a data directory. The name is untrusted, and nothing is opened.

    Args:
        root: the data directory.
        mesh: the mesh file, relative to `root`, with `/` as separator.
        name: the name in the mesh (`Mesh.texture_name`), relative to the mesh; backslashes count as `/`.

    Returns:
        The texture relative to `root`, with `/` as separator and without `..`: a regular file, or a missing one.
        None if the name is empty, absolute, a URL or a drive, leaves `root` (by `..` or by a symbolic link), or is not
        a regular file.
    """
    name = name.replace("\\", "/")
    if not name or _SCHEME.match(name):
        return None
    relative = posixpath.normpath(posixpath.join(posixpath.dirname(mesh), name))
    if relative == ".." or relative.startswith(("../", "/")):
        return None
    try:
        path = root / relative
        if not is_inside(root, relative):
            return None
        exists = path.exists()
        return relative if path.is_file() or not exists else None
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
        return None
