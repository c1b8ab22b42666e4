"""What a recipe is configured by. Light to import: no PyTorch, so that a command line can show its options at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# The time of a dynamic image, which stands for all frames of its sequence and so has no place among them.
DYNAMIC_TIME = -1.0

PoolingKind = Literal["attention", "mean"]
Precision = Literal["float32", "bfloat16"]
TextNeed = Literal["any", "label", "pseudo", "none"]
RunTextSource = Literal["label", "geometry", "au", "pseudo", "none"]


@dataclass(frozen=True)
class RecipeSpec:
    """What is to be known of a recipe before a model is built.

    Attributes:
        system: the class that it is built of (model/objectives.py).
        weights: of its loss terms, by name. Ours: no publication gives any.
        text: the text that it learns from: any, that of labels, that of pseudo-labels, or none.
        text_free: the terms that are left where there is no text.
        metadata: whether texts that it learns from also say who is shown, where that is known.
    """

    system: str
    weights: Mapping[str, float]
    text: TextNeed
    text_free: tuple[str, ...] = ()
    metadata: bool = False


RECIPES: Mapping[str, RecipeSpec] = {
    "smile-vlm": RecipeSpec("SmileVLM", {"mv": 0.1, "vl": 1.0, "cm": 0.01}, "any", text_free=("mv",)),
    "affect-vlm": RecipeSpec("AffectVLM", {"mc": 1.0, "mt": 1.0}, "label", metadata=True),
    "multiview-vlm": RecipeSpec("MultiviewVLM", {"i2t": 1.0, "t2i": 1.0}, "pseudo"),
    "facet-vlm": RecipeSpec("FacetVLM", {"vl": 1.0, "guide": 0.1, "agree": 0.5}, "any"),
    "supervised": RecipeSpec("Supervised", {"ce": 1.0}, "label"),
    "barlow": RecipeSpec("SmileVLM", {"mv": 1.0}, "none", text_free=("mv",)),
    "clip": RecipeSpec("SmileVLM", {"vl": 1.0}, "any"),
}


class RecipeConfig(BaseModel):
    """A recipe and its constants. The publications give none of them: all values are ours.

    Attributes:
        name: one of `RECIPES`.
        without: loss terms to leave out.
        arch, pretrained: the towers, as open_clip names them.
        joint_dim: size of the joint embedding.
        temporal_pooling: how the moments of a sequence become one: attention that knows the time, or their mean.
        off_diagonal_weight: lambda of L_mv (0.0051 in the code of Barlow Twins).
        temperature: initial temperature of the contrast; learned, and kept above `min_temperature`.
        margin, margin_bounds: of AffectVLM; learned, and kept between the bounds.
        num_classes: of `supervised`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "smile-vlm"
    without: tuple[str, ...] = ()
    arch: str = "smile-tiny"
    pretrained: str | None = None
    joint_dim: int = 128
    temporal_pooling: PoolingKind = "attention"
    off_diagonal_weight: float = 0.0051
    temperature: float = 0.07
    min_temperature: float = 0.01
    margin: float = 0.3
    margin_bounds: tuple[float, float] = (0.05, 0.6)
    num_classes: int = Field(0, ge=0)

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the loss terms that are used."""
        return {name: weight for name, weight in RECIPES[self.name].weights.items() if name not in self.without}
