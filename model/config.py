"""What a recipe is configured by. Light to import: no PyTorch, so that a command line can show its options at once."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

# The time of a dynamic image, which stands for all frames of its sequence and so has no place among them.
DYNAMIC_TIME = -1.0

PoolingKind = Literal["attention", "mean"]


class RecipeConfig(BaseModel):
    """SMILE-VLM's constants. The publication gives none of them: all values are ours.

    Attributes:
        arch, pretrained: the towers, as open_clip names them.
        joint_dim: size of the joint embedding.
        temporal_pooling: how the moments of a sequence become one: attention that knows the time, or their mean.
        weight_mv, weight_vl, weight_cm: weights of the three losses.
        off_diagonal_weight: lambda of L_mv (0.0051 in the code of Barlow Twins).
        temperature: initial temperature of the contrast; learned, and kept above `min_temperature`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "smile-vlm"
    arch: str = "smile-tiny"
    pretrained: str | None = None
    joint_dim: int = 128
    temporal_pooling: PoolingKind = "attention"
    weight_mv: float = 0.1
    weight_vl: float = 1.0
    weight_cm: float = 0.01
    off_diagonal_weight: float = 0.0051
    temperature: float = 0.07
    min_temperature: float = 0.01
