"""Systems with one learned anchor per class: aligned with text (`mpa-vlm`), or learned from each view (`mit`)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from smile_pipe.model import losses as L
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.distributed import Rows, sum_over_ranks
from smile_pipe.model.objectives import GatheredBatch, Supervised, Term, term

PROTOTYPE_DECAY = 0.99
LABEL_SMOOTHING = 0.1


class MpaVLM(Supervised):
    """Class anchors that are aligned with frozen text, and with the faces of their class (arXiv 2506.21017).

    The publication names its parts and no constants; the formulas are ours (model/README.md).

    Attributes:
        class_texts: Mean unit embedding of the prompts of each class by the text tower, which is not trained, [K, D].
        prototypes: Moving average of the unit embeddings of the faces of each class, [K, D]; zero before the first.
    """

    class_texts: Tensor
    prototypes: Tensor

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__(config)
        shape = (config.num_classes, config.joint_dim)
        self.register_buffer("class_texts", torch.zeros(shape))
        self.register_buffer("prototypes", torch.zeros(shape))

    @override
    @torch.no_grad()
    def set_class_prompts(self, tokens_of_classes: list[Tensor]) -> None:
        was_training = self.training
        self.eval()
        means = [F.normalize(self.embed_text(tokens).float(), dim=-1).mean(dim=0) for tokens in tokens_of_classes]
        self.class_texts.copy_(torch.stack(means))
        self.train(was_training)

    @override
    def terms(self) -> Mapping[str, Term]:
        def soft(batch: GatheredBatch) -> Tensor:
            return L.class_cross_entropy(batch.fused, self.anchors, batch.concept_ids, self.log_scale.exp())

        def hard(batch: GatheredBatch) -> Tensor:
            # Every rank has all of it, so its share is that of its rows.
            share = len(batch.fused.own) / batch.fused.num
            return share * L.anchor_alignment(self.anchors, self.class_texts, self.log_scale.exp())

        def proto(batch: GatheredBatch) -> Tensor:
            if self.training:
                self._update_prototypes(batch.fused.all, batch.concept_ids.all)
            return L.prototype_distance(batch.fused, self.prototypes, batch.concept_ids)

        return {
            "soft": term("fused concept_ids scale", soft, compares=False),
            "hard": term("fused concept_ids scale", hard, compares=False),
            "proto": term("fused concept_ids", proto),
        }

    @torch.no_grad()
    def _update_prototypes(self, fused_nd: Tensor, classes: Tensor) -> None:
        """Move the prototype of each class of the joined batch towards the mean of its faces; all ranks do the same."""
        units = F.normalize(fused_nd, dim=-1).to(self.prototypes.dtype)
        one_hot = F.one_hot(classes, len(self.prototypes)).to(units.dtype)
        counts = one_hot.sum(dim=0)[:, None]
        means = one_hot.T @ units / counts.clamp(min=1)
        is_new = (self.prototypes == 0).all(dim=1, keepdim=True)
        moved = torch.where(is_new, means, PROTOTYPE_DECAY * self.prototypes + (1 - PROTOTYPE_DECAY) * means)
        self.prototypes.copy_(torch.where(counts > 0, moved, self.prototypes))


class MiT(Supervised):
    """Cross-entropy of the fused face and of each view, whose weights follow their losses (MiT, IEEE SPL 2021).

    The author's public code has an encoder for each view; here all views share one, as in the other systems.
    """

    @override
    def terms(self) -> Mapping[str, Term]:
        def cross_entropy(rows: Rows, batch: GatheredBatch) -> Tensor:
            scale = self.log_scale.exp()
            return L.class_cross_entropy(rows, self.anchors, batch.concept_ids, scale, LABEL_SMOOTHING)

        def views(batch: GatheredBatch) -> Tensor:
            losses_v = torch.stack([cross_entropy(view, batch) for view in L.each_view(batch.views)])
            # A view with a larger loss has more weight. The weights have no gradient, and are equal on all ranks.
            weights_v = sum_over_ranks(losses_v.detach()).softmax(dim=0)
            return (weights_v * losses_v).sum()

        return {
            "ce": term("fused concept_ids scale", lambda batch: cross_entropy(batch.fused, batch), compares=False),
            "views": term("views concept_ids scale", views, compares=False),
        }
