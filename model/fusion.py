"""From many embeddings of a face to one: its moments are pooled over time, view by view, then its views are fused."""

import math

import torch
from torch import Tensor, nn

from smile_pipe.model.config import PoolingKind
from smile_pipe.model.packing import PackedFrames

# Sines and cosines of half a turn over the sequence, a whole one, two and four; and whether it is a dynamic image.
NUM_OCTAVES = 4
NUM_TIME_FEATURES = 2 * NUM_OCTAVES + 1


class TemporalPooling(nn.Module):
    """Of each view z = sum_t a_t (1 + G p_t) * z_t, a = softmax over the moments of w . tanh(A z_t + B p_t + b).

    p_t are sinusoids of the time, which are 0 at time 0, and a slot of its own for the dynamic image. The scores w
    begin at 0 and so do the gains G: pooling begins as the mean. A moment at time 0 that is alone, as a scan is, passes
    unchanged whatever the weights. The weights tell which moments count; the gains, which may be negative, let a
    feature become a difference between moments, so that the order of frames is told and not their mean alone. The
    published description has no formula for sequences; this one is ours. `mean` is a_t = 1 / T and no gains.
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

    def forward(self, moments_nvd: Tensor, moments: PackedFrames) -> Tensor:
        """Pool the moments [N, V, D] of a batch of faces: [B, V, D]."""
        scores_nv = torch.zeros_like(moments_nvd[..., 0])
        if self.kind == "attention":
            features = time_features(moments.times).to(moments_nvd.dtype)[:, None]
            hidden = torch.tanh(self.from_embedding(moments_nvd) + self.from_time(features))
            scores_nv = self.score(hidden).squeeze(-1)
            moments_nvd = moments_nvd * (1 + self.gain(features))
        weights_btv = moments.pad(scores_nv, -math.inf).softmax(dim=1)
        return (weights_btv[..., None] * moments.pad(moments_nvd, 0.0)).sum(dim=1)


def time_features(times_n: Tensor) -> Tensor:
    """[N, `NUM_TIME_FEATURES`]: sin(2^k pi t) and cos(2^k pi t) - 1, all 0 at t = 0; the last tells a dynamic image."""
    is_dynamic = (times_n < 0).to(times_n.dtype)
    angles = times_n.clamp(min=0)[:, None] * math.pi * 2.0 ** torch.arange(NUM_OCTAVES, device=times_n.device)
    return torch.cat([angles.sin(), angles.cos() - 1, is_dynamic[:, None]], dim=1)


class ViewFusion(nn.Module):
    """z_f = sum_v a_v z_v, a = softmax over the views of a small score that knows from where each view looks.

    score(z, d) = w . tanh(A z + B d), with d the unit vector towards the camera. The published description has
    "view-aware fusion" and no formula; this one is ours. Because a view is described by its direction and not by its
    number, a model takes any rig, and any subset of one.
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.from_embedding = nn.Linear(dim, hidden)
        self.from_direction = nn.Linear(3, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, views_bvd: Tensor, directions_v3: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse views [B, V, D] seen from directions [V, 3]: fused [B, D], weights [B, V] that sum to 1."""
        hidden = torch.tanh(self.from_embedding(views_bvd) + self.from_direction(directions_v3))
        weights_bv = self.score(hidden).squeeze(-1).softmax(dim=1)
        return torch.einsum("bv,bvd->bd", weights_bv, views_bvd), weights_bv
