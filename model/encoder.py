"""The encoder that all recipes share: views of faces and prompts to embeddings in one joint space."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.fusion import TemporalPooling, ViewFusion
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.towers import Towers
from smile_pipe.model.transfer import to_device


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a batch in the joint space, not normalised.

    Attributes:
        views: One embedding per view, pooled over the frames of a sequence, [B, V, D].
        fused: View-aware weighted mean of the views, [B, D].
        attention: Weights of that mean, [B, V].
        text: Embeddings of the prompts, [B, D]; of a true and a false one, [B, 2, D]; None without text.
    """

    views: Tensor
    fused: Tensor
    attention: Tensor
    text: Tensor | None

    @property
    def true_text(self) -> Tensor | None:
        """Embeddings of the true prompts, [B, D]."""
        return self.text[:, 0] if self.text is not None and self.text.ndim == 3 else self.text

    @property
    def false_text(self) -> Tensor | None:
        """Embeddings of the false prompts, [B, D]; None without any."""
        return self.text[:, 1] if self.text is not None and self.text.ndim == 3 else None


class FaceEncoder(nn.Module):
    """Shared image tower, temporal pooling, view-aware fusion, and text tower."""

    def __init__(self, config: RecipeConfig) -> None:
        super().__init__()
        self.config = config
        self.towers = Towers(config.arch, config.pretrained)
        self.project_image = projector(self.towers.embed_dim, self.towers.embed_dim, config.joint_dim)
        self.project_text = projector(self.towers.embed_dim, self.towers.embed_dim, config.joint_dim)
        self.fusion = ViewFusion(config.joint_dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.max_log_scale = -math.log(config.min_temperature)
        # Built last, with the state of the random generator restored: all other initial weights and all later random
        # numbers are then the same as in a model without temporal pooling.
        with torch.random.fork_rng(devices=[]):
            self.temporal = TemporalPooling(config.joint_dim, config.temporal_pooling)

    def forward(
        self,
        views_nvchw: Tensor,
        directions_v3: Tensor,
        tokens_bt: Tensor | None,
        frames: PackedFrames | None = None,
    ) -> Embeddings:
        """Embed a batch of faces, and their prompts if there are any.

        Args:
            views_nvchw: Views of all frames in [0, 1], [N, V, 3, H, W].
            directions_v3: Unit vectors from the face to each camera, [V, 3].
            tokens_bt: Token ids of the prompts, [B, T], or of a true and a false one, [B, 2, T], preferably on the CPU;
                or None.
            frames: Layout of the N frames; without it each of them is a scan.
        """
        views, fused, attention = self.embed_faces(views_nvchw, directions_v3, frames)
        return Embeddings(views, fused, attention, None if tokens_bt is None else self.embed_text(tokens_bt))

    def embed_faces(
        self, views_nvchw: Tensor, directions_v3: Tensor, frames: PackedFrames | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed a batch of faces; see `forward` for the arguments.

        Returns:
            Embeddings of the views [B, V, D], fused [B, D], and the weights of the fusion [B, V].
        """
        return self.fuse(self.embed_views(views_nvchw, frames), directions_v3)

    def embed_views(self, views_nvchw: Tensor, frames: PackedFrames | None = None) -> Tensor:
        """Embed views and pool them over time: [N, V, 3, H, W] -> [B, V, D], before `aggregate`."""
        frames = frames or PackedFrames.of_scans(len(views_nvchw), views_nvchw.device)
        return self.temporal(self.embed_frames(views_nvchw), frames)

    def embed_frames(self, views_nvchw: Tensor) -> Tensor:
        """Embed the views of each frame, without pooling over time: [N, V, 3, H, W] -> [N, V, D]."""
        views_nvd: Tensor = self.project_image(self.towers.encode_images(views_nvchw.flatten(0, 1)))
        return views_nvd.unflatten(0, views_nvchw.shape[:2])

    def fuse(self, views_bvd: Tensor, directions_v3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse views [B, V, D] of any subset of a rig.

        Returns:
            Aggregated views [B, V, D], fused [B, D], and the weights of the fusion [B, V].
        """
        views_bvd = self.aggregate(views_bvd, directions_v3)
        return views_bvd, *self.fusion(views_bvd, directions_v3)

    def aggregate(self, views_bvd: Tensor, directions_v3: Tensor) -> Tensor:
        """Exchange information between views [B, V, D] before fusion; the identity unless a system overrides it."""
        return views_bvd

    def embed_text(self, tokens_nt: Tensor) -> Tensor:
        """Token ids [..., T] -> embeddings [..., D]; equal prompts of a batch are encoded once, without padding.

        Tokens on the CPU are compared there, and only different ones are copied; the device is not waited for.
        """
        unique, inverse = torch.unique(tokens_nt.flatten(0, -2).cpu(), dim=0, return_inverse=True)
        device = self.log_scale.device
        embedded: Tensor = self.project_text(self.towers.encode_text(to_device(self.towers.shorten(unique), device)))
        return embedded[to_device(inverse, device)].unflatten(0, tokens_nt.shape[:-1])

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the contrastive losses, clamped to its upper bound."""
        return self.log_scale.clamp(max=self.max_log_scale).exp()

    @property
    def embed_dim(self) -> int:
        """Size of an embedding in the joint space."""
        return self.config.joint_dim

    @property
    def image_size(self) -> int:
        """Height and width of the input images, in pixels."""
        return self.towers.image_size

    @property
    def all_towers(self) -> list[Towers]:
        """Its towers, as a list: a model of several channels has those of each."""
        return [self.towers]


def projector(width_in: int, width: int, width_out: int) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width_out))
