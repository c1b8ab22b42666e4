"""The decoder of PNG textures gives the pixels that Pillow gives, and leaves all other files to other decoders."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from smile_pipe.pipeline.meshes.png import decode_rgb_png

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)


def png(lines: np.ndarray, kind: tuple[int, ...] = (8, 2, 0, 0, 0), size: tuple[int, int] = (9, 7)) -> bytes:
    """A file with the given filtered lines, in two IDAT chunks."""
    data = zlib.compress(lines.tobytes())
    header = struct.pack(">IIBBBBB", *size, *kind)
    chunks = ((b"IHDR", header), (b"tEXt", b"a\0b"), (b"IDAT", data[:20]), (b"IDAT", data[20:]), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("filters", [[0] * 7, [1] * 7, [2] * 7, [3] * 7, [4] * 7, [4, 3, 2, 1, 0, 4, 4]])
def test_every_filter_is_undone(filters: list[int]) -> None:
    lines = np.hstack([np.array(filters, np.uint8)[:, None], PIXELS.reshape(7, 27)])
    decoded = decode_rgb_png(png(lines))
    assert decoded is not None
    assert np.array_equal(decoded, np.array(Image.open(io.BytesIO(png(lines)))))


def test_a_saved_image_is_read_back() -> None:
    smooth = np.array(Image.fromarray(PIXELS).resize((64, 40)))
    decoded = decode_rgb_png(saved(Image.fromarray(smooth)))
    assert decoded is not None
    assert np.array_equal(decoded, smooth)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_other_kinds_are_left_to_other_decoders(mode: str) -> None:
    image = Image.new(mode, (9, 7)) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    assert decode_rgb_png(saved(image)) is None


def test_damaged_files_are_left_to_other_decoders() -> None:
    lines = np.hstack([np.zeros((7, 1), np.uint8), PIXELS.reshape(7, 27)])
    good = png(lines)
    assert decode_rgb_png(good) is not None
    assert all(decode_rgb_png(good[:length]) is None for length in range(len(good)))
    start = good.index(b"IDAT")
    for position in (*range(29), *range(start, len(good))):
        damaged = bytearray(good)
        damaged[position] ^= 0x10
        assert decode_rgb_png(bytes(damaged)) is None, position
    assert decode_rgb_png(png(lines[:-1])) is None  # too few lines
    assert decode_rgb_png(png(np.vstack([lines, lines]))) is None  # too many
    assert decode_rgb_png(png(lines + np.eye(1, 28, dtype=np.uint8) * 5)) is None  # an unknown filter
    assert decode_rgb_png(png(lines, kind=(8, 2, 0, 0, 1))) is None  # interlaced
    assert decode_rgb_png(png(lines, size=(0, 7))) is None
