"""Dynamic images: one image for a whole sequence, by approximate rank pooling.

    D = sum_t f(t) X_t,   f(t) = sum_{k=t..N} (2k - N - 1) / k

Source: Bilen et al., "Dynamic Image Networks for Action Recognition", CVPR 2016, section 2.2. The weights sum to zero:
static pixels cancel, and the sign of a changing pixel is the direction of its change in time.

The sum is linear in the frames, so the parts of a long sequence are summed separately, in the memory of one part. It is
a sum of integers, so the result does not depend on the partition.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from smile_pipe.shards.sample import DynamicScale

# Share of the changing pixels that is within the range of the image; the others are clipped. A few pixels with large
# changes, most of them on outlines in colour and depth, would otherwise leave too few steps for the face.
UNCLIPPED_SHARE = 0.98
# Weights are multiples of 1 / WEIGHT_UNIT.
WEIGHT_UNIT = 1 << 16


def rank_pooling_weights(num_frames: int) -> NDArray[np.int64]:
    """Compute f(1) ... f(N), times `WEIGHT_UNIT`; a single frame has the weight 1.

    Returns:
        int64 [N]; the rounding errors are added to the last weight, so the sum is exactly zero.
    """
    if num_frames == 1:
        return np.array([WEIGHT_UNIT])
    k = np.arange(1, num_frames + 1)
    terms = (2 * k - num_frames - 1) / k
    weights = np.round(np.cumsum(terms[::-1])[::-1] * WEIGHT_UNIT).astype(np.int64)
    weights[-1] -= weights.sum()
    return weights


def weighted_sum(frames: Sequence[NDArray], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Compute sum_t weights[t] frames[t], int64: a part of a dynamic image, which is the sum of all parts."""
    total = np.zeros(frames[0].shape, np.int64)
    for frame, weight in zip(frames, weights, strict=True):
        total += weight * frame.astype(np.int64)
    return total


def quantise_dynamic(sums: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, NDArray], dict[str, DynamicScale]]:
    """Quantise dynamic images to 8 bits.

    Args:
        sums: Weighted sums of all frames by channel; the views of a channel share one scale.

    Returns:
        uint8 pixels of the same shapes by channel, 128 where nothing changed; and the scale of each channel.
    """
    pixels, scales = {}, {}
    for channel, total in sums.items():
        values = total / WEIGHT_UNIT
        changes = np.abs(values[values != 0])
        largest = float(np.quantile(changes, UNCLIPPED_SHARE)) if changes.size else 1.0
        # Rounded, because the last bits differ between platforms, and shards must not.
        step = float(f"{max(largest, 1e-6) / 127:.6g}")
        pixels[channel] = np.clip(np.round(values / step) + 128, 1, 255).astype(np.uint8)
        scales[channel] = DynamicScale(step=step)
    return pixels, scales
