"""From the pixels of a renderer to the encoded images of a sample: quantise, then compress."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import DISTANCE
from smile_pipe.shards.images import encode_image
from smile_pipe.shards.sample import DepthScale, FlowScale

# What 16-bit depth spans about the origin, in frame units: heads are within 1.5, so nothing is clipped.
_REACH = 2.0
DEPTH_SCALE = DepthScale(near=DISTANCE - _REACH, step=2 * _REACH / 65534)
# The largest displacement that 16-bit flow tells, in frame units: 9 cm, while a jaw that drops moves half of that.
_FARTHEST = 1.0
FLOW_SCALE = FlowScale(step=_FARTHEST / 32767)
# Plain numbers, which compiled code can look at.
_NEAR, _STEP, _FLOW_STEP = DEPTH_SCALE.near, DEPTH_SCALE.step, FLOW_SCALE.step


def quantise_views(images: ViewImages, channels: Sequence[str]) -> dict[str, NDArray]:
    """The asked channels as the integers that are stored: [V, H, W] or [V, H, W, 3] each."""
    quantise: dict[str, Callable[[], NDArray]] = {
        "rgb": lambda: images.rgb,
        "depth": lambda: quantise_depth(images.depth),
        "normal": lambda: quantise_normal(images.normal),
        "flow": lambda: quantise_flow(images.flow),
    }
    return {channel: quantise[channel]() for channel in channels}


def encode_frame(pixels: Mapping[str, NDArray]) -> list[bytes]:
    """Encode quantised channels of all views: for each view its channels, in the order of the mapping."""
    num_views = len(next(iter(pixels.values())))
    return [encode_image(channel, pixels[channel][v]) for v in range(num_views) for channel in pixels]


@njit(cache=True, nogil=True)
def quantise_depth(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Depth [V, H, W] in frame units, 0 for background -> uint16 by `DEPTH_SCALE`."""
    out = np.empty(depth.shape, np.uint16)
    flat, given = out.reshape(-1), depth.reshape(-1)
    for n in range(len(given)):
        steps = np.rint((given[n] - _NEAR) / _STEP) + 1
        flat[n] = min(max(steps, 1.0), 65535.0) if given[n] > 0 else 0
    return out


def quantise_normal(normal: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Unit normals -> uint8, round(127.5 (n + 1)); background, the null vector, gives 128."""
    return (normal * np.float32(127.5) + np.float32(128.0)).astype(np.uint8)


def quantise_flow(flow: NDArray[np.float32] | None) -> NDArray[np.uint16]:
    """Displacements in frame units -> uint16 by `FLOW_SCALE`; none at all, as on the background, gives 32768.

    Raises:
        ValueError: the mesh was rendered without flow.
    """
    if flow is None:
        raise ValueError("the mesh has no flow to show")
    return _quantise_flow(flow)


@njit(cache=True, nogil=True)
def _quantise_flow(flow: NDArray[np.float32]) -> NDArray[np.uint16]:
    out = np.empty(flow.shape, np.uint16)
    flat, given = out.reshape(-1), flow.reshape(-1)
    for n in range(len(given)):
        flat[n] = min(max(np.rint(given[n] / _FLOW_STEP), -32767.0), 32767.0) + 32768
    return out
