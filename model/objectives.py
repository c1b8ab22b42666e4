"""The systems that recipes are built of: each a face encoder and its loss terms, each term a function of embeddings.

A recipe is a named system: a config that builds a model with its losses.

Goes in: `RecipeConfig`. Comes out: a module that maps view images and prompts to embeddings, and embeddings to a dict
of named loss terms whose weighted sum under `total` is what is minimised.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from smile_pipe.model import losses as L
from smile_pipe.model.config import RECIPES, RecipeConfig
from smile_pipe.model.distributed import gather_rows
from smile_pipe.model.encoder import Embeddings, FaceEncoder

AGGREGATION_HEADS = 4


@dataclass(frozen=True)
class Targets:
    """What a batch is compared by; int64 [B] each.

    Attributes:
        concepts: which prompts mean the same, or with labels which class a sample is of; None where there is no text.
        subjects: who it is, for recipes that compare people.
    """

    concepts: Tensor | None
    subjects: Tensor


@dataclass(frozen=True)
class GatheredBatch:
    """Embeddings and targets of all ranks, in single precision: what losses are computed from.

    `text` and `concepts` are meant only where there is text, which is all that terms of text see.
    """

    views: Tensor
    fused: Tensor
    attention: Tensor
    text: Tensor
    concepts: Tensor
    subjects: Tensor


@dataclass(frozen=True)
class Term:
    """A loss term, and what of a batch it looks at (`views`, `fused`, `text`, `concepts`, `scale`)."""

    of: Callable[[GatheredBatch], Tensor]
    needs: frozenset[str]


class ContrastiveModel(FaceEncoder):
    """A face encoder with loss terms, of which a config names those that are used and their weights."""

    reads_text = True
    """Whether it has words for what it sees; else its concepts are classes, numbered from 0."""

    def terms(self) -> Mapping[str, Term]:
        """All terms of the system, by name."""
        raise NotImplementedError

    def used_terms(self, with_text: bool) -> Mapping[str, Term]:
        """The terms that are minimised; without text those alone that can do without."""
        needs_text = frozenset(("text", "concepts"))
        terms = {name: term for name, term in self.terms().items() if name in self.config.weights}
        return {name: term for name, term in terms.items() if with_text or not term.needs & needs_text}

    def losses(self, embeddings: Embeddings, targets: Targets) -> dict[str, Tensor]:
        """Loss terms by name, over the batch of all ranks, unweighted, and their weighted sum `total`."""
        # In place, not in the graph: there a clamp lets no gradient through, and the temperature could not come back.
        with torch.no_grad():
            self.log_scale.clamp_(max=self.max_log_scale)
        used = self.used_terms(with_text=targets.concepts is not None)
        batch = _joined(embeddings, targets, frozenset().union(*(term.needs for term in used.values())))
        found = {name: term.of(batch) for name, term in used.items()}
        weights = self.config.weights
        return {**found, "total": torch.stack([weights[name] * loss for name, loss in found.items()]).sum()}

    def freeze_unreached(self, with_text: bool, with_sequences: bool) -> None:
        """Keep what no loss reaches out of the optimiser, of clipping and of the gradient exchange."""
        needs = frozenset().union(*(term.needs for term in self.used_terms(with_text).values()))
        parts = {"project_text.": "text", "fusion.": "fused", "log_scale": "scale"}
        frozen = [prefix for prefix, part in parts.items() if part not in needs]
        frozen += [] if with_sequences else ["temporal."]
        for name, parameter in self.named_parameters():
            of_text = name.startswith("towers.clip.") and not name.startswith("towers.clip.visual.")
            if name.startswith(tuple(frozen)) or (of_text and "text" not in needs):
                parameter.requires_grad_(False)

    def learned_scalars(self) -> dict[str, float]:
        """What is learned and worth watching: temperatures and margins."""
        return {"temperature": 1 / self.scale.item()}


class SmileVLM(ContrastiveModel):
    """Three losses: across views, between views and text, and against redundancy of the two (arXiv 2506.01203)."""

    @override
    def terms(self) -> Mapping[str, Term]:
        weight = self.config.off_diagonal_weight
        return {
            "mv": _term("views", lambda b: L.multiview_decorrelation(b.views, weight)),
            "vl": _vision_language(self),
            "cm": _term("fused text", lambda b: L.cross_modal_redundancy(b.fused, b.text)),
        }


class AffectVLM(ContrastiveModel):
    """Contrast and triplets over views, fused embeddings and texts, with one learned margin (arXiv 2504.19739).

    The margin would fall without end in one term and rise without end in the other, where they did not share it; it is
    kept between bounds.
    """

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        low, high = config.margin_bounds
        part = (config.margin - low) / (high - low)
        self.raw_margin = nn.Parameter(torch.tensor(math.log(part / (1 - part))))

    @property
    def margin(self) -> Tensor:
        """Between the bounds of the config."""
        low, high = self.config.margin_bounds
        return low + (high - low) * self.raw_margin.sigmoid()

    @override
    def terms(self) -> Mapping[str, Term]:
        def contrast(batch: GatheredBatch) -> Tensor:
            return L.multiview_contrast(*_pool(batch), self.margin)

        def triplet(batch: GatheredBatch) -> Tensor:
            return L.multiview_triplet(batch.fused, batch.concepts, *_pool(batch), self.margin)

        needs = "views fused text concepts"
        return {"mc": _term(needs, contrast), "mt": _term(needs, triplet)}

    @override
    def learned_scalars(self) -> dict[str, float]:
        return {"margin": self.margin.item()}


class MultiviewVLM(ContrastiveModel):
    """Contrast both ways between views and texts whose concepts are pseudo-labels (arXiv 2505.09336)."""

    @override
    def terms(self) -> Mapping[str, Term]:
        def contrast(batch: GatheredBatch, from_text: bool) -> Tensor:
            pairs = [(batch.fused, batch.text)] + [(view, batch.text) for view in batch.views.unbind(1)]
            pairs = [pair[::-1] if from_text else pair for pair in pairs]
            found = [L.stable_contrast(*pair, batch.concepts, batch.subjects, self.log_scale.exp()) for pair in pairs]
            return torch.stack(found).mean()

        needs = "views fused text concepts scale"
        return {
            "i2t": _term(needs, lambda b: contrast(b, from_text=False)),
            "t2i": _term(needs, lambda b: contrast(b, from_text=True)),
        }


class FacetVLM(ContrastiveModel):
    """Views that attend to each other, a fusion that text guides, and views that agree (arXiv 2507.01673)."""

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        self.aggregation = CrossViewAggregation(config.joint_dim)

    @override
    def aggregate(self, views_bvd: Tensor, directions_v3: Tensor) -> Tensor:
        return self.aggregation(views_bvd, directions_v3)

    @override
    def terms(self) -> Mapping[str, Term]:
        def guide(batch: GatheredBatch) -> Tensor:
            return L.text_guidance(batch.attention, batch.views, batch.text, self.log_scale.exp())

        def agree(batch: GatheredBatch) -> Tensor:
            return L.view_agreement(batch.fused, batch.views, batch.text, self.log_scale.exp())

        return {
            "vl": _vision_language(self),
            "guide": _term("views fused text", guide),
            "agree": _term("views fused text scale", agree),
        }


class CrossViewAggregation(nn.Module):
    """z_v + attention of z_v over all views, which know from where they look; begins as the identity.

    FACET-VLM's cross-view semantic aggregation names no formula; ours is one layer of multi-head attention (Vaswani et
    al., NeurIPS 2017, section 3.2.2) whose output begins at zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        heads = math.gcd(dim, AGGREGATION_HEADS)
        self.norm = nn.LayerNorm(dim)
        self.from_direction = nn.Linear(3, dim, bias=False)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, views_bvd: Tensor, directions_v3: Tensor) -> Tensor:
        """Views [B, V, D] seen from directions [V, 3] -> [B, V, D]."""
        known = self.norm(views_bvd) + self.from_direction(directions_v3)
        told, _ = self.attention(known, known, known, need_weights=False)
        return views_bvd + told


class Supervised(ContrastiveModel):
    """Cross-entropy of the fused embedding against one learned anchor a class: the comparison that labels give."""

    reads_text = False

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        if config.num_classes < 2:
            raise ValueError(f"supervised needs two classes or more, and the samples have {config.num_classes}")
        self.anchors = nn.Parameter(torch.randn(config.num_classes, config.joint_dim) / math.sqrt(config.joint_dim))

    @override
    def terms(self) -> Mapping[str, Term]:
        def cross_entropy(batch: GatheredBatch) -> Tensor:
            return L.class_cross_entropy(batch.fused, self.anchors.float(), batch.concepts, self.log_scale.exp())

        return {"ce": _term("fused concepts scale", cross_entropy)}


def _term(needs: str, of: Callable[[GatheredBatch], Tensor]) -> Term:
    return Term(of, frozenset(needs.split()))


def _vision_language(recipe: ContrastiveModel) -> Term:
    def contrast(batch: GatheredBatch) -> Tensor:
        scale = recipe.log_scale.exp()
        return L.vision_language_contrast(batch.fused, batch.views, batch.text, batch.concepts, scale)

    return _term("views fused text concepts scale", contrast)


def _pool(batch: GatheredBatch) -> tuple[Tensor, Tensor]:
    """All embeddings of a batch, [N (V + 2), D]: each view's, the fused one's, the text's; and their concepts."""
    rows = torch.cat([*batch.views.unbind(1), batch.fused, batch.text])
    return rows, batch.concepts.repeat(batch.views.shape[1] + 2)


def _joined(embeddings: Embeddings, targets: Targets, needs: frozenset[str]) -> GatheredBatch:
    """The rows of all ranks; what no term needs is not gathered."""
    none = embeddings.fused.new_zeros(0)

    def gathered(rows: Tensor | None, is_needed: bool) -> Tensor:
        if rows is None or not is_needed:
            return none
        return gather_rows(rows.float() if rows.is_floating_point() else rows)

    return GatheredBatch(
        views=gathered(embeddings.views, "views" in needs),
        fused=gathered(embeddings.fused, "fused" in needs),
        attention=gathered(embeddings.attention, "fused" in needs),
        text=gathered(embeddings.text, "text" in needs),
        concepts=gathered(targets.concepts, "concepts" in needs),
        subjects=gathered(targets.subjects, "concepts" in needs),
    )


def check_recipe(name: str, without: Sequence[str] = ()) -> None:
    """Raise ValueError where there is no recipe `name`, or where it has no such terms, or no others."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    terms = RECIPES[name].weights
    if unknown := sorted(set(without) - terms.keys()):
        raise ValueError(f"{name} has no loss {unknown[0]!r} to leave out; its losses: {', '.join(terms)}")
    if terms.keys() <= set(without):
        raise ValueError(f"{name} without {', '.join(without)} has no loss left")


_SYSTEMS: dict[str, type[ContrastiveModel]] = {
    system.__name__: system for system in (SmileVLM, AffectVLM, MultiviewVLM, FacetVLM, Supervised)
}


def build_model(config: RecipeConfig) -> ContrastiveModel:
    """The model of a recipe, with the weights that its config asks for.

    Raises:
        ValueError: unknown recipe, loss, architecture or pretrained weights.
    """
    check_recipe(config.name, config.without)
    return _SYSTEMS[RECIPES[config.name].system](config)
