"""Pseudo-labels: assign each embedding to one of a set of named anchors, without any label."""

import torch
import torch.nn.functional as F
from torch import Tensor

ENTROPY = 0.05
"""Temperature of the assignment (SwAV's epsilon)."""
SINKHORN_STEPS = 50
MAX_ROUNDS = 20


def balanced_assignment(scores_nk: Tensor, entropy: float = ENTROPY, num_steps: int = SINKHORN_STEPS) -> Tensor:
    """Compute the assignment that agrees best with the scores while all K classes get an equal share of the N rows.

    It is exp(scores / entropy) with rows and columns scaled in turn (Sinkhorn-Knopp; Cuturi, NeurIPS 2013; as in Caron
    et al., "SwAV", NeurIPS 2020, section 3.1). The computation is in logarithms, so large scores do not overflow.

    Args:
        scores_nk: Agreement of each row with each class, [N, K].
        entropy: Temperature; smaller values give a harder assignment.
        num_steps: Number of scaling steps.

    Returns:
        float64 [N, K]; rows sum to 1, columns to N / K.
    """
    log = scores_nk.double() / entropy
    num, num_classes = log.shape
    share = torch.log(torch.tensor(num / num_classes, dtype=log.dtype, device=log.device))
    for _ in range(num_steps):
        log = log - log.logsumexp(dim=0, keepdim=True) + share
        log = log - log.logsumexp(dim=1, keepdim=True)
    return log.exp()


def pseudo_labels(embeddings_nd: Tensor, anchors_kd: Tensor, max_rounds: int = MAX_ROUNDS) -> Tensor:
    """Cluster unit vectors into clusters of about equal size that start at the anchors.

    MultiviewVLM (arXiv 2505.09336) clusters fused embeddings with the prompts as anchors. Two details are ours: the
    clusters are balanced (`balanced_assignment`), and their centres move from the anchors to the means of their members
    until nothing changes. A cluster keeps the name of the anchor that it started at.

    Args:
        embeddings_nd: Embeddings [N, D], of any length.
        anchors_kd: Anchors [K, D], of any length.
        max_rounds: Upper limit of the number of updates of the centres.

    Returns:
        Class of each embedding, int64 [N].
    """
    unit, centres = F.normalize(embeddings_nd.double(), dim=-1), F.normalize(anchors_kd.double(), dim=-1)
    labels = balanced_assignment(unit @ centres.T).argmax(dim=1)
    for _ in range(max_rounds):
        sums = torch.zeros_like(centres).index_add_(0, labels, unit)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=-1), centres)
        updated = balanced_assignment(unit @ centres.T).argmax(dim=1)
        if torch.equal(updated, labels):
            break
        labels = updated
    return labels
