"""Reduction of many embeddings of a face to one: pool frames over time for each view, then fuse the views."""

import math

import torch
from torch import Tensor, nn

from smile_pipe.model.config import PoolingKind
from smile_pipe.model.packing import PackedFrames

# Time features: sine and cosine of 1/2, 1, 2 and 4 turns over the sequence, and a flag for a dynamic image.
NUM_OCTAVES = 4
NUM_TIME_FEATURES = 2 * NUM_OCTAVES + 1


class TemporalPooling(nn.Module):
    """Pool the frames of each view: z = sum_t a_t (1 + G p_t) * z_t, a = softmax_t(w . tanh(A z_t + B p_t + b)).

    p_t are the time features of `time_features`. The scores w and the gains G start at 0, so pooling starts as the
    mean. A single frame at time 0, such as a scan, passes unchanged for any weights. The weights a_t select frames. The
    gains may be negative and let a feature become a difference between frames, so that the result depends on the order
    of frames and not only on their mean. The published description has no formula for sequences; this one is ours.
    With `mean`, a_t = 1 / T and there are no gains.
    """

    def __init__(self, dim: int, kind: PoolingKind, hidden: int = 64) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.from_embedding = nn.Linear(dim, hidden)
            self.from_time = nn.Linear(NUM_TIME_FEATURES, hidden, bias=False)
            self.score = nn.Linear(hidden, 1, bias=False)
            self.gain = nn.Linear(NUM_TIME_FEATURES, dim, bias=False)
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.gain.weight)

    def forward(self, embeddings_nvd: Tensor, frames: PackedFrames) -> Tensor:
        """Pool embeddings of packed frames [N, V, D] to one per sample: [B, V, D]."""
        scores_nv = torch.zeros_like(embeddings_nvd[..., 0])
        if self.kind == "attention":
            features = time_features(frames.times).to(embeddings_nvd.dtype)[:, None]
            hidden = torch.tanh(self.from_embedding(embeddings_nvd) + self.from_time(features))
            scores_nv = self.score(hidden).squeeze(-1)
            embeddings_nvd = embeddings_nvd * (1 + self.gain(features))
        weights_btv = frames.to_padded(scores_nv, -math.inf).softmax(dim=1)
        return (weights_btv[..., None] * frames.to_padded(embeddings_nvd, 0.0)).sum(dim=1)


def time_features(times_n: Tensor) -> Tensor:
    """Compute sin(2^k pi t) and cos(2^k pi t) - 1, all 0 at t = 0, and a flag for a dynamic image.

    Returns:
        float [N, `NUM_TIME_FEATURES`]: sines, cosines, flag.
    """
    is_dynamic = (times_n < 0).to(times_n.dtype)
    angles = times_n.clamp(min=0)[:, None] * math.pi * 2.0 ** torch.arange(NUM_OCTAVES, device=times_n.device)
    return torch.cat([angles.sin(), angles.cos() - 1, is_dynamic[:, None]], dim=1)


class ViewFusion(nn.Module):
    """Fuse views: z_f = sum_v a_v z_v, a = softmax_v(w . tanh(A z_v + B d_v)), d_v the unit vector to the camera.

    The published description has "view-aware fusion" and no formula; this one is ours. A view is described by its
    direction and not by its index, so a model accepts any rig and any subset of one.
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.from_embedding = nn.Linear(dim, hidden)
        self.from_direction = nn.Linear(3, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, views_bvd: Tensor, directions_v3: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse views [B, V, D] seen from directions [V, 3]: fused [B, D], and weights [B, V] that sum to 1."""
        hidden = torch.tanh(self.from_embedding(views_bvd) + self.from_direction(directions_v3))
        weights_bv = self.score(hidden).squeeze(-1).softmax(dim=1)
        return torch.einsum("bv,bvd->bd", weights_bv, views_bvd), weights_bv
