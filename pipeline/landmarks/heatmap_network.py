"""The convolutional networks of the landmark detector in Numba: images of a view give one heat map per landmark.

A network has four levels; each halves the image, and its way back adds what a level saw to what came from below. The
sums have a fixed order and use no fused instructions, so every machine gets the same bits. Training and its equal in
PyTorch are in `smile_pipe.pipeline.landmark_training.network`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Name of a layer, the layers whose sum it reads, and what it does. The same table builds the network for training.
# `half` is a convolution 3 x 3 in steps of two pixels, `same` in steps of one, `point` 1 x 1, `up` a `point` whose
# result is enlarged by two.
LAYERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("down1", ("image",), "half"),
    ("down2", ("down1",), "half"),
    ("down3", ("down2",), "half"),
    ("keep3", ("down3",), "same"),
    ("down4", ("keep3",), "half"),
    ("keep4", ("down4",), "same"),
    ("last4", ("keep4",), "same"),
    ("up3", ("last4",), "up"),
    ("merge3", ("up3", "keep3"), "same"),
    ("up2", ("merge3",), "up"),
    ("merge2", ("up2", "down2"), "same"),
    ("up1", ("merge2",), "up"),
    ("merge1", ("up1", "down1"), "same"),
    ("maps", ("merge1",), "point"),
)
# Half the width of the square around the highest pixel of a heat map whose centroid is the position of the peak.
_REACH = 3
# Exponents below this count as nothing.
_SMALLEST = -16.0


@dataclass(frozen=True, eq=False)
class HeatmapNetwork:
    """Weights of one network.

    Attributes:
        weights: by name of the layer, float32 [kernel height, kernel width * channels in, channels out].
        biases: by name of the layer, float32 [channels out].
    """

    weights: Mapping[str, Floats]
    biases: Mapping[str, Floats]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], name: str) -> Self:
        """Take the arrays `NAME.LAYER.weight` and `NAME.LAYER.bias` out of a file with several networks.

        Raises:
            KeyError: an array is missing.
        """
        layers = [layer for layer, _, _ in LAYERS]
        return cls(
            {layer: np.ascontiguousarray(arrays[f"{name}.{layer}.weight"], np.float32) for layer in layers},
            {layer: np.ascontiguousarray(arrays[f"{name}.{layer}.bias"], np.float32) for layer in layers},
        )

    def heatmaps(self, image: Floats) -> Floats:
        """Compute the heat maps of one view.

        Args:
            image: float32 [H, W, C]; H and W are multiples of 16.

        Returns:
            float32 [H / 2, W / 2, L]: logits of the position of each landmark; 0 is the logit of a landmark that the
            view does not show.
        """
        values: dict[str, Floats] = {"image": np.ascontiguousarray(image, np.float32)}
        for name, sources, kind in LAYERS:
            value = values[sources[0]]
            for other in sources[1:]:
                value = value + values[other]
            step = 2 if kind == "half" else 1
            value = _convolve(value, self.weights[name], self.biases[name], step, name != "maps")
            values[name] = value.repeat(2, axis=0).repeat(2, axis=1) if kind == "up" else value
        return values["maps"]


@njit(cache=True, nogil=True, error_model="numpy")
def _convolve(image: Floats, weight: Floats, bias: Floats, step: int, rectify: bool) -> Floats:
    """Convolve [H, W, C] with a kernel of 1 x 1 or 3 x 3 pixels, and cut off what is negative if `rectify`."""
    height, width, channels = image.shape
    side = weight.shape[0]
    margin = side // 2
    padded = np.zeros((height + 2 * margin, (width + 2 * margin) * channels), np.float32)
    for y in range(height):
        padded[y + margin, margin * channels : (margin + width) * channels] = image[y].reshape(-1)
    num_in, num_out = weight.shape[1], weight.shape[2]
    result = np.empty((height // step, width // step, num_out), np.float32)
    total = np.empty(num_out, np.float32)
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            start = x * step * channels
            for n in range(num_out):
                total[n] = bias[n]
            for row in range(side):
                values = padded[y * step + row, start : start + num_in]
                kernel = weight[row]
                for i in range(0, num_in, 4):
                    # Four products per step, so that the totals are loaded and stored less often.
                    a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
                    ka, kb, kc, kd = kernel[i], kernel[i + 1], kernel[i + 2], kernel[i + 3]
                    for n in range(num_out):
                        total[n] = total[n] + a * ka[n] + b * kb[n] + c * kc[n] + d * kd[n]
            for n in range(num_out):
                result[y, x, n] = max(total[n], np.float32(0)) if rectify else total[n]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def find_peaks(heatmaps: Floats) -> NDArray[np.float64]:
    """Find the most likely point of each heat map.

    Args:
        heatmaps: float32 [H, W, L], logits.

    Returns:
        float64 [L, 3]: column and row in pixels, with pixel centres at halves, and the probability that the landmark is
        there, within a few pixels.
    """
    height, width, num = heatmaps.shape
    best, rows, columns = _highest(heatmaps)
    best = np.maximum(best, 0.0)
    sums = np.zeros((num, 4))  # in the window: probability, times column, times row; and outside of it
    for y in range(height):
        for x in range(width):
            for n in range(num):
                logit = heatmaps[y, x, n] - best[n]
                if logit > _SMALLEST:
                    value = _exp(logit)
                    if abs(y - rows[n]) <= _REACH and abs(x - columns[n]) <= _REACH:
                        sums[n, 0], sums[n, 1] = sums[n, 0] + value, sums[n, 1] + value * (x + 0.5)
                        sums[n, 2] += value * (y + 0.5)
                    else:
                        sums[n, 3] += value
    peaks = np.zeros((num, 3))
    for n in range(num):
        inside = max(sums[n, 0], 1e-12)
        peaks[n, 0], peaks[n, 1] = sums[n, 1] / inside, sums[n, 2] / inside
        peaks[n, 2] = sums[n, 0] / (sums[n, 0] + sums[n, 3] + _exp(-best[n]))
    return peaks


@njit(cache=True, nogil=True)
def _highest(heatmaps: Floats) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Value, row and column of the highest pixel of each map."""
    height, width, num = heatmaps.shape
    best = np.full(num, -np.inf)
    rows, columns = np.zeros(num, np.int64), np.zeros(num, np.int64)
    for y in range(height):
        for x in range(width):
            for n in range(num):
                if heatmaps[y, x, n] > best[n]:
                    best[n], rows[n], columns[n] = heatmaps[y, x, n], y, x
    return best, rows, columns


@njit(cache=True, nogil=True)
def _exp(x: float) -> float:
    """Exponential function for x <= 0, within 1 % of it down to -4; unlike a library's the same on every machine."""
    if x < _SMALLEST:
        return 0.0
    value = 1.0 + x / 1024
    for _ in range(10):
        value *= value
    return value
