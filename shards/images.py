"""Image codecs of shards: `rgb` is stored as JPEG, all other channels as PNG.

The name of an image is its channel (`depth`). In a sequence the number of the frame follows (`depth.03`), or `dynamic`
for the image that represents all frames.

    rgb             uint8 [H, W, 3]     JPEG
    depth           uint16 [H, W]       16-bit grey PNG
    normal          uint8 [H, W, 3]     8-bit PNG
    flow            uint16 [H, W, 3]    16-bit PNG
    landmarks       uint8 [H, W, 3]     8-bit PNG, outlines drawn through the landmarks
    *.dynamic       uint8 [H, W] for depth, else [H, W, 3]     8-bit PNG

PNG is lossless. With the same codec versions, the same pixels give the same bytes. Images of another kind, or larger
than `MAX_SIDE`, are refused before decoding.
"""

import struct

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

LANDMARKS = "landmarks"
EXTENSION = {"rgb": "jpg", "depth": "png", "normal": "png", "flow": "png", LANDMARKS: "png"}
CHANNELS = tuple(EXTENSION)
DYNAMIC = "dynamic"

JPEG_QUALITY = 92
MAX_SIDE = 4096

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_HEADER = struct.Struct(">8s4x4sIIBB")
# The bit depth and colour type of PNG: 0 is grey, 2 is RGB.
_PNG_KIND = {"depth": (16, 0), "normal": (8, 2), "flow": (16, 2), LANDMARKS: (8, 2)}
_KIND_NAME = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


class ImageError(ValueError):
    """The bytes are not a valid image of the channel."""


def extension(name: str) -> str:
    """The file extension of an image, without the dot.

    Raises:
        KeyError: The channel is unknown.
    """
    channel, _, moment = name.partition(".")
    return "png" if moment == DYNAMIC else EXTENSION[channel]


def encode_image(name: str, pixels: Pixels) -> bytes:
    """Encode the pixels of an image by its name; see the module docstring."""
    if extension(name) == "jpg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="444")
    # Here, because it imports Numba, which readers of shards do not need.
    from smile_pipe.shards.png import encode_png

    return encode_png(pixels)


def decode_image(name: str, content: bytes, min_side: int = 0) -> Pixels:
    """Decode an image by its name; see the module docstring.

    Args:
        name: Channel, and in a sequence the frame.
        content: JPEG or PNG bytes.
        min_side: If positive, a JPEG with sides of at least twice that is decoded at a reduced size, at most half, with
            no side below `min_side`. libjpeg then skips the high frequencies of each DCT block, which takes less time.

    Raises:
        ImageError: It is not a JPEG or PNG of the expected kind, or it is larger than `MAX_SIDE`.
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
    """Decoded pixels of any channel as uint8 [H, W, 3] for display. Depth is grey: near is bright, background black."""
    if pixels.dtype == np.uint8:
        colors = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        return colors.astype(np.uint8, copy=False)
    if pixels.ndim == 3:
        # Flow: the high byte contains all visible differences.
        return (pixels >> 8).astype(np.uint8)
    # With 258 steps per grey level the nearest depth is 255 and the farthest 1.
    shade = np.where(pixels > 0, 255 - pixels // 258, 0).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2)


def _check_png(name: str, content: bytes) -> None:
    if len(content) < _HEADER.size:
        raise ImageError("ends within the header of a PNG")
    signature, first, width, height, *kind = _HEADER.unpack_from(content)
    if signature != b"\x89PNG\r\n\x1a\n" or first != b"IHDR":
        raise ImageError("is not a PNG")
    _check_side(width, height)
    channel, _, moment = name.partition(".")
    bits, color = _PNG_KIND.get(channel, (8, 2))
    expected = [8 if moment == DYNAMIC else bits, color]
    if kind != expected:
        shown = [f"{depth}-bit {_KIND_NAME.get(c, c)}" for depth, c in (kind, expected)]
        raise ImageError(f"is a {shown[0]} PNG, expected {shown[1]}")


def _check_side(width: int, height: int) -> None:
    if width < 1 or height < 1 or max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels: sides must be 1 to {MAX_SIDE}")
