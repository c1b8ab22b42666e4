"""The image codecs of a shard: `rgb` as JPEG, `depth` as 16-bit PNG, `normal` as 8-bit PNG.

Goes in: uint8 [H, W, 3] (rgb, normal) or uint16 [H, W] (depth). Comes out: bytes, the same wherever the same
versions of the codecs run. Promised: PNG is exact; JPEG is within what its quality loses; a file of any other kind, or
larger than `MAX_SIDE`, is refused before its pixels are decoded.
"""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

EXTENSION = {"rgb": "jpg", "depth": "png", "normal": "png"}
CHANNELS = tuple(EXTENSION)

JPEG_QUALITY = 92
# The fastest level: encoding PNG is the largest part of writing a sample, and its size matters less.
PNG_LEVEL = 1
MAX_SIDE = 4096
_PNG_MODE = {"depth": "I;16", "normal": "RGB"}


class ImageError(ValueError):
    """Bytes that are not the image that the channel promises."""


def encode_image(channel: str, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode one view of a channel."""
    if channel == "rgb":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="444")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def decode_image(channel: str, content: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode one view of a channel: uint8 [H, W, 3], or uint16 [H, W] for depth.

    Raises:
        ImageError: not a JPEG or PNG of the expected kind, or larger than `MAX_SIDE`.
    """
    try:
        if channel == "rgb":
            height, width, _, _ = simplejpeg.decode_jpeg_header(content)
            _check_side(width, height)
            return simplejpeg.decode_jpeg(content)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            _check_side(*image.size)
            if image.mode != _PNG_MODE[channel]:
                raise ImageError(f"is a PNG of mode {image.mode}, not {_PNG_MODE[channel]}")
            return np.array(image)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{channel} image: {error}") from None


def as_rgb(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Any channel's decoded pixels as uint8 [H, W, 3]; depth becomes grey, near is bright, background black."""
    if pixels.ndim == 3:
        return pixels.astype(np.uint8, copy=False)
    # 258 steps a grey level put the nearest depth at 255 and the farthest at 1.
    grey = np.where(pixels > 0, 255 - pixels // 258, 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _check_side(width: int, height: int) -> None:
    if not 0 < max(width, height) <= MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels is over {MAX_SIDE} a side")
