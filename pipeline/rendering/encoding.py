"""Quantise rendered channels to the stored integers, and encode them as JPEG and PNG."""

import typing
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import DISTANCE
from smile_pipe.shards.images import encode_image
from smile_pipe.shards.sample import DepthScale, FlowScale

# Half the depth range of 16-bit depth around the origin, in frame units: heads are within 1.5, so nothing is clipped.
_DEPTH_HALF_RANGE = 2.0
DEPTH_SCALE = DepthScale(near=DISTANCE - _DEPTH_HALF_RANGE, step=2 * _DEPTH_HALF_RANGE / 65534)
# Largest displacement in 16-bit flow, in frame units: 9 cm; a dropping jaw moves half of that.
_MAX_FLOW = 1.0
FLOW_SCALE = FlowScale(step=_MAX_FLOW / 32767)
# Plain numbers, because compiled code cannot read the models above.
_NEAR, _STEP, _FLOW_STEP = DEPTH_SCALE.near, DEPTH_SCALE.step, FLOW_SCALE.step


def quantise_views(images: ViewImages, channels: Sequence[str]) -> dict[str, NDArray]:
    """Quantise the given channels to the stored integers, [V, H, W] or [V, H, W, 3] each, in the given order.

    Images of a mesh without flow have no channel `flow`.
    """
    quantise: dict[str, Callable[[], NDArray]] = {
        "rgb": lambda: images.rgb,
        "depth": lambda: quantise_depth(images.depth),
        "normal": lambda: quantise_normal(images.normal),
        "flow": lambda: quantise_flow(typing.cast(NDArray, images.flow)),
    }
    return {channel: quantise[channel]() for channel in channels}


def encode_frame(pixels: Mapping[str, NDArray]) -> list[bytes]:
    """Encode quantised channels of all views: the channels of the first view in the mapping's order, then the next."""
    num_views = len(next(iter(pixels.values())))
    return [encode_image(channel, pixels[channel][v]) for v in range(num_views) for channel in pixels]


@njit(cache=True, nogil=True)
def quantise_depth(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Quantise depth float32 [V, H, W] (frame units, 0 for background) to uint16 with `DEPTH_SCALE`."""
    out = np.empty(depth.shape, np.uint16)
    flat, values = out.reshape(-1), depth.reshape(-1)
    for n in range(len(values)):
        steps = np.rint((values[n] - _NEAR) / _STEP) + 1
        flat[n] = min(max(steps, 1.0), 65535.0) if values[n] > 0 else 0
    return out


def quantise_normal(normal: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise unit normals to uint8: round(127.5 (n + 1)); the null vector of the background gives 128."""
    return (normal * np.float32(127.5) + np.float32(128.0)).astype(np.uint8)


@njit(cache=True, nogil=True)
def quantise_flow(flow: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Quantise displacements (frame units) to uint16 with `FLOW_SCALE`; 0, the background's value, gives 32768."""
    out = np.empty(flow.shape, np.uint16)
    flat, values = out.reshape(-1), flow.reshape(-1)
    for n in range(len(values)):
        flat[n] = min(max(np.rint(values[n] / _FLOW_STEP), -32767.0), 32767.0) + 32768
    return out
