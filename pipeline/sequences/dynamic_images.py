"""Dynamic images: one image that stands for a whole sequence, by approximate rank pooling.

    D = sum_t f(t) X_t,   f(t) = sum_{k=t..N} (2k - N - 1) / k

Bilen et al., "Dynamic Image Networks for Action Recognition", CVPR 2016, section 2.2. The weights sum to zero, so what
stands still vanishes and what moves leaves a trace whose sign tells when.

The sum is linear in the frames, so that long sequences are summed up piece by piece, and need no more memory than one.
It is a sum of integers, so that it is the same whatever the pieces.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from smile_pipe.shards.sample import DynamicScale

# This part of the pixels that moved at all is kept within the range of the image, the rest is clipped: a few pixels
# that jump, most of them on the outline of colour and depth, would otherwise leave no steps for the face.
KEPT = 0.98
# Weights are multiples of 1 / WEIGHT_UNIT.
WEIGHT_UNIT = 1 << 16


def rank_pooling_weights(num_frames: int) -> NDArray[np.int64]:
    """f(1) ... f(N), times `WEIGHT_UNIT`; a single frame has the weight 1.

    Returns:
        int64 [N]; the last one takes the rounding of all, for the sum to be zero exactly.
    """
    if num_frames == 1:
        return np.array([WEIGHT_UNIT])
    k = np.arange(1, num_frames + 1)
    terms = (2 * k - num_frames - 1) / k
    weights = np.round(np.cumsum(terms[::-1])[::-1] * WEIGHT_UNIT).astype(np.int64)
    weights[-1] -= weights.sum()
    return weights


def weighted_sum(frames: Sequence[NDArray], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """sum_t weights[t] frames[t]: a part of a dynamic image; the sum of all parts is the whole."""
    total = np.zeros(frames[0].shape, np.int64)
    for frame, weight in zip(frames, weights, strict=True):
        total += weight * frame.astype(np.int64)
    return total


def quantise_dynamic(sums: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, NDArray], dict[str, DynamicScale]]:
    """Sums by channel -> uint8 pixels of the same shapes, 128 where nothing moved, and the scale of each channel.

    A channel's scale is shared by its views.
    """
    pixels, scales = {}, {}
    for channel, total in sums.items():
        values = total / WEIGHT_UNIT
        moved = np.abs(values[values != 0])
        reach = float(np.quantile(moved, KEPT)) if moved.size else 1.0
        # Rounded, so that a platform's last bits do not reach the shards.
        step = float(f"{max(reach, 1e-6) / 127:.6g}")
        pixels[channel] = np.clip(np.round(values / step) + 128, 1, 255).astype(np.uint8)
        scales[channel] = DynamicScale(step=step)
    return pixels, scales
