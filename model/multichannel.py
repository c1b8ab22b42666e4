"""Several channels of images in one model: one system per channel, whose embeddings are joined."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.towers import Towers


class MultiChannelModel(nn.Module):
    """One system for each channel of the images; their losses are averaged, and no weights are shared.

    Outside of the losses, a face or a text is the concatenation of sqrt(w_c) z_c / |z_c|, where z_c is its embedding of
    channel c, w_c = s_c / sum_c s_c, and s_c the inverse temperature of c. So the cosine of a face and a text is
    sum_c w_c cos_c, and times `scale`, the mean of s_c, it is the mean of the logits of the channels: the channels vote
    with equal weights (product of experts: Hinton, "Training products of experts by minimizing contrastive divergence",
    2002). One encoder that sees all channels as views follows the one that suits the training data best, and transfers
    less (model/README.md).
    """

    def __init__(self, systems: Sequence[ContrastiveModel]) -> None:
        super().__init__()
        self.systems = nn.ModuleList(systems)
        self.config = systems[0].config
        self.reads_text = systems[0].reads_text

    def forward(
        self,
        views_nvchw: Tensor,
        directions_v3: Tensor,
        tokens_bt: Tensor | None,
        frames: PackedFrames | None = None,
    ) -> Embeddings:
        """Embed a batch for the losses: the embeddings of the channels one after the other, not normalised.

        Args:
            views_nvchw: Views in [0, 1], three colours per channel, [N, V, 3 C, H, W]; for the rest see
                `FaceEncoder.forward`.
        """
        parts = [
            system(views, directions_v3, tokens_bt, frames)
            for system, views in zip(self, self._channels_of(views_nvchw), strict=True)
        ]
        texts = [part.text for part in parts if part.text is not None]
        return Embeddings(
            views=torch.cat([part.views for part in parts], dim=-1),
            fused=torch.cat([part.fused for part in parts], dim=-1),
            attention=torch.cat([part.attention for part in parts], dim=-1),
            text=torch.cat(texts, dim=-1) if texts else None,
        )

    def losses(self, embeddings: Embeddings, concept_ids: Tensor | None, subject_ids: Tensor) -> dict[str, Tensor]:
        """Compute the mean over channels of each loss term and of `total`; see `ContrastiveModel.losses`."""
        num = len(self.systems)
        texts = [None] * num if embeddings.text is None else embeddings.text.chunk(num, dim=-1)
        columns = (embeddings.views, embeddings.fused, embeddings.attention)
        parts = zip(*(column.chunk(num, dim=-1) for column in columns), texts, strict=True)
        found = [
            system.losses(Embeddings(*part), concept_ids, subject_ids) for system, part in zip(self, parts, strict=True)
        ]
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def embed_faces(
        self, views_nvchw: Tensor, directions_v3: Tensor, frames: PackedFrames | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed faces: joined views [B, V, C D], fused [B, C D], and the mean weights of the fusion [B, V]."""
        return self.fuse(self.embed_views(views_nvchw, frames), directions_v3)

    def embed_views(self, views_nvchw: Tensor, frames: PackedFrames | None = None) -> Tensor:
        """Embed views and pool them over time: [N, V, 3 C, H, W] -> [B, V, C D], not normalised, for `fuse`."""
        channels = zip(self, self._channels_of(views_nvchw), strict=True)
        return torch.cat([system.embed_views(views, frames) for system, views in channels], dim=-1)

    def embed_frames(self, views_nvchw: Tensor) -> Tensor:
        """Embed the views of each frame: [N, V, 3 C, H, W] -> [N, V, C D], not normalised, for `fuse`."""
        channels = zip(self, self._channels_of(views_nvchw), strict=True)
        return torch.cat([system.embed_frames(views) for system, views in channels], dim=-1)

    def fuse(self, views_bvd: Tensor, directions_v3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse views [B, V, C D] of any subset of a rig; the result is as of `embed_faces`."""
        parts = views_bvd.chunk(len(self.systems), dim=-1)
        found = [system.fuse(views, directions_v3) for system, views in zip(self, parts, strict=True)]
        views, fused, attention = zip(*found, strict=True)
        return self._join(views), self._join(fused), torch.stack(attention).mean(dim=0)

    def embed_text(self, tokens_nt: Tensor) -> Tensor:
        """Token ids [N, T] -> joined embeddings [N, C D]."""
        return self._join([system.embed_text(tokens_nt) for system in self])

    def class_anchors(self) -> Tensor | None:
        """Unit vectors of the classes, [K, C D]; None if the system has no classifier."""
        anchors = [found for system in self if (found := system.class_anchors()) is not None]
        return self._join(anchors) if anchors else None

    def set_class_prompts(self, tokens_of_classes: list[Tensor]) -> None:
        """See `ContrastiveModel.set_class_prompts`."""
        for system in self:
            system.set_class_prompts(tokens_of_classes)

    def freeze_unreached(self, with_text: bool, with_sequences: bool) -> None:
        """See `ContrastiveModel.freeze_unreached`."""
        for system in self:
            system.freeze_unreached(with_text, with_sequences)

    def learned_scalars(self) -> dict[str, float]:
        """Means over the channels of what each system learned: temperature or margin."""
        found = [system.learned_scalars() for system in self]
        return {name: sum(scalars[name] for scalars in found) / len(found) for name in found[0]}

    @property
    def scale(self) -> Tensor:
        """Mean of the inverse temperatures."""
        return self._scales.mean()

    @property
    def embed_dim(self) -> int:
        """Size of a joined embedding."""
        return sum(system.embed_dim for system in self)

    @property
    def image_size(self) -> int:
        """Height and width of the input images, in pixels."""
        return next(iter(self)).image_size

    @property
    def all_towers(self) -> list[Towers]:
        """The towers of all channels."""
        return [towers for system in self for towers in system.all_towers]

    def __iter__(self) -> Iterator[ContrastiveModel]:
        """The system of each channel."""
        for system in self.systems:
            assert isinstance(system, ContrastiveModel)
            yield system

    @property
    def _scales(self) -> Tensor:
        return torch.stack([system.scale for system in self])

    def _channels_of(self, views_nvchw: Tensor) -> tuple[Tensor, ...]:
        return views_nvchw.chunk(len(self.systems), dim=2)

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        """Concatenate embeddings [..., D] of the channels to unit vectors [..., C D]; see the class."""
        roots = (self._scales / self._scales.sum()).sqrt()
        units = [root * F.normalize(part.float(), dim=-1) for root, part in zip(roots, parts, strict=True)]
        return torch.cat(units, dim=-1)
