"""Pseudo-labels: assign each embedding to one of a set of named anchors, without any label."""

import torch
import torch.nn.functional as F
from torch import Tensor

ENTROPY = 0.05
"""Temperature of the assignment (SwAV's epsilon)."""
SINKHORN_STEPS = 50
MAX_ROUNDS = 20


def balanced_assignment(
    scores_nk: Tensor, entropy: float = ENTROPY, num_steps: int = SINKHORN_STEPS, shares_k: Tensor | None = None
) -> Tensor:
    """Compute the assignment that agrees best with the scores while all K classes get a fixed share of the N rows.

    It is exp(scores / entropy) with rows and columns scaled in turn (Sinkhorn-Knopp; Cuturi, NeurIPS 2013; as in Caron
    et al., "SwAV", NeurIPS 2020, section 3.1). The computation is in logarithms, so large scores do not overflow.

    Args:
        scores_nk: Agreement of each row with each class, [N, K].
        entropy: Temperature; smaller values give a harder assignment.
        num_steps: Number of scaling steps.
        shares_k: Share of each class, positive and with sum 1, [K]; None for equal ones.

    Returns:
        float64 [N, K]; rows sum to 1, columns to N times their share.
    """
    log = scores_nk.double() / entropy
    num, num_classes = log.shape
    share = torch.log(torch.tensor(num / num_classes, dtype=log.dtype, device=log.device))
    if shares_k is not None:
        share = torch.log(num * shares_k.to(log))
    for _ in range(num_steps):
        log = log - log.logsumexp(dim=0, keepdim=True) + share
        log = log - log.logsumexp(dim=1, keepdim=True)
    return log.exp()


def named_start(embeddings_nd: Tensor, anchors_kd: Tensor, names_n: Tensor) -> tuple[Tensor, Tensor]:
    """Compute where clusters start, and their shares, from names of the embeddings that need no model.

    Args:
        embeddings_nd: Embeddings [N, D], of any length.
        anchors_kd: Where clusters without a named embedding start, [K, D].
        names_n: Class of each embedding, int64 [N]; -1 for an embedding without a name.

    Returns:
        Anchors [K, D], the mean directions of the embeddings of each name; and shares [K], in which each class counts
        as at least one embedding.
    """
    names_n = names_n.to(embeddings_nd.device)
    unit, known = F.normalize(embeddings_nd.double(), dim=-1), names_n >= 0
    sums = torch.zeros_like(anchors_kd, dtype=unit.dtype).index_add_(0, names_n[known], unit[known])
    anchors = torch.where(sums.norm(dim=1, keepdim=True) > 0, sums, anchors_kd.double())
    counts = torch.bincount(names_n[known], minlength=len(anchors_kd)).clamp(min=1).double()
    return anchors, counts / counts.sum()


def pseudo_labels(
    embeddings_nd: Tensor, anchors_kd: Tensor, max_rounds: int = MAX_ROUNDS, shares_k: Tensor | None = None
) -> Tensor:
    """Cluster unit vectors into clusters of about equal size, or of given shares, that start at the anchors.

    MultiviewVLM (arXiv 2505.09336) clusters fused embeddings with the prompts as anchors. Two details are ours: the
    clusters are balanced (`balanced_assignment`), and their centres move from the anchors to the means of their members
    until nothing changes. A cluster keeps the name of the anchor that it started at.

    Args:
        embeddings_nd: Embeddings [N, D], of any length.
        anchors_kd: Anchors [K, D], of any length.
        max_rounds: Upper limit of the number of updates of the centres.
        shares_k: Share of each cluster, [K]; None for equal ones.

    Returns:
        Class of each embedding, int64 [N].
    """
    unit, centres = F.normalize(embeddings_nd.double(), dim=-1), F.normalize(anchors_kd.double(), dim=-1)
    labels = balanced_assignment(unit @ centres.T, shares_k=shares_k).argmax(dim=1)
    for _ in range(max_rounds):
        sums = torch.zeros_like(centres).index_add_(0, labels, unit)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=-1), centres)
        updated = balanced_assignment(unit @ centres.T, shares_k=shares_k).argmax(dim=1)
        if torch.equal(updated, labels):
            break
        labels = updated
    return labels
