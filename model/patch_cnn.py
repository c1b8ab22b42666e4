"""The image tower of `smile-nano`: a convolutional network whose operations are efficient on processors.

It starts with patches, as transformers do, so no convolution works at full resolution. The number of channels is always
a multiple of 16, which fills the vector registers. Importing the module registers the network with timm, from which
open_clip builds it.
"""

from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torch.nn.functional import batch_norm, scaled_dot_product_attention

ARCH = "smile-nano"
# Normalised colours would change nothing: the batch norm after the first convolution, which has no padding, removes
# each shift and factor of its input.
PREPROCESSING = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
# Width, size of the patches of the stage before that become one position, and number of residual blocks.
STAGES = ((16, 4, 0), (32, 2, 1), (64, 2, 2))
HEAD_WIDTH = 32


class PatchCNN(nn.Module):
    """Stages of residual convolutions, each at a lower resolution, then attention pooling and batch norm.

    Embeddings of different faces are nearly equal at first, because faces are; without the norm, training on a few
    hundred samples takes twice as many epochs.

    Args:
        num_classes: Size of the output.
        image_size: Height and width of the input images, in pixels.
    """

    def __init__(self, num_classes: int, image_size: int = 96) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width, side = 3, image_size
        for width_out, patch, depth in STAGES:
            stages.append(
                nn.Sequential(_conv_norm(width, width_out, patch, stride=patch), *map(Residual, [width_out] * depth))
            )
            width, side = width_out, side // patch
        self.stages = nn.Sequential(*stages)
        self.pool = AttentionPool(width, side**2, num_classes)
        self.norm = OutputNorm(num_classes)

    def forward(self, images_nchw: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> embeddings [N, D]."""
        normalised: Tensor = self.norm(self.pool(self.stages(images_nchw)))
        return normalised


class Residual(nn.Module):
    """A map plus its convolution, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv_norm(width, width, 3, padding=1)

    def forward(self, maps_nchw: Tensor) -> Tensor:
        """Add the convolution."""
        return maps_nchw + self.conv(maps_nchw)


class AttentionPool(nn.Module):
    """Attention over the positions of a map, with the mean position as the query (as in CLIP's ResNets)."""

    def __init__(self, width: int, num_positions: int, width_out: int) -> None:
        super().__init__()
        self.position = nn.Parameter(nn.init.normal_(nn.Parameter().new_empty(num_positions, width), std=width**-0.5))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width_out)

    def forward(self, maps_nchw: Tensor) -> Tensor:
        """Pool a map: [N, C, H, W] -> [N, D]."""
        features = maps_nchw.flatten(2).mT
        # [N, heads, positions, head width]
        query, key, value = (
            part.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
            for part in (
                self.query(features.mean(1, keepdim=True)),
                *self.key_value(features + self.position).chunk(2, dim=-1),
            )
        )
        pooled: Tensor = self.project(scaled_dot_product_attention(query, key, value).flatten(1))
        return pooled


class OutputNorm(nn.BatchNorm1d):
    """Batch norm of [N, D]; a batch of one, which has no deviation, is normalised by the running statistics."""

    def forward(self, embeddings_nd: Tensor) -> Tensor:
        """Normalise."""
        uses_batch = self.training and len(embeddings_nd) != 1
        statistics = self.running_mean, self.running_var
        return batch_norm(
            embeddings_nd, *statistics, self.weight, self.bias, uses_batch, self.momentum or 0.0, self.eps
        )


def _conv_norm(width: int, width_out: int, kernel: int, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width_out, kernel, bias=False, **options), nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)
    )


# timm finds the network by the name of this function, and passes it options of pretrained weights, which do not exist.
@register_model
def smile_nano(num_classes: int, **_: Any) -> PatchCNN:
    """Build the network for the images of `smile-nano`."""
    return PatchCNN(num_classes)
