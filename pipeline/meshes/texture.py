"""Texture images: JPEG, PNG, BMP or TIFF into RGB bytes; and where the one that a mesh names lies."""

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

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.paths import is_inside, open_file

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
MAX_PIXELS = 64 * 1024 * 1024
MAX_KEPT_PIXELS = 16 * 1024 * 1024
"""Of larger textures a half or less of each side is kept: views of 2048 pixels show no more, and a task holds many."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # of a URL, or the letter of a drive


def read_texture(path: Path) -> NDArray[np.uint8]:
    """Read a texture as uint8 [H, W, 3], row 0 at the top; grey and palette images become RGB, alpha is dropped.

    One of more than `MAX_KEPT_PIXELS` is made smaller; see `downscale_texture`.

    Raises:
        MeshError: the file is missing, larger than `MAX_BYTES`, not one of `FORMATS` (by content; the suffix does not
            count), damaged or cut off, or has more than `MAX_PIXELS` pixels, which is found out before any is decoded.
    """
    try:
        with io.BufferedReader(open_file(path)) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a damaged file decodes to; MAX_PIXELS is stricter than Pillow's
            return _decode(file, MAX_PIXELS)
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        if isinstance(error, OSError) and error.strerror:  # not Pillow's but the file system's
            raise MeshError(f"{path}: cannot be read: {error.strerror}") from error
        raise MeshError(f"{path}: is not a readable {', '.join(FORMATS)} image: {error}") from error


def decode_texture(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a texture that lies inside another file; what `read_texture` says of files holds for it too.

    Raises:
        MeshError: it is not one of `FORMATS`, is damaged, or has more than `max_pixels` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(io.BytesIO(data), max_pixels)
    except (MeshError, MemoryError):
        raise
    except Exception as error:  # as above
        raise MeshError(f"is not a readable {', '.join(FORMATS)} image: {error}") from error


def _decode(file: BinaryIO, max_pixels: int) -> NDArray[np.uint8]:
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise MeshError(f"has {image.width} x {image.height} pixels; at most {max_pixels} are read")
        width, divisor = image.width, _divisor(image.width, image.height)
        if divisor == 1 and image.format == "PNG" and image.mode == "RGB":
            # Takes half of Pillow's time, which is a good part of what a scan costs.
            file.seek(0)
            found = imagecodecs.png_decode(file.read())
            return found[..., :3] if found.dtype == np.uint8 else (found[..., :3] >> 8).astype(np.uint8)
        if divisor > 1:
            # A JPEG can be decoded at that size, in a quarter of the memory; for other formats this does nothing.
            image.draft(image.mode, (image.width // divisor, image.height // divisor))
        if image.mode.startswith("I;16"):
            return downscale_texture(np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2))
        pixels = image if image.mode == "RGB" else image.convert("RGB")
        left = math.ceil(divisor / round(width / pixels.width))
        return np.array(pixels.reduce(left) if left > 1 else pixels)


def downscale_texture(texture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A texture [H, W, 3] of about `MAX_KEPT_PIXELS` or fewer.

    Each side of a larger one is divided by the smallest whole number that does it, and each pixel becomes the mean of
    those that it stands for; texture coordinates, which are fractions of the sides, stay as they are.
    """
    divisor = _divisor(texture.shape[1], texture.shape[0])
    return texture if divisor == 1 else np.array(Image.fromarray(texture).reduce(divisor))


def _divisor(width: int, height: int) -> int:
    return max(1, math.ceil(math.sqrt(width * height / MAX_KEPT_PIXELS)))


def resolve_texture_name(root: Path, mesh: str, name: str) -> str | None:
    """Find the texture that a mesh names, which may be anything, inside a data directory; nothing is opened.

    Args:
        root: the data directory.
        mesh: the mesh file, relative to `root`, with `/` between the parts.
        name: as the mesh has it (`Mesh.texture_name`), relative to the mesh; backslashes count as `/`.

    Returns:
        the texture relative to `root`, with `/` between the parts and no `..`: a regular file, or one that is missing.
        None where the name is empty, absolute, a URL or a drive, leaves `root` (by `..` or by a symbolic link), or is
        that of something else than a file.
    """
    name = name.replace("\\", "/")
    if not name or _SCHEME.match(name):
        return None
    found = posixpath.normpath(posixpath.join(posixpath.dirname(mesh), name))
    if found == ".." or found.startswith(("../", "/")):
        return None
    try:
        path = root / found
        if not is_inside(root, found):
            return None
        exists = path.exists()
        return found if path.is_file() or not exists else None
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
        return None
