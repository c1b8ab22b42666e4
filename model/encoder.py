"""From images of a face and words to embeddings in one joint space: what all recipes share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.fusion import TemporalPooling, ViewFusion
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.towers import Towers


@dataclass(frozen=True)
class Embeddings:
    """What a batch looks like in the joint space.

    Attributes:
        views: [B, V, D], one embedding a view, pooled over a sequence's moments, not normalised.
        fused: [B, D], their view-aware mean.
        attention: [B, V], the weights of that mean.
        text: [B, D], or None where there is no text.
    """

    views: Tensor
    fused: Tensor
    attention: Tensor
    text: Tensor | None


class FaceEncoder(nn.Module):
    """Shared image tower, temporal pooling, view-aware fusion, and text tower."""

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__()
        self.config = config
        self.towers = Towers(config.arch, config.pretrained)
        self.project_image = _projector(self.towers.embed_dim, config.joint_dim)
        self.project_text = _projector(self.towers.embed_dim, config.joint_dim)
        self.fusion = ViewFusion(config.joint_dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.max_log_scale = -math.log(config.min_temperature)
        # Last, and with the generator put back: whatever is drawn for a scan is what it would be without sequences.
        with torch.random.fork_rng(devices=[]):
            self.temporal = TemporalPooling(config.joint_dim, config.temporal_pooling)

    def forward(
        self,
        views_nvchw: Tensor,
        directions_v3: Tensor,
        tokens_bt: Tensor | None,
        moments: PackedFrames | None = None,
    ) -> Embeddings:
        """Embed a batch of faces, and their prompts where there are any; images in [0, 1]."""
        views, fused, attention = self.embed_faces(views_nvchw, directions_v3, moments)
        return Embeddings(views, fused, attention, None if tokens_bt is None else self.embed_text(tokens_bt))

    def embed_faces(
        self, views_nvchw: Tensor, directions_v3: Tensor, moments: PackedFrames | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Views of all moments [N, V, 3, H, W] -> embeddings of the views [B, V, D], fused [B, D], attention [B, V].

        `moments` tells which of the N are of which face, and when; without it each is a scan of its own.
        """
        return self.fuse(self.embed_views(views_nvchw, moments), directions_v3)

    def embed_views(self, views_nvchw: Tensor, moments: PackedFrames | None = None) -> Tensor:
        """Views of all moments [N, V, 3, H, W] -> [B, V, D], before views tell each other anything."""
        moments = moments or PackedFrames.of_scans(len(views_nvchw), views_nvchw.device)
        return self.temporal(self.embed_moments(views_nvchw), moments)

    def embed_moments(self, views_nvchw: Tensor) -> Tensor:
        """Views of all moments [N, V, 3, H, W] -> [N, V, D], before moments are pooled; of scans nothing else is."""
        views_nvd = self.project_image(self.towers.encode_images(views_nvchw.flatten(0, 1)))
        return views_nvd.unflatten(0, views_nvchw.shape[:2])

    def fuse(self, views_bvd: Tensor, directions_v3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views [B, V, D] of any part of a rig -> views as aggregated, fused [B, D], attention [B, V]."""
        views_bvd = self.aggregate(views_bvd, directions_v3)
        return views_bvd, *self.fusion(views_bvd, directions_v3)

    def aggregate(self, views_bvd: Tensor, directions_v3: Tensor) -> Tensor:
        """What views [B, V, D] tell each other before they are fused; nothing, unless a recipe says so."""
        return views_bvd

    def embed_text(self, tokens_nt: Tensor) -> Tensor:
        """Token ids [N, T] -> embeddings [N, D]; equal prompts, common in a batch, are encoded once."""
        unique, inverse = torch.unique(tokens_nt, dim=0, return_inverse=True)
        return self.project_text(self.towers.encode_text(unique))[inverse]

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the contrast, as the losses take it."""
        return self.log_scale.clamp(max=self.max_log_scale).exp()


def _projector(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_in), nn.GELU(), nn.Linear(width_in, width_out))
