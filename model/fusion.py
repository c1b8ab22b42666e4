"""View-aware fusion: one embedding of a face from the embeddings of its views."""

import torch
from torch import Tensor, nn


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
