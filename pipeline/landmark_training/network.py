"""The networks of the landmark detector in PyTorch, for training; the detector itself runs them in Numba."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from smile_pipe.pipeline.landmarks.heatmap_network import LAYERS
from smile_pipe.pipeline.landmarks.view_images import NUM_CHANNELS

# Channels of each level, from the largest images to the smallest.
WIDTHS = (16, 32, 64, 96)


class TorchHeatmapNetwork(nn.Module):
    """The network of `smile_pipe.pipeline.landmarks.heatmap_network`, with batch normalisation in each layer.

    Args:
        num_points: Number of heat maps.
    """

    def __init__(self, num_points: int) -> None:
        super().__init__()
        channels = {"image": NUM_CHANNELS}
        self.convolutions, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for name, sources, kind in LAYERS:
            num = num_points if name == "maps" else WIDTHS[int(name[-1]) - 1]
            side = 1 if kind in ("up", "point") else 3
            step = 2 if kind == "half" else 1
            self.convolutions[name] = nn.Conv2d(channels[sources[0]], num, side, step, side // 2)
            self.norms[name] = nn.Identity() if name == "maps" else nn.BatchNorm2d(num)
            channels[name] = num

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Compute heat maps [N, L, H / 2, W / 2] of images [N, 4, H, W]."""
        values = {"image": images_nchw}
        for name, sources, kind in LAYERS:
            value = values[sources[0]]
            for other in sources[1:]:
                value = value + values[other]
            value = self.norms[name](self.convolutions[name](value))
            value = value if name == "maps" else functional.relu(value)
            values[name] = functional.interpolate(value, scale_factor=2.0, mode="nearest") if kind == "up" else value
        return values["maps"]

    def export(self, prefix: str, dtype: type[np.floating] = np.float16) -> dict[str, NDArray[np.floating]]:
        """Return the weights for `HeatmapNetwork.from_arrays`, with the normalisation folded into the convolutions."""
        arrays = {}
        for name, _, _ in LAYERS:
            convolution, norm = self.convolutions[name], self.norms[name]
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            weight, bias = convolution.weight.detach(), convolution.bias.detach()
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                gain = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
                weight = weight * gain[:, None, None, None]
                bias = (bias - norm.running_mean) * gain + norm.bias.detach()
            kernel = weight.permute(2, 3, 1, 0).numpy()  # rows, columns, channels in, channels out
            rows, columns, num_in, num_out = kernel.shape
            arrays[f"{prefix}.{name}.weight"] = kernel.reshape(rows, columns * num_in, num_out).astype(dtype)
            arrays[f"{prefix}.{name}.bias"] = bias.numpy().astype(dtype)
        return arrays


def target_heatmaps(points_nlp: Tensor, size: int, sigma: float) -> Tensor:
    """Probabilities of the position of each landmark: a Gaussian at the point.

    Args:
        points_nlp: [N, L, 2], column and row relative to the size of the image; NaN if it is not visible.
        size: height and width of the maps.
        sigma: standard deviation in pixels of the maps.

    Returns:
        [N, L, size * size + 1]; the last is the probability that the landmark is not visible, 0 or 1.
    """
    centers = torch.arange(size, dtype=torch.float32) + 0.5
    away = (centers - points_nlp[..., None] * size) / sigma
    column, row = torch.nan_to_num(torch.exp(-0.5 * away**2), nan=0.0).unbind(dim=2)
    maps = (row[..., :, None] * column[..., None, :]).flatten(2)
    maps = maps / maps.sum(dim=2, keepdim=True).clamp(min=1e-6)
    is_hidden = torch.isnan(points_nlp[..., :1]).float()
    return torch.cat([maps, is_hidden], dim=2)


def heatmap_loss(maps_nlhw: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the positions, with a logit of 0 for a landmark that is not visible."""
    logits = functional.pad(maps_nlhw.flatten(2), (0, 1))
    return -(targets * functional.log_softmax(logits, dim=2)).sum(dim=2).mean()
