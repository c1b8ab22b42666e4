"""PNG as shards have it: written fast, read by anything.

W3C, *Portable Network Graphics (PNG) Specification (Third Edition)*: chunks are section 5, filters section 9. The
general encoders spend most of their time in a search for repetitions, of which filtered views of a face have few;
ISA-L's deflate looks for those that it finds at once.

The image codecs of a shard: `rgb` as JPEG, all else as PNG.

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
import zlib

import imagecodecs
import numpy as np
import simplejpeg
from isal import isal_zlib
from numba import njit
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_UP, _PAETH = 2, 4
_LEVEL = 1


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Grey [H, W] or RGB [H, W, 3], of 8 or 16 bits, as PNG; the same pixels give the same bytes.

    Raises:
        ValueError: of any other kind, or without pixels.
    """
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype not in (np.uint8, np.uint16) or not (is_rgb or pixels.ndim == 2) or not pixels.size:
        raise ValueError(f"{pixels.dtype} {pixels.shape}: a PNG has 8 or 16 bits and one or three numbers a pixel")
    height, width = pixels.shape[:2]
    bits = 8 * pixels.itemsize
    # Most significant byte first.
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"), copy=False)).view(np.uint8)
    lines = np.empty((height, 1 + rows.size // height), np.uint8)
    # The lower bytes of 16-bit depth are noise to any filter; the plainest is as good as the others.
    if is_rgb:
        lines[:, 0] = _PAETH
        _filter_paeth(rows.reshape(height, -1), 3 * pixels.itemsize, lines[:, 1:])
    else:
        lines[:, 0] = _UP
        _filter_up(rows.reshape(height, -1), lines[:, 1:])
    header = struct.pack(">IIBBBBB", width, height, bits, _RGB if is_rgb else _GREY, 0, 0, 0)
    data = isal_zlib.compress(lines, _LEVEL)
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)))


def _filter_up(rows: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    out[0] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=out[1:])


@njit(cache=True, nogil=True)
def _filter_paeth(rows: NDArray[np.uint8], step: int, out: NDArray[np.uint8]) -> None:
    """Each byte less that one of left, above and above left that is nearest to left + above - above left.

    Left is `step` bytes before.
    """
    for y in range(rows.shape[0]):
        for x in range(rows.shape[1]):
            left = np.int32(rows[y, x - step]) if x >= step else np.int32(0)
            above = np.int32(rows[y - 1, x]) if y > 0 else np.int32(0)
            corner = np.int32(rows[y - 1, x - step]) if x >= step and y > 0 else np.int32(0)
            to_left, to_above, to_corner = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
            nearest = above if to_above <= to_corner else corner
            out[y, x] = rows[y, x] - (left if to_left <= to_above and to_left <= to_corner else nearest)


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
