"""Pseudo-labels: which of some named anchors each embedding belongs to, told without any label."""

import torch
import torch.nn.functional as F
from torch import Tensor

ENTROPY = 0.05
"""Temperature of the assignment (SwAV's epsilon)."""
SINKHORN_STEPS = 50
MAX_ROUNDS = 20


def balanced_assignment(scores_nk: Tensor, entropy: float = ENTROPY, num_steps: int = SINKHORN_STEPS) -> Tensor:
    """The assignment [N, K] that agrees best with the scores where all K are given the same share of the N.

    Rows sum to 1, columns to N / K: exp(scores / entropy) with rows and columns scaled in turn (Sinkhorn-Knopp; Cuturi,
    NeurIPS 2013; as in Caron et al., "SwAV", NeurIPS 2020, section 3.1). In logarithms, so that no score is too large.
    """
    log = scores_nk.double() / entropy
    num, num_classes = log.shape
    share = torch.log(torch.tensor(num / num_classes, dtype=log.dtype, device=log.device))
    for _ in range(num_steps):
        log = log - log.logsumexp(dim=0, keepdim=True) + share
        log = log - log.logsumexp(dim=1, keepdim=True)
    return log.exp()


def pseudo_labels(embeddings_nd: Tensor, anchors_kd: Tensor, max_rounds: int = MAX_ROUNDS) -> Tensor:
    """A class for each embedding, int64 [N]: clusters of unit vectors, of about equal size, that begin at the anchors.

    MultiviewVLM (arXiv 2505.09336) clusters fused embeddings against the prompts as anchors; that the clusters are
    balanced (`balanced_assignment`) and that their centres move, from the anchors to the means of their members, until
    nothing changes, is ours. A cluster keeps the name of the anchor that it began at.
    """
    unit, centres = F.normalize(embeddings_nd.double(), dim=-1), F.normalize(anchors_kd.double(), dim=-1)
    labels = balanced_assignment(unit @ centres.T).argmax(dim=1)
    for _ in range(max_rounds):
        sums = torch.zeros_like(centres).index_add_(0, labels, unit)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=-1), centres)
        moved = balanced_assignment(unit @ centres.T).argmax(dim=1)
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels
