"""Loss functions of embeddings, one plain formula per term. `model/README.md` derives them.

A function of `Rows` returns this rank's share of the loss of the joined batch; the shares of all ranks sum to the loss.
A mean over samples is a sum over own rows, divided by the number of rows of all ranks; pairs are own rows with rows of
all ranks. With one rank, a share is the loss.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_pipe.model.distributed import Rows, sum_over_ranks, world_size

EPS = 1e-8
"""Added to variances in cross-correlations."""


def cross_correlation(a_nd: Tensor, b_nd: Tensor) -> Tensor:
    """Compute C = BN(a)^T BN(b) / N, [D, D]: each feature is normalised over the batch, without affine parameters.

    Zbontar et al., "Barlow Twins", ICML 2021, equation 2 (its code divides by the batch's biased deviation, as here).
    """

    def normalise(x: Tensor) -> Tensor:
        return (x - x.mean(dim=0)) * torch.rsqrt(x.var(dim=0, unbiased=False) + EPS)

    return normalise(a_nd).T @ normalise(b_nd) / len(a_nd)


def cross_correlations(pairs: Sequence[tuple[Tensor, Tensor]], num: int) -> Sequence[Tensor]:
    """Compute `cross_correlation` of each pair over the rows of all ranks, equally on all ranks.

    Ranks exchange sums over rows and not rows: means, then variances around these means, then the products, [D, D].

    Args:
        pairs: Own rows of the features a and b, [n, D] each.
        num: Number of rows of all ranks.
    """
    if world_size() == 1:
        return [cross_correlation(*pair) for pair in pairs]
    x_pne = torch.stack([torch.cat(pair, dim=1) for pair in pairs])
    x_pne = x_pne - sum_over_ranks(x_pne.sum(dim=1, keepdim=True)) / num
    variance = sum_over_ranks(x_pne.square().sum(dim=1, keepdim=True)) / num
    a_pnd, b_pnd = (x_pne * torch.rsqrt(variance + EPS)).chunk(2, dim=2)
    return (sum_over_ranks(a_pnd.mT @ b_pnd) / num).unbind()


def off_diagonal_energy(matrix: Tensor) -> Tensor:
    """Sum of the squared elements off the diagonal."""
    return matrix.square().sum() - matrix.diagonal().square().sum()


def multiview_decorrelation(views: Rows, off_diagonal_weight: float) -> Tensor:
    """L_mv: mean over view pairs u < v of [sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2] / D, C of z_u and z_v.

    Barlow Twins, equation 1, between views in place of distortions. The division by D is ours: it keeps the weight of
    the term independent of the embedding's size.

    Args:
        views: Embeddings of the views, [N, V, D]; with a single view the loss is 0.
        off_diagonal_weight: Lambda.
    """
    pairs = [(views.own[:, u], views.own[:, v]) for u, v in combinations(range(views.own.shape[1]), 2)]
    total = views.own.new_zeros(())
    if not pairs:
        return total
    for C in cross_correlations(pairs, views.num):
        total = total + (C.diagonal() - 1).square().sum() + off_diagonal_weight * off_diagonal_energy(C)
    return total / len(pairs) / views.own.shape[-1] / world_size()


def contrast(image: Rows, text: Rows, concepts: Rows, scale: Tensor) -> Tensor:
    """InfoNCE both ways between images and texts, where samples of one concept are positives of each other.

    -1/2N sum_i [mean_{p: c_p = c_i} log softmax_j(s x_i . t_j)_p + the same with x and t exchanged], of unit vectors.
    With all concepts different it is the loss of CLIP (Radford et al., ICML 2021, figure 3); the mean over positives
    follows Khosla et al., "Supervised contrastive learning", NeurIPS 2020, equation 2.

    Args:
        image: Image embeddings, [N, D].
        text: Text embeddings, [N, D].
        concepts: Concept of each sample, [N].
        scale: Inverse temperature s.
    """
    logits = _logits(image.own, text.all, scale)
    # With one rank the logits of the texts are the same numbers: one product is enough.
    logits_of_text = logits.T if image.own is image.all else _logits(text.own, image.all, scale)
    same = (concepts.own[:, None] == concepts.all[None, :]).to(logits.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    return (_cross_entropy(logits, target, image.num) + _cross_entropy(logits_of_text, target, image.num)) / 2


def vision_language_contrast(fused: Rows, views: Rows, text: Rows, concepts: Rows, scale: Tensor) -> Tensor:
    """L_vl = contrast(z_f, t) + mean_v contrast(z_v, t): the text against the fused embedding and each single view."""
    single = [contrast(view, text, concepts, scale) for view in each_view(views)]
    return contrast(fused, text, concepts, scale) + torch.stack(single).mean()


def cross_modal_redundancy(fused: Rows, text: Rows) -> Tensor:
    """L_cm = sum_{i != j} C_ij^2 / D, C of z_f and t: penalise correlation of different features of the modalities.

    The diagonal has no penalty: pushing it to zero would work against L_vl, which aligns equal features.
    """
    (C,) = cross_correlations([(fused.own, text.own)], fused.num)
    return off_diagonal_energy(C) / len(C) / world_size()


def multiview_contrast(rows: Rows, concepts: Rows, numbers: Rows, margin: Tensor) -> Tensor:
    """L_mc = mean over pairs of [1 - s] for equal concepts, and of max(0, s - margin) for different ones.

    s is the cosine. AffectVLM (arXiv 2504.19739) has sums. The mean over all pairs is ours: it keeps the term
    independent of the batch size. A pair consists of two different rows.

    Args:
        rows: Embeddings, [M, D].
        concepts: Concept of each embedding, [M].
        numbers: A different number for each embedding, [M].
        margin: Margin, a scalar tensor that may be learned.
    """
    unit = rows.map(lambda x: F.normalize(x, dim=-1))
    similarity = unit.own @ unit.all.T
    same = concepts.own[:, None] == concepts.all[None, :]
    others = numbers.own[:, None] != numbers.all[None, :]
    costs = torch.where(same, 1 - similarity, F.relu(similarity - margin)) * others
    return costs.sum() / max(rows.num * (rows.num - 1), 1)


def multiview_triplet(anchors: Rows, anchor_concepts: Rows, rows: Rows, concepts: Rows, margin: Tensor) -> Tensor:
    """L_mt = mean of |a - p|^2 - |a - n|^2 + margin over the triplets for which it is positive, of unit vectors.

    AffectVLM (arXiv 2504.19739) does not publish which triplets it takes. Ours are all triplets of an anchor a, a row p
    of its concept and a row n of another concept; triplets that satisfy the margin are excluded from the mean (Hermans
    et al., "In defense of the triplet loss", 2017, batch all without zeros). With the hardest triplets alone, all
    embeddings collapse to one point, where each triplet costs the margin (model/README.md).

    The triplets are never formed. The sum over the triplets of a and p follows from the number of rows n that are
    closer than |a - p|^2 + margin, and from the sum of their distances: time N M log M, memory N M.

    Args:
        anchors: Anchors, [N, D].
        anchor_concepts: Concept of each anchor, [N].
        rows: Candidates for positives and negatives, [M, D].
        concepts: Concept of each candidate, [M].
        margin: Margin, a scalar tensor that may be learned.
    """
    distance = 2 - 2 * F.normalize(anchors.own, dim=-1) @ F.normalize(rows.all, dim=-1).T
    same = anchor_concepts.own[:, None] == concepts.all[None, :]
    limit = distance + margin
    negatives = distance.masked_fill(same, torch.inf).sort(dim=1).values
    count = torch.searchsorted(negatives.detach(), limit.detach()).masked_fill(~same, 0)
    # sums[:, k] is the sum over the k nearest negatives.
    sums = F.pad(negatives.masked_fill(negatives.isinf(), 0).cumsum(dim=1), (1, 0))
    return (count * limit - sums.gather(1, count)).sum() / sum_over_ranks(count.sum()).clamp_min(1)


def stable_contrast(anchors: Rows, others: Rows, concepts: Rows, subjects: Rows, scale: Tensor) -> Tensor:
    """InfoNCE of anchors against others, where positives share the concept and negatives neither concept nor subject.

    The stable sampling of MultiviewVLM (arXiv 2505.09336): a pair of the same subject with different pseudo-labels is
    most likely labelled wrongly, so it counts neither as positive nor as negative. The mean over positives is as in
    `contrast`.
    """
    same = concepts.own[:, None] == concepts.all[None, :]
    usable = same | (subjects.own[:, None] != subjects.all[None, :])
    logits = _logits(anchors.own, others.all, scale)
    target = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
    # Not minus infinity: infinity times a target of 0 is NaN.
    return _cross_entropy(logits.masked_fill(~usable, -1e4), target, anchors.num)


def text_guidance(attention: Rows, views: Rows, text: Rows, scale: Tensor) -> Tensor:
    """KL(g || a), mean over samples: g = softmax over views of scale cos(z_v, t), without gradient.

    FACET-VLM's multiview text-guided fusion (arXiv 2507.01673) names no formula. Ours trains the weights a of the
    fusion towards the weights that the text implies, so that fusion without text approximates fusion with it.

    Args:
        attention: Weights of the fusion, [N, V].
        views: Embeddings of the views, [N, V, D].
        text: Embeddings of the text, [N, D].
        scale: Inverse temperature.
    """
    with torch.no_grad():
        cosine = torch.einsum("nvd,nd->nv", F.normalize(views.own, dim=-1), F.normalize(text.own, dim=-1))
        guide = (scale * cosine).softmax(dim=1)
    return F.kl_div(attention.own.clamp_min(1e-12).log(), guide, reduction="sum") / views.num


def view_agreement(fused: Rows, views: Rows, text: Rows, scale: Tensor) -> Tensor:
    """Mean over views of KL(q_f || q_v): q = softmax over the batch's texts of scale cos(z, t), q_f without gradient.

    FACET-VLM's multiview consistency (arXiv 2507.01673); the formula is ours: the distribution over texts of each
    single view approaches that of the fused embedding.
    """
    texts = F.normalize(text.all, dim=-1).T
    of_fused = (scale.detach() * F.normalize(fused.own, dim=-1).detach() @ texts.detach()).softmax(dim=1)
    of_views = (scale * F.normalize(views.own, dim=-1) @ texts).log_softmax(dim=2)
    return torch.stack([F.kl_div(q, of_fused, reduction="sum") / views.num for q in of_views.unbind(1)]).mean()


def caption_preference(fused: Rows, text: Rows, false_text: Rows, scale: Tensor) -> Tensor:
    """-log sigmoid(scale (cos(z_f, t) - cos(z_f, t'))) of the true caption t against the false one t'.

    A sample whose false text is its true one adds log 2, and has no gradient.
    """
    z, t, f = (F.normalize(rows.own, dim=-1) for rows in (fused, text, false_text))
    return F.softplus(-scale * (z * (t - f)).sum(dim=-1)).sum() / fused.num


def class_cross_entropy(
    fused: Rows, anchors_kd: Tensor, classes: Rows, scale: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of softmax_k(scale cos(z_f, w_k)) against the class, with one learned anchor w_k per class."""
    return _cross_entropy(_logits(fused.own, anchors_kd, scale), classes.own, fused.num, label_smoothing)


def anchor_alignment(anchors_kd: Tensor, texts_kd: Tensor, scale: Tensor) -> Tensor:
    """-mean_k log softmax_c(scale cos(w_c, t_k))_k: of all anchors, that of class k is nearest to the text of k."""
    logits = _logits(texts_kd, anchors_kd, scale)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def prototype_distance(fused: Rows, prototypes_kd: Tensor, classes: Rows) -> Tensor:
    """Mean of |z_f - mu_y|^2 of unit vectors; the prototypes mu have no gradient."""
    targets = F.normalize(prototypes_kd.detach(), dim=-1)[classes.own]
    return (F.normalize(fused.own, dim=-1) - targets).square().sum() / fused.num


def each_view(views: Rows) -> list[Rows]:
    """Embeddings of single views, [N, D] each, of [N, V, D]."""

    def select(v: int) -> Rows:
        return views.map(lambda x: x[:, v])

    return [select(v) for v in range(views.own.shape[1])]


def _logits(a_nd: Tensor, b_md: Tensor, scale: Tensor) -> Tensor:
    return scale * F.normalize(a_nd, dim=-1) @ F.normalize(b_md, dim=-1).T


def _cross_entropy(logits_nk: Tensor, target: Tensor, num: int, label_smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(logits_nk, target, reduction="sum", label_smoothing=label_smoothing) / num
