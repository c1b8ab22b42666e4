"""Image codecs: lossless and lossy round trips, and images that are refused before decoding."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from helpers.samples import make_pixels
from smile_pipe.shards.images import CHANNELS, MAX_SIDE, ImageError, as_rgb, decode_image, encode_image

sides = st.integers(1, 20)


def png_header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """A small PNG whose header declares an image of this size."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    body = (
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def no_decoding(monkeypatch):
    """Fail the test if pixels are decoded."""
    monkeypatch.setattr(imagecodecs, "png_decode", lambda content: pytest.fail("decoded the pixels"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda content, **options: pytest.fail("decoded the pixels"))


@given(st.tuples(sides, sides).flatmap(lambda shape: hnp.arrays(np.uint16, shape)))
def test_depth_round_trip_is_exact(pixels):
    decoded = decode_image("depth", encode_image("depth", pixels))
    assert decoded.dtype == np.uint16 and (decoded == pixels).all()


@settings(deadline=None)  # the first call compiles
@given(st.tuples(sides, sides).flatmap(lambda shape: hnp.arrays(np.uint16, (*shape, 3))))
def test_flow_round_trip_is_exact(pixels):
    decoded = decode_image("flow.07", encode_image("flow.07", pixels))
    assert decoded.dtype == np.uint16 and (decoded == pixels).all()


@pytest.mark.parametrize("channel", CHANNELS)
def test_dynamic_image_round_trip_is_exact_for_all_channels(channel):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7) if channel == "depth" else (9, 7, 3)).astype(np.uint8)
    assert (decode_image(f"{channel}.dynamic", encode_image(f"{channel}.dynamic", pixels)) == pixels).all()


def test_all_images_can_be_shown_as_rgb():
    depth, flow = np.array([[0, 1, 65535]], np.uint16), np.array([[[32768, 0, 65535]]], np.uint16)
    assert as_rgb(depth).tolist() == [[[0] * 3, [255] * 3, [1] * 3]]
    assert as_rgb(flow).tolist() == [[[128, 0, 255]]]
    assert as_rgb(np.array([[9]], np.uint8)).tolist() == [[[9, 9, 9]]]


@given(st.tuples(sides, sides).flatmap(lambda shape: hnp.arrays(np.uint8, (*shape, 3))))
def test_normal_round_trip_is_exact(pixels):
    decoded = decode_image("normal", encode_image("normal", pixels))
    assert decoded.dtype == np.uint8 and (decoded == pixels).all()


def test_rgb_round_trip_is_within_the_loss_of_the_jpeg_quality():
    u, v = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    pixels = np.stack([u, v, 255 - u], axis=-1).astype(np.uint8)
    decoded = decode_image("rgb", encode_image("rgb", pixels)).astype(int)
    assert decoded.shape == pixels.shape and np.abs(decoded - pixels).max() <= 6


def test_rgb_keeps_sharp_edges_without_chroma_subsampling():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)
    pixels[:, 1::2] = (0, 0, 255)
    assert np.abs(decode_image("rgb", encode_image("rgb", pixels)).astype(int) - pixels).max() <= 40


@pytest.mark.parametrize(
    ("side", "min_side", "expected"),
    [(64, 0, 64), (64, 33, 64), (64, 32, 32), (64, 20, 24), (64, 8, 8), (512, 8, 64), (65, 32, 33), (63, 32, 32)],
)
def test_jpeg_is_decoded_at_reduced_size_if_half_is_enough(side, min_side, expected):
    content = encode_image("rgb", np.zeros((side, side, 3), np.uint8))
    assert decode_image("rgb.02", content, min_side).shape == (expected, expected, 3)


def test_shorter_side_of_a_jpeg_limits_the_reduction():
    for shape in ((64, 256, 3), (256, 64, 3)):
        decoded = decode_image("rgb", encode_image("rgb", np.zeros(shape, np.uint8)), min_side=32)
        assert decoded.shape == (shape[0] // 2, shape[1] // 2, 3)


def test_reduced_jpeg_shows_the_same_picture():
    u, v = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 64))
    pixels = np.stack([u, v, 255 - u], axis=-1).astype(np.uint8)
    decoded = decode_image("rgb", encode_image("rgb", pixels), min_side=32).astype(int)
    assert np.abs(decoded - pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).max() <= 4


@pytest.mark.parametrize("channel", [channel for channel in CHANNELS if channel != "rgb"])
def test_png_is_decoded_at_full_size(channel):
    pixels = make_pixels(np.random.default_rng(0), channel, 64)
    assert np.array_equal(decode_image(channel, encode_image(channel, pixels), min_side=8), pixels)


@pytest.mark.parametrize("channel", CHANNELS)
def test_memory_layout_of_pixels_does_not_change_the_bytes(channel):
    pixels = make_pixels(np.random.default_rng(0), channel, 16)
    assert encode_image(channel, np.asfortranarray(pixels)) == encode_image(channel, pixels.copy())


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (100_000, 100_000)])
@pytest.mark.parametrize("channel", ["depth", "normal"])
def test_oversized_png_is_refused_before_decoding(channel, size, no_decoding):
    with pytest.raises(ImageError):
        decode_image(channel, png_header(*size, *((16, 0) if channel == "depth" else (8, 2))))


def test_oversized_jpeg_is_refused_before_decoding(no_decoding):
    content = simplejpeg.encode_jpeg(np.zeros((8, MAX_SIDE + 8, 3), np.uint8))
    with pytest.raises(ImageError, match="sides must be 1 to 4096"):
        decode_image("rgb", content)


def test_image_of_maximum_size_is_read():
    assert decode_image("depth", encode_image("depth", np.zeros((1, MAX_SIDE), np.uint16))).shape == (1, MAX_SIDE)


GREY = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("channel", "content"),
    [
        ("depth", png(GREY)),
        ("depth", png(GREY, "RGB")),
        ("normal", png(GREY)),
        ("normal", png(GREY, "RGBA")),
        ("normal", png(GREY, "P")),
        ("normal", png(GREY.astype(np.uint16))),
        ("flow", png(GREY, "RGB")),
        ("depth.dynamic", png(GREY.astype(np.uint16))),
        ("rgb.dynamic", png(GREY)),
    ],
)
def test_png_of_another_kind_is_refused_before_decoding(channel, content, no_decoding):
    with pytest.raises(ImageError, match=f"{channel} image: is a .* PNG, expected"):
        decode_image(channel, content)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("kind", ["gif", "tiff", "bmp"])
def test_other_image_formats_are_refused(channel, kind):
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, kind)
    with pytest.raises(ImageError):
        decode_image(channel, buffer.getvalue())


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_codec_of_another_channel_is_refused(channel):
    wrong = "depth" if channel == "rgb" else "rgb"
    with pytest.raises(ImageError):
        decode_image(channel, encode_image(wrong, make_pixels(np.random.default_rng(0), wrong, 4)))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(CHANNELS), st.data())
def test_damaged_bytes_give_pixels_or_an_image_error(channel, data):
    content = bytearray(encode_image(channel, make_pixels(np.random.default_rng(0), channel, 8)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_image(channel, bytes(content[: data.draw(st.integers(0, len(content)))]))
    except ImageError as error:
        assert str(error).startswith(f"{channel} image: ")
