"""Training objectives: the systems that recipes are built from, each a face encoder with named loss terms.

A model maps views and prompts to embeddings, and embeddings to a dict of loss terms whose weighted sum, under `total`,
is minimised. `smile_pipe.model.recipes` builds the model of a recipe.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from smile_pipe.model import losses as L
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.distributed import Rows, gather_rows, sum_over_ranks, world_size
from smile_pipe.model.encoder import Embeddings, FaceEncoder, projector
from smile_pipe.model.towers import full_matmul_precision

AGGREGATION_HEADS = 4


@dataclass(frozen=True)
class GatheredBatch:
    """Embeddings and targets of this rank and of all ranks, in single precision: the input of the loss terms.

    Fields that no term needs are empty; `text` and `concept_ids` are empty without text.

    Attributes:
        views: [B, V, D].
        fused: [B, D].
        attention: [B, V].
        text: [B, D].
        false_text: [B, D].
        concept_ids: int64 [B]; equal numbers are positives of each other.
        subject_ids: int64 [B].
        numbers: Number of each sample in the joined batch, int64 [B].
    """

    views: Rows
    fused: Rows
    attention: Rows
    text: Rows
    false_text: Rows
    concept_ids: Rows
    subject_ids: Rows
    numbers: Rows


@dataclass(frozen=True)
class Term:
    """A loss term.

    Attributes:
        of: Computes this rank's share of the term from a batch.
        needs: Fields of the batch that it reads, and `scale` if it reads the temperature.
        compares: Whether it compares rows of this rank with rows of all ranks, which are then gathered.
    """

    of: Callable[[GatheredBatch], Tensor]
    needs: frozenset[str]
    compares: bool


class ContrastiveModel(FaceEncoder):
    """A face encoder with loss terms; its config names the terms in use and their weights.

    Attributes:
        reads_text: Whether it learns from prompts; otherwise its concepts are classes, numbered from 0.
    """

    reads_text = True

    def terms(self) -> Mapping[str, Term]:
        """All terms of the system, by name."""
        raise NotImplementedError

    def used_terms(self, with_text: bool) -> Mapping[str, Term]:
        """The terms that are minimised; without text only those that need none."""
        needs_text = frozenset(("text", "concept_ids"))
        all_terms = {
            **self.terms(),
            "crit": term("fused text false_text scale", self._prefers_caption, compares=False),
        }
        terms = {name: term for name, term in all_terms.items() if name in self.config.weights}
        return {name: term for name, term in terms.items() if with_text or not term.needs & needs_text}

    def losses(self, embeddings: Embeddings, concept_ids: Tensor | None, subject_ids: Tensor) -> dict[str, Tensor]:
        """Compute the loss terms over the batch of all ranks; all ranks must call this together.

        Args:
            embeddings: Embeddings of the B samples of this rank.
            concept_ids: Which prompts mean the same, or with labels the class of each sample, int64 [B]; None without
                text.
            subject_ids: Subject of each sample, int64 [B].

        Returns:
            Unweighted terms by name, and their weighted sum under `total`.
        """
        # In place, not in the graph: a clamp in the graph stops the gradient, and the temperature could not recover.
        with torch.no_grad():
            self.log_scale.clamp_(max=self.max_log_scale)
        used = self.used_terms(with_text=concept_ids is not None)
        batch = _gather(embeddings, concept_ids, subject_ids, used)
        with full_matmul_precision():
            values = {name: each.of(batch) for name, each in used.items()}
        if world_size() > 1:
            values = dict(zip(values, sum_over_ranks(torch.stack(list(values.values()))).unbind(), strict=True))
        weights = self.config.weights
        return {**values, "total": torch.stack([weights[name] * loss for name, loss in values.items()]).sum()}

    def _prefers_caption(self, batch: GatheredBatch) -> Tensor:
        return L.caption_preference(batch.fused, batch.text, batch.false_text, self.log_scale.exp())

    def freeze_unreached(self, with_text: bool, with_sequences: bool) -> None:
        """Freeze the parameters that no loss reaches, so that optimiser, clipping and all-reduce skip them.

        All ranks must call this together. Without sequences, pooling over time is reached by gradients that are 0.
        """
        reached = self._reached_parameters(with_text)
        for name, parameter in self.named_parameters():
            if id(parameter) not in reached or (name.startswith("temporal.") and not with_sequences):
                parameter.requires_grad_(False)

    def _reached_parameters(self, with_text: bool) -> set[int]:
        """Ids of the parameters in the graph of the losses of one empty face.

        The graph, and not a list, because towers of open_clip may have parts that encode neither images nor text.
        """
        zeros, size, was_training = self.log_scale.new_zeros, self.towers.image_size, self.training
        texts = (1, 2) if self.config.crit else (1,)
        tokens, ids = zeros(*texts, self.towers.context_length, dtype=torch.int64), zeros(1, dtype=torch.int64)
        self.eval()
        embeddings = self(zeros(1, 2, 3, size, size), zeros(2, 3), tokens if with_text and self.reads_text else None)
        total = self.losses(embeddings, ids if with_text else None, ids)["total"]
        self.train(was_training)
        nodes, seen, reached = [total.grad_fn], set[Any](), set[int]()
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen.add(node)
                # Only the nodes that accumulate gradients of parameters have a variable.
                reached.add(id(getattr(node, "variable", None)))
                nodes += [previous for previous, _ in node.next_functions]
        return reached

    def set_class_prompts(self, tokens_of_classes: list[Tensor]) -> None:
        """Take the prompts of each class, token ids [P, T], before the first step; most systems need none."""

    def learned_scalars(self) -> dict[str, float]:
        """Learned scalars to log: temperature or margin."""
        return {"temperature": (1 / self.scale).item()}

    def class_anchors(self) -> Tensor | None:
        """Unit vectors of the classes, [K, D]; None if the system has no classifier."""
        return None


class SmileVLM(ContrastiveModel):
    """Three losses: across views, between views and text, and against redundancy of the two (arXiv 2506.01203)."""

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        self.project_views: nn.Module = nn.Identity()
        if config.projection_dim and "mv" in config.weights:
            # As in `FaceEncoder`: all other random numbers are those of a model without it.
            with torch.random.fork_rng(devices=[]):
                self.project_views = projector(config.joint_dim, config.projection_dim, config.projection_dim)

    @override
    def terms(self) -> Mapping[str, Term]:
        def decorrelation(batch: GatheredBatch) -> Tensor:
            return L.multiview_decorrelation(batch.views.map(self.project_views), self.config.redundancy_weight)

        return {
            "mv": term("views", decorrelation, compares=False),
            "vl": _vision_language(self),
            "cm": term("fused text", lambda b: L.cross_modal_redundancy(b.fused, b.text), compares=False),
        }


class AffectVLM(ContrastiveModel):
    """Contrast and triplets over views, fused embeddings and texts, with one learned margin (arXiv 2504.19739).

    Both terms share the margin: with separate margins one would fall and the other rise without limit. It is kept
    within bounds.
    """

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        low, high = config.margin_bounds
        share = (config.margin - low) / (high - low)
        self.raw_margin = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    @property
    def margin(self) -> Tensor:
        """The margin, within the bounds of the config."""
        low, high = self.config.margin_bounds
        return low + (high - low) * self.raw_margin.sigmoid()

    @override
    def terms(self) -> Mapping[str, Term]:
        def contrast(batch: GatheredBatch) -> Tensor:
            rows, concepts, numbers = _stack_embeddings(batch)
            return L.multiview_contrast(rows, concepts, numbers, self.margin)

        def triplet(batch: GatheredBatch) -> Tensor:
            rows, concepts, _ = _stack_embeddings(batch)
            return L.multiview_triplet(batch.fused, batch.concept_ids, rows, concepts, self.margin)

        needs = "views fused text concept_ids"
        return {"mc": term(needs, contrast), "mt": term(needs, triplet)}

    @override
    def learned_scalars(self) -> dict[str, float]:
        return {"margin": self.margin.item()}


class MultiviewVLM(ContrastiveModel):
    """Contrast in both directions between views and texts whose concepts are pseudo-labels (arXiv 2505.09336)."""

    @override
    def terms(self) -> Mapping[str, Term]:
        def contrast(batch: GatheredBatch, from_text: bool) -> Tensor:
            pairs = [(batch.fused, batch.text)] + [(view, batch.text) for view in L.each_view(batch.views)]
            pairs = [pair[::-1] if from_text else pair for pair in pairs]
            scale = self.log_scale.exp()
            return torch.stack(
                [L.stable_contrast(*pair, batch.concept_ids, batch.subject_ids, scale) for pair in pairs]
            ).mean()

        needs = "views fused text concept_ids subject_ids scale"
        return {
            "i2t": term(needs, lambda b: contrast(b, from_text=False)),
            "t2i": term(needs, lambda b: contrast(b, from_text=True)),
        }


class FacetVLM(ContrastiveModel):
    """Cross-view attention, text-guided fusion, and agreement between views (arXiv 2507.01673)."""

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
            "guide": term("views fused attention text", guide, compares=False),
            "agree": term("views fused text scale", agree),
        }


class CrossViewAggregation(nn.Module):
    """z_v + attention of z_v over all views, with the direction of each view as position; starts as the identity.

    FACET-VLM's cross-view semantic aggregation names no formula; ours is one layer of multi-head attention (Vaswani et
    al., NeurIPS 2017, section 3.2.2) whose output starts at zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        heads = math.gcd(dim, AGGREGATION_HEADS)
        self.norm = nn.LayerNorm(dim)
        self.from_direction = nn.Linear(3, dim, bias=False)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, views_bvd: Tensor, directions_v3: Tensor) -> Tensor:
        """Aggregate views [B, V, D] seen from directions [V, 3]: [B, V, D]."""
        positioned = self.norm(views_bvd) + self.from_direction(directions_v3)
        attended, _ = self.attention(positioned, positioned, positioned, need_weights=False)
        return views_bvd + attended


class Supervised(ContrastiveModel):
    """Cross-entropy of the fused embedding against one learned anchor per class: the supervised baseline."""

    reads_text = False

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        if config.num_classes < 2:
            raise ValueError(f"{config.name} needs at least two classes, and the samples have {config.num_classes}")
        self.anchors = nn.Parameter(torch.randn(config.num_classes, config.joint_dim) / math.sqrt(config.joint_dim))

    @override
    def terms(self) -> Mapping[str, Term]:
        def cross_entropy(batch: GatheredBatch) -> Tensor:
            return L.class_cross_entropy(batch.fused, self.anchors, batch.concept_ids, self.log_scale.exp())

        return {"ce": term("fused concept_ids scale", cross_entropy, compares=False)}

    @override
    def class_anchors(self) -> Tensor:
        return F.normalize(self.anchors.float(), dim=-1)


def term(needs: str, of: Callable[[GatheredBatch], Tensor], compares: bool = True) -> Term:
    """Make a term; `needs` are the names of fields, separated by spaces."""
    return Term(of, frozenset(needs.split()), compares)


def _needs(terms: Mapping[str, Term]) -> frozenset[str]:
    return frozenset[str]().union(*(each.needs for each in terms.values()))


def _vision_language(model: ContrastiveModel) -> Term:
    def contrast(batch: GatheredBatch) -> Tensor:
        scale = model.log_scale.exp()
        return L.vision_language_contrast(batch.fused, batch.views, batch.text, batch.concept_ids, scale)

    return term("views fused text concept_ids scale", contrast)


def _stack_embeddings(batch: GatheredBatch) -> tuple[Rows, Rows, Rows]:
    """All embeddings of a batch [N (V + 2), D], of each view, fused, and of the text; their concepts and numbers."""
    parts = [*L.each_view(batch.views), batch.fused, batch.text]
    concepts = batch.concept_ids.map(lambda ids: ids.repeat(len(parts)))
    blocks = torch.arange(len(parts), device=batch.numbers.own.device)[:, None] * batch.numbers.num
    return Rows.cat(parts), concepts, batch.numbers.map(lambda numbers: (blocks + numbers).flatten())


def _gather(
    embeddings: Embeddings, concept_ids: Tensor | None, subject_ids: Tensor, terms: Mapping[str, Term]
) -> GatheredBatch:
    """Gather the rows of all ranks that the terms compare; fields that no term needs stay empty."""
    given = {
        "views": embeddings.views,
        "fused": embeddings.fused,
        "attention": embeddings.attention,
        "text": embeddings.true_text,
        "false_text": embeddings.false_text,
        "concept_ids": concept_ids,
        "subject_ids": subject_ids,
    }
    needs = _needs(terms)
    fields = {name: _at_least_single(rows) for name, rows in given.items() if rows is not None and name in needs}
    found = gather_rows(fields, _needs({name: each for name, each in terms.items() if each.compares}))
    empty = Rows.alone(embeddings.fused.new_zeros(0))
    return GatheredBatch(**{name: found.get(name, empty) for name in (*given, "numbers")})


def _at_least_single(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32)) if rows.is_floating_point() else rows
