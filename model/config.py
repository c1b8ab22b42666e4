"""Configuration of recipes. It does not import PyTorch, so that the command line shows its options without delay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Lambda times D of L_mv; tuned on other subjects than those of reported results (model/README.md).
REDUNDANCY_WEIGHT = 6.5
# Time of a dynamic image. It summarises all frames of its sequence, so it has no time among them.
DYNAMIC_TIME = -1.0

HUB_PREFIX = "hf-hub:"
"""Prefix of architectures that are models on the Hugging Face hub, `hf-hub:ORGANISATION/NAME`."""

PoolingKind = Literal["attention", "mean"]
Precision = Literal["float32", "tf32", "bfloat16"]
TextNeed = Literal["any", "label", "pseudo", "none"]
RunTextSource = Literal["label", "geometry", "au", "knowledge", "pseudo", "none"]


@dataclass(frozen=True)
class RecipeSpec:
    """Properties of a recipe that are known before a model is built.

    Attributes:
        system: Name of its class in model/objectives.py.
        weights: Weight of each loss term, by name. The values are ours: no publication gives any.
        text: Text that the recipe learns from: any, label text, pseudo-labels, or none.
        text_free: Terms that remain when there is no text.
        metadata: Whether prompts also describe the person (sex, age, ancestry) by default, where that is known.
        has_classifier: Whether it learns one anchor per class from labels, in place of prompts.
        class_prompts: Whether it needs prompts of every class all the same.
        image_free: Terms that read no image, and cannot be the only ones.
    """

    system: str
    weights: Mapping[str, float]
    text: TextNeed
    text_free: tuple[str, ...] = ()
    metadata: bool = False
    has_classifier: bool = False
    class_prompts: bool = False
    image_free: tuple[str, ...] = ()


RECIPES: Mapping[str, RecipeSpec] = {
    "smile-vlm": RecipeSpec("SmileVLM", {"mv": 0.1, "vl": 1.0, "cm": 0.01}, "any", text_free=("mv",)),
    "affect-vlm": RecipeSpec("AffectVLM", {"mc": 1.0, "mt": 1.0}, "label", metadata=True),
    "multiview-vlm": RecipeSpec("MultiviewVLM", {"i2t": 1.0, "t2i": 1.0}, "pseudo"),
    "facet-vlm": RecipeSpec("FacetVLM", {"vl": 1.0, "guide": 0.1, "agree": 0.5}, "any"),
    "supervised": RecipeSpec("Supervised", {"ce": 1.0}, "label", has_classifier=True),
    "mpa-vlm": RecipeSpec(
        "MpaVLM",
        {"soft": 1.0, "hard": 1.0, "proto": 0.5},
        "label",
        has_classifier=True,
        class_prompts=True,
        image_free=("hard",),
    ),
    "mit": RecipeSpec("MiT", {"ce": 1.0, "views": 1.0}, "label", has_classifier=True),
    "barlow": RecipeSpec("SmileVLM", {"mv": 1.0}, "none", text_free=("mv",)),
    "clip": RecipeSpec("SmileVLM", {"vl": 1.0}, "any"),
}


def has_classifier(recipe: str) -> bool:
    """Whether a recipe learns one anchor per class from labels; false for an unknown one."""
    return recipe in RECIPES and RECIPES[recipe].has_classifier


def is_hub_model(arch: str) -> bool:
    """Whether `arch` is a model on the Hugging Face hub, which includes its weights."""
    return arch.startswith(HUB_PREFIX)


class RecipeConfig(BaseModel):
    """A recipe and its constants. The publications give none of them: all values are ours.

    Attributes:
        name: One of `RECIPES`.
        without: Loss terms to drop.
        arch: Architecture of the towers, by open_clip's name.
        pretrained: Weights of the towers: an open_clip tag or a file; None for random ones.
        joint_dim: Size of the joint embedding.
        temporal_pooling: How frame embeddings become one: time-aware attention, or their mean.
        off_diagonal_weight: Lambda of L_mv; None for `REDUNDANCY_WEIGHT` divided by the number of features.
        projection_dim: Size of the projections of the views that L_mv compares; 0 compares the embeddings themselves.
        temperature: Initial temperature of the contrastive losses; learned, and kept above `min_temperature`.
        min_temperature: Lower bound of the temperature.
        margin: Initial margin of AffectVLM; learned, and kept within `margin_bounds`.
        margin_bounds: Lower and upper bound of the margin.
        num_classes: Number of classes of a recipe with a classifier; 0 for other recipes.
        num_channels: Number of channels of the images; each has a model of its own.
        crit: Weight of the loss `crit` against captions with a false phrase; 0 leaves it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "smile-vlm"
    without: tuple[str, ...] = ()
    arch: str = "smile-nano"
    pretrained: str | None = None
    joint_dim: int = 128
    temporal_pooling: PoolingKind = "attention"
    off_diagonal_weight: float | None = None
    projection_dim: int = Field(default=0, ge=0)
    temperature: float = 0.07
    min_temperature: float = 0.01
    margin: float = 0.3
    margin_bounds: tuple[float, float] = (0.05, 0.6)
    num_classes: int = Field(0, ge=0)
    num_channels: int = Field(1, ge=1)
    crit: float = Field(0.0, ge=0)

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the loss terms in use, by name."""
        own = {name: weight for name, weight in RECIPES[self.name].weights.items() if name not in self.without}
        return own | ({"crit": self.crit} if self.crit else {})

    @property
    def redundancy_weight(self) -> float:
        """Lambda of L_mv."""
        num_features = self.projection_dim or self.joint_dim
        return REDUNDANCY_WEIGHT / num_features if self.off_diagonal_weight is None else self.off_diagonal_weight
