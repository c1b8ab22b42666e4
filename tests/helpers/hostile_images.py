"""Damaged and hostile texture files, each with a description of its defect."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_FORMATS = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "TIFF": "tif"}


def image(form: str, side: int = 40) -> bytes:
    """A small encoded image in one of Pillow's formats."""
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def bad_textures() -> Iterator[tuple[str, str, bytes]]:
    """Suffix, description of the defect, and content of each file."""
    for form, suffix in _FORMATS.items():
        good = image(form)
        # The directory of a TIFF is at its end.
        for share in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.98):
            yield suffix, f"{form} cut at {share:.1%}", good[: max(1, int(share * len(good)))]
        for other in (
            "",
            "GIF89a" + "\1\0" * 20,
            "<svg xmlns='http://www.w3.org/2000/svg'/>",
            "%!PS-Adobe-3.0 EPSF-3.0\n",
        ):
            yield suffix, f"{other[:6] or 'nothing'} as {form}", other.encode("latin-1")
        yield suffix, f"zeros as {form}", bytes(500)
        yield suffix, f"noise as {form}", np.random.default_rng(1).bytes(500)
        yield suffix, f"noise after the magic of {form}", good[:8] + np.random.default_rng(2).bytes(500)
    for other in ("GIF", "WEBP", "ICO", "PPM", "TGA"):
        yield "png", f"{other} as PNG", image(other)
    yield from _giants()
    yield from _bad_png()


def _giants() -> Iterator[tuple[str, str, bytes]]:
    """Small files whose headers declare a huge image."""
    for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (8193, 8193), (1, 2**31 - 1), (0, 5)):
        yield "png", f"{width} x {height} pixels", _png(_header(width, height), zlib.compress(bytes(1000)))
    yield (
        "png",
        "many pixels that are there",
        _png(_header(24_000, 24_000, 1, 0), zlib.compress(bytes(3001 * 24_000), 1)),
    )
    cut = zlib.compress(bytes(80 << 20), 1)[:-9]
    yield "png", "as many as are read, cut short", _png(_header(8192, 8192), cut)[:-16]
    jpeg = image("JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "jpg", "65500 x 65500 pixels", jpeg[:at] + struct.pack(">HH", 65500, 65500) + jpeg[at + 4 :]
    yield "jpg", "no pixels", jpeg[:at] + bytes(4) + jpeg[at + 4 :]
    bmp = image("BMP")
    for width, height in ((60_000, 60_000), (2**31 - 1, -(2**31) + 1), (0, 0), (-5, 5)):
        yield "bmp", f"{width} x {height} pixels", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    for width, height in ((60_000, 60_000), (2**32 - 1, 2**32 - 1), (0, 0)):
        yield "tif", f"{width} x {height} pixels", _tiff([(256, 4, 1, width), (257, 4, 1, height), (273, 4, 1, 8)])
    yield (
        "tif",
        "pixels beyond the end",
        _tiff([(256, 4, 1, 40), (257, 4, 1, 40), (273, 4, 1, 10**9), (279, 4, 1, 1600)]),
    )
    yield "tif", "a billion tags", b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(40)
    yield "tif", "a tag of four billion values", _tiff([(256, 4, 0xFFFFFFFF, 0), (257, 4, 1, 40)])
    yield "tif", "a directory that follows itself", b"II*\0" + struct.pack("<IHI", 8, 0, 8)


def _bad_png() -> Iterator[tuple[str, str, bytes]]:
    rows = zlib.compress(bytes(4 * 13))
    yield "png", "a wrong checksum", _png(_header(4, 4), rows).replace(b"IDAT", b"IDAU")
    yield "png", "no pixels at all", _png(_header(4, 4), b"")
    yield "png", "a chunk of four gigabytes", _png(_header(4, 4), rows)[:33] + b"\xff\xff\xff\xffIDAT" + rows[:5]
    yield "png", "an unknown kind", _png(_header(4, 4, 3, 7), rows)
    bomb = b"tEXt\0\0" + zlib.compress(bytes(100 << 20), 1)
    yield "png", "a text that unpacks to far more", _png(_header(4, 4), rows, (b"zTXt", bomb))


def _header(width: int, height: int, bits: int = 8, color: int = 2) -> bytes:
    return struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)


def _png(header: bytes, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    chunks = [(b"IHDR", header), *more, (b"IDAT", rows), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _tiff(tags: list[tuple[int, int, int, int]]) -> bytes:
    """An uncompressed 8-bit grey TIFF with additional tags (number, type, count, value)."""
    rest = [(258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    every = sorted([*tags, *rest])
    return (
        b"II*\0" + struct.pack("<IH", 8, len(every)) + b"".join(struct.pack("<HHII", *tag) for tag in every) + bytes(4)
    )
