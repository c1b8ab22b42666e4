"""JPEG on a GPU. Without a GPU, torchvision's encoder for CPUs takes the place of nvJPEG."""

import numpy as np
import pytest
import simplejpeg
import torch

from smile_pipe.pipeline.rendering.encoding import encode_frame
from smile_pipe.pipeline.rendering.gpu_jpeg import encode_jpegs, encode_other_channels
from smile_pipe.shards.images import decode_image

V, SIZE = 3, 64
devices = pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)


@pytest.fixture
def pixels() -> dict[str, np.ndarray]:
    """Smooth images that differ between views and along each axis, so that a swapped axis shows."""
    row, column = np.mgrid[:SIZE, :SIZE].astype(np.uint8)
    rgb = np.stack([np.stack([row + 40 * v, 2 * column, 255 - row - column // 2], axis=-1) for v in range(V)])
    depth = np.stack([(row.astype(np.uint16) << 4) + v for v in range(V)])
    return {"rgb": rgb, "depth": depth, "normal": rgb[..., ::-1].copy()}


@devices
def test_images_are_encoded_in_order(pixels, device):
    decoded = [decode_image("rgb", jpeg) for jpeg in encode_jpegs(pixels["rgb"], device)]
    assert len(decoded) == V
    for image, original in zip(decoded, pixels["rgb"], strict=True):
        assert np.abs(image.astype(int) - original).mean() < 2


@devices
def test_bytes_do_not_depend_on_the_other_images_of_the_call(pixels, device):
    together = encode_jpegs(pixels["rgb"], device)
    assert [jpeg for image in pixels["rgb"] for jpeg in encode_jpegs(image[None], device)] == together


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_chroma_is_not_subsampled_on_a_gpu(pixels):
    for jpeg in encode_jpegs(pixels["rgb"]):
        *_, subsampling = simplejpeg.decode_jpeg_header(jpeg)
        assert subsampling == "444"


@pytest.mark.parametrize("channels", [("rgb",), ("rgb", "depth"), ("rgb", "depth", "normal")])
@pytest.mark.parametrize("is_rgb_kept", [True, False])
def test_other_channels_have_the_order_and_bytes_of_encode_frame(pixels, channels, is_rgb_kept):
    frame = {name: pixels[name] for name in channels}
    expected = encode_frame(frame)
    jpegs = expected[:: len(channels)]
    if not is_rgb_kept:
        del frame["rgb"]
    assert encode_other_channels(frame, jpegs) == expected
