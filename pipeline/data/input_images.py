"""Stored images as the image tower sees them: 8 bits per component, at its input size."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.data.resize import fit_image
from smile_pipe.pipeline.rendering.cameras import DISTANCE
from smile_pipe.shards.images import Pixels, as_rgb
from smile_pipe.shards.sample import DepthScale, SampleError, SampleRecord

INPUT_VERSION = 2
"""Version of the conversion, which the manifest of a run records. In version 1 the levels of depth spanned 360 mm."""

# Displacements d are mapped to tanh(d / FLOW_BEND), in frame units (9 mm). A millimetre at rest then moves 14 of 255
# levels, so micro-expressions are visible, and a jaw that drops by 4 cm is still not clipped. The upper byte of the
# stored 16 bits would have 1.4 levels per millimetre.
FLOW_BEND = 0.1
# Depths within this distance of the origin of the frame (frame units, 72 mm) have levels of their own, 0.57 mm each.
# Faces are within 0.77; the back of a head has the level of the farthest.
DEPTH_HALF_RANGE = 0.8


def fit_view(
    pixels: Pixels, record: SampleRecord, channel: str, out: NDArray[np.uint8], version: int = INPUT_VERSION
) -> None:
    """Convert a decoded image to 8 bits and resize it.

    Args:
        pixels: The image, see `smile_pipe.shards.images`. Dynamic images have 8 bits already.
        record: The record of its sample, which contains the scales of depth and flow.
        channel: Channel of the image.
        out: Target, uint8 [3, h, w], filled in place.
        version: See `INPUT_VERSION`.

    Raises:
        SampleError: The record lacks the scale of the channel.
    """
    if pixels.dtype != np.uint16 or (channel == "depth" and version == 1):
        fit_image(as_rgb(pixels), out)
        return
    scale = record.depth if channel == "depth" else record.flow
    if scale is None:
        raise SampleError(f"{record.key}.json: has {channel} images without their scale; render again")
    values = pixels.astype(np.uint16, copy=False)  # decoders may give the other byte order
    if isinstance(scale, DepthScale):
        _fit_depth(depth_levels(scale.near, scale.step)[values], out)
    else:
        fit_image(flow_levels(scale.step)[values], out)


@lru_cache(maxsize=4)
def flow_levels(step: float) -> NDArray[np.uint8]:
    """8-bit level of each stored value of flow, [65536]: 128 + 127 tanh(d / `FLOW_BEND`), 128 at rest (32768)."""
    distances = (np.arange(65536) - 32768) * step
    return np.nan_to_num(np.round(128 + 127 * np.tanh(distances / FLOW_BEND)), nan=128.0).astype(np.uint8)


@lru_cache(maxsize=4)
def depth_levels(near: float, step: float) -> NDArray[np.uint8]:
    """8-bit level of each stored value of depth, [65536]: 255 for the nearest, 1 for the farthest, 0 for background."""
    distances = near + (np.arange(65536) - 1) * step - DISTANCE
    levels = np.clip(np.round(128 - 127 * distances / DEPTH_HALF_RANGE), 1, 255).astype(np.uint8)
    levels[0] = 0
    return levels


def _fit_depth(levels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Resize levels [H, W]: a pixel is the mean over its covered part, or background if that is less than half."""
    is_covered = np.where(levels > 0, np.uint8(255), np.uint8(0))
    fit_image(np.stack([levels, is_covered, is_covered], axis=2), out)
    mean = out[0] * (np.float32(255) / np.maximum(out[1], 1))
    out[:] = np.where(out[1] >= 128, np.clip(np.round(mean), 1, 255), 0).astype(np.uint8)
