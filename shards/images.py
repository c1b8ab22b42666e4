"""Image codecs of shards: `rgb` is stored as JPEG, all other channels as PNG.

The name of an image is its channel (`depth`). In a sequence the number of the frame follows (`depth.03`), or `dynamic`
for the image that represents all frames.

    rgb             uint8 [H, W, 3]     JPEG
    depth           uint16 [H, W]       16-bit grey PNG
    normal          uint8 [H, W, 3]     8-bit PNG
    flow            uint16 [H, W, 3]    16-bit PNG
    *.dynamic       uint8 [H, W] for depth, else [H, W, 3]     8-bit PNG

PNG is lossless. With the same codec versions, the same pixels give the same bytes. Images of another kind, or larger
than `MAX_SIDE`, are refused before decoding.

PNG is encoded here and not by a general encoder, which spends most of its time searching for repetitions. In filtered
views of a face there are few but runs of one value, so deflate searches for runs only (`Z_RLE`). It then needs no hash
table, and its output depends on nothing but its input. (ISA-L, which takes half the time of this step, once gave other
bytes for the same pixels.) Source: W3C, *Portable Network Graphics (PNG) Specification (Third Edition)*, chunks in
section 5, filters in section 9.
"""

import struct
import zlib

import imagecodecs
import numpy as np
import simplejpeg
from numba import njit
from numpy.typing import NDArray
from zlib_ng import zlib_ng

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_UP, _PAETH = 2, 4


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode an image as PNG.

    Args:
        pixels: uint8 or uint16, grey [H, W] or RGB [H, W, 3].

    Raises:
        ValueError: The array has another shape or dtype, or no pixels.
    """
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype not in (np.uint8, np.uint16) or not (is_rgb or pixels.ndim == 2) or not pixels.size:
        raise ValueError(f"{pixels.dtype} {pixels.shape}: use 8 or 16 bits, and one or three values per pixel")
    height, width = pixels.shape[:2]
    bits = 8 * pixels.itemsize
    # Most significant byte first.
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"), copy=False)).view(np.uint8)
    lines = np.empty((height, 1 + rows.size // height), np.uint8)
    # The low bytes of 16-bit depth are noise to every filter, so the simplest one is as good as others.
    if is_rgb:
        lines[:, 0] = _PAETH
        _filter_paeth(rows.reshape(height, -1), 3 * pixels.itemsize, lines[:, 1:])
    else:
        lines[:, 0] = _UP
        _filter_up(rows.reshape(height, -1), lines[:, 1:])
    header = struct.pack(">IIBBBBB", width, height, bits, _RGB if is_rgb else _GREY, 0, 0, 0)
    deflate = zlib_ng.compressobj(wbits=zlib_ng.MAX_WBITS, strategy=zlib_ng.Z_RLE)
    data = deflate.compress(lines) + deflate.flush()
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)))


def _filter_up(rows: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    out[0] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=out[1:])


@njit(cache=True, nogil=True)
def _filter_paeth(rows: NDArray[np.uint8], step: int, out: NDArray[np.uint8]) -> None:
    """Paeth filter: subtract from each byte its predictor. The left pixel is `step` bytes before."""
    above = np.zeros(rows.shape[1], np.uint8)
    for y in range(rows.shape[0]):
        row, line = rows[y], out[y]
        line[:step] = row[:step] - above[:step]
        _subtract_predictor(row[step:], row[:-step], above[step:], above[:-step], line[step:])
        above = row


@njit(cache=True, nogil=True)
def _subtract_predictor(
    row: NDArray[np.uint8],
    left: NDArray[np.uint8],
    above: NDArray[np.uint8],
    corner: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    """Subtract from each byte that of left, above and above-left (corner) nearest to left + above - corner.

    This value is as far inside the range from left to above as the corner is, but from the other end. The corner is the
    nearest unless it is in the third of the range at one end; then the other end is. Bytes suffice for this, and a
    vector has many of them.
    """
    for x in range(len(row)):
        low, high = min(left[x], above[x]), max(left[x], above[x])
        from_low, from_high = np.uint8(max(corner[x], low) - low), np.uint8(max(corner[x], high) - corner[x])
        predictor = low if from_high <= from_low >> np.uint8(1) else corner[x]
        out[x] = row[x] - (high if from_low <= from_high >> np.uint8(1) else predictor)


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
