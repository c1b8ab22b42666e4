"""A PNG encoder for rendered images.

A general encoder spends most of its time searching for repetitions. In filtered views of a face there are few but runs
of one value, so deflate searches for runs only (`Z_RLE`). It then needs no hash table, and its output depends on
nothing but its input. (ISA-L, which takes half the time of this step, once gave other bytes for the same pixels.)
Source: W3C, *Portable Network Graphics (PNG) Specification (Third Edition)*, chunks in section 5, filters in section 9.
"""

import struct

import numpy as np
from numba import njit
from numpy.typing import NDArray
from zlib_ng import zlib_ng

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_UP, _PAETH = 2, 4
_LARGE_BLOCKS = 9  # blocks of deflate are as large as possible: a tenth less time, 1 % more bytes


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
    deflate = zlib_ng.compressobj(wbits=zlib_ng.MAX_WBITS, memLevel=_LARGE_BLOCKS, strategy=zlib_ng.Z_RLE)
    data = deflate.compress(lines) + deflate.flush()
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib_ng.crc32(content, zlib_ng.crc32(kind))
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
