"""The image codecs of a shard: `rgb` as JPEG, all else as PNG.

An image's name is its channel (`depth`); in a sequence also its moment, the number of a frame (`depth.03`) or `dynamic`
for the image that stands for all frames.

    rgb             uint8 [H, W, 3]     JPEG
    depth           uint16 [H, W]       16-bit grey PNG
    normal          uint8 [H, W, 3]     8-bit PNG
    flow            uint16 [H, W, 3]    16-bit PNG
    *.dynamic       uint8 [H, W] for depth, else [H, W, 3]     8-bit PNG

Promised: PNG is exact; JPEG is within what its quality loses; the same pixels give the same bytes wherever the same
versions of the codecs run; what is of any other kind, or larger than `MAX_SIDE`, is refused before it is decoded.
"""

import struct

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from shards.png import encode_png

EXTENSION = {"rgb": "jpg", "depth": "png", "normal": "png", "flow": "png"}
CHANNELS = tuple(EXTENSION)
DYNAMIC = "dynamic"

JPEG_QUALITY = 92
MAX_SIDE = 4096

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_HEADER = struct.Struct(">8s4x4sIIBB")
# The bit depth and colour type of PNG: 0 is grey, 2 is RGB.
_PNG_KIND = {"depth": (16, 0), "normal": (8, 2), "flow": (16, 2)}
_KIND_NAME = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


class ImageError(ValueError):
    """Bytes that are not the image that the channel promises."""


def extension(name: str) -> str:
    """The file extension of an image, without its dot.

    Raises:
        KeyError: no such channel.
    """
    channel, _, moment = name.partition(".")
    return "png" if moment == DYNAMIC else EXTENSION[channel]


def encode_image(name: str, pixels: Pixels) -> bytes:
    """Encode one view of a channel."""
    if extension(name) == "jpg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="444")
    return encode_png(pixels)


def decode_image(name: str, content: bytes, min_side: int = 0) -> Pixels:
    """Decode one view of a channel.

    With `min_side`, a JPEG of at least twice that comes smaller, at least by half and with no side below `min_side`: of
    each block libjpeg leaves out the higher frequencies, which is the DCT's own way to shrink, and takes less time.

    Raises:
        ImageError: not a JPEG or PNG of the expected kind, or larger than `MAX_SIDE`.
    """
    try:
        if extension(name) == "jpg":
            height, width, _, _ = simplejpeg.decode_jpeg_header(content)
            _check_side(width, height)
            return simplejpeg.decode_jpeg(content, min_height=min_side, min_width=min_side, min_factor=2)
        _check_png(name, content)
        return imagecodecs.png_decode(content)
    except (ValueError, imagecodecs.PngError) as error:
        raise ImageError(f"{name} image: {error}") from None


def as_rgb(pixels: Pixels) -> NDArray[np.uint8]:
    """Any channel's decoded pixels as uint8 [H, W, 3]; depth becomes grey, near is bright, background black."""
    if pixels.dtype == np.uint8:
        colors = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        return colors.astype(np.uint8, copy=False)
    if pixels.ndim == 3:
        # Flow: the upper byte holds what an eye can tell apart.
        return (pixels >> 8).astype(np.uint8)
    # 258 steps a grey level put the nearest depth at 255 and the farthest at 1.
    shade = np.where(pixels > 0, 255 - pixels // 258, 0).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2)


def _check_png(name: str, content: bytes) -> None:
    if len(content) < _HEADER.size:
        raise ImageError("ends before the header of a PNG does")
    signature, first, width, height, *kind = _HEADER.unpack_from(content)
    if signature != b"\x89PNG\r\n\x1a\n" or first != b"IHDR":
        raise ImageError("is no PNG")
    _check_side(width, height)
    channel, _, moment = name.partition(".")
    bits, color = _PNG_KIND.get(channel, (8, 2))
    expected = [8 if moment == DYNAMIC else bits, color]
    if kind != expected:
        shown = [f"{depth}-bit {_KIND_NAME.get(c, c)}" for depth, c in (kind, expected)]
        raise ImageError(f"is a PNG of the kind {shown[0]}, not {shown[1]}")


def _check_side(width: int, height: int) -> None:
    if width < 1 or height < 1 or max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels is over {MAX_SIDE} a side")
