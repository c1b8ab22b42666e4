"""PNG as shards have it: written fast, read by anything.

W3C, *Portable Network Graphics (PNG) Specification (Third Edition)*: chunks are section 5, filters section 9. The
general encoders spend most of their time in a search for repetitions, of which filtered views of a face have few;
ISA-L's deflate looks for those that it finds at once.
"""

import struct
import zlib

import numpy as np
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
