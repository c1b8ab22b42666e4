"""Encode `rgb` as JPEG on the GPU that rendered it, with nvJPEG through torchvision.

Quality and chroma sampling (4:4:4) are those of `smile_pipe.shards.images`. The bytes are not, because nvJPEG rounds in
another way than libjpeg.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.io import encode_jpeg

from smile_pipe.pipeline.rendering.backend import DeviceError
from smile_pipe.shards.images import JPEG_QUALITY, encode_image


def encode_jpegs(rgb: NDArray[np.uint8], device: str = "cuda") -> list[bytes]:
    """Encode images.

    Args:
        rgb: uint8 [N, H, W, 3].
        device: where to encode. "cpu" is for tests: there torchvision subsamples chroma.

    Raises:
        DeviceError: the GPU failed, or this torchvision was built without nvJPEG. No image is the cause, because all
            can be encoded.
    """
    try:
        images = torch.from_numpy(rgb).to(device).permute(0, 3, 1, 2).contiguous()
        return [content.cpu().numpy().tobytes() for content in encode_jpeg(list(images), quality=JPEG_QUALITY)]
    except RuntimeError as error:
        raise DeviceError(f"nvJPEG failed: {error}") from error


def encode_other_channels(pixels: Mapping[str, NDArray], jpegs: Sequence[bytes]) -> list[bytes]:
    """Encode a frame whose `rgb` is encoded already; order as in `smile_pipe.pipeline.rendering.encoding.encode_frame`.

    Args:
        pixels: quantised channels of all views, in the order of the file format, which begins with `rgb`; that one may
            be missing, and is ignored.
        jpegs: `rgb` of each view.
    """
    others = [channel for channel in pixels if channel != "rgb"]
    return [image for v, jpeg in enumerate(jpegs) for image in (jpeg, *(encode_image(c, pixels[c][v]) for c in others))]
