"""Loss functions of embeddings, one plain formula per term. `model/README.md` derives them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_correlation(a_nd: Tensor, b_nd: Tensor, eps: float = 1e-8) -> Tensor:
    """Compute C = BN(a)^T BN(b) / N, [D, D]: each feature is normalised over the batch, without affine parameters.

    Zbontar et al., "Barlow Twins", ICML 2021, equation 2 (its code divides by the batch's biased deviation, as here).
    """

    def normalise(x: Tensor) -> Tensor:
        return (x - x.mean(dim=0)) * torch.rsqrt(x.var(dim=0, unbiased=False) + eps)

    return normalise(a_nd).T @ normalise(b_nd) / len(a_nd)


def off_diagonal_energy(matrix: Tensor) -> Tensor:
    """Sum of the squared elements off the diagonal."""
    return matrix.square().sum() - matrix.diagonal().square().sum()


def multiview_decorrelation(views_nvd: Tensor, off_diagonal_weight: float) -> Tensor:
    """L_mv: mean over view pairs u < v of [sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2] / D, C of z_u and z_v.

    Barlow Twins, equation 1, between views in place of distortions. The division by D is ours: it keeps the weight of
    the term independent of the embedding's size.

    Args:
        views_nvd: Embeddings of the views, [N, V, D]; with a single view the loss is 0.
        off_diagonal_weight: Lambda.
    """
    num_views, dim = views_nvd.shape[1:]
    pairs = torch.combinations(torch.arange(num_views), 2).tolist()
    if not pairs:
        return views_nvd.new_zeros(())
    total = views_nvd.new_zeros(())
    for u, v in pairs:
        C = cross_correlation(views_nvd[:, u], views_nvd[:, v])
        total = total + (C.diagonal() - 1).square().sum() + off_diagonal_weight * off_diagonal_energy(C)
    return total / len(pairs) / dim


def contrast(image_nd: Tensor, text_nd: Tensor, concepts_n: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE both ways between images and texts, where samples of one concept are positives of each other.

    -1/2N sum_i [mean_{p: c_p = c_i} log softmax_j(s x_i . t_j)_p + the same with x and t exchanged], of unit vectors.
    With all concepts different it is the loss of CLIP (Radford et al., ICML 2021, figure 3); the mean over positives
    follows Khosla et al., "Supervised contrastive learning", NeurIPS 2020, equation 2.

    Args:
        image_nd: Image embeddings, [N, D].
        text_nd: Text embeddings, [N, D].
        concepts_n: Concept of each sample, [N].
        scale: Inverse temperature s.
    """
    logits = scale * F.normalize(image_nd, dim=-1) @ F.normalize(text_nd, dim=-1).T
    same = (concepts_n[:, None] == concepts_n[None, :]).to(logits.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def vision_language_contrast(
    fused_nd: Tensor, views_nvd: Tensor, text_nd: Tensor, concepts_n: Tensor, scale: Tensor
) -> Tensor:
    """L_vl = contrast(z_f, t) + mean_v contrast(z_v, t): the text against the fused embedding and each single view."""
    single = [contrast(views_nvd[:, v], text_nd, concepts_n, scale) for v in range(views_nvd.shape[1])]
    return contrast(fused_nd, text_nd, concepts_n, scale) + torch.stack(single).mean()


def cross_modal_redundancy(fused_nd: Tensor, text_nd: Tensor) -> Tensor:
    """L_cm = sum_{i != j} C_ij^2 / D, C of z_f and t: penalise correlation of different features of the modalities.

    The diagonal has no penalty: pushing it to zero would work against L_vl, which aligns equal features.
    """
    return off_diagonal_energy(cross_correlation(fused_nd, text_nd)) / fused_nd.shape[1]


def multiview_contrast(rows_md: Tensor, concepts_m: Tensor, margin: Tensor) -> Tensor:
    """L_mc = mean over pairs of [1 - s] for equal concepts, and of max(0, s - margin) for different ones.

    s is the cosine. AffectVLM (arXiv 2504.19739) has sums. The mean over all pairs is ours: it keeps the term
    independent of the batch size. A pair consists of two different rows.
    """
    unit = F.normalize(rows_md, dim=-1)
    similarity = unit @ unit.T
    same = concepts_m[:, None] == concepts_m[None, :]
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return _mean_where(torch.where(same, 1 - similarity, F.relu(similarity - margin)), others)


def multiview_triplet(
    anchors_nd: Tensor, anchor_concepts_n: Tensor, rows_md: Tensor, concepts_m: Tensor, margin: Tensor
) -> Tensor:
    """L_mt = mean of |a - p|^2 - |a - n|^2 + margin over the triplets for which it is positive, of unit vectors.

    AffectVLM (arXiv 2504.19739) does not publish which triplets it takes. Ours are all triplets of an anchor a, a row p
    of its concept and a row n of another concept; triplets that satisfy the margin are excluded from the mean (Hermans
    et al., "In defense of the triplet loss", 2017, batch all without zeros). With the hardest triplets alone, all
    embeddings collapse to one point, where each triplet costs the margin (model/README.md).

    The triplets are never formed. The sum over the triplets of a and p follows from the number of rows n that are
    closer than |a - p|^2 + margin, and from the sum of their distances: time N M log M, memory N M.

    Args:
        anchors_nd: Anchors, [N, D].
        anchor_concepts_n: Concept of each anchor, [N].
        rows_md: Candidates for positives and negatives, [M, D].
        concepts_m: Concept of each candidate, [M].
        margin: Margin, a scalar tensor that may be learned.
    """
    distance = 2 - 2 * F.normalize(anchors_nd, dim=-1) @ F.normalize(rows_md, dim=-1).T
    same = anchor_concepts_n[:, None] == concepts_m[None, :]
    limit = distance + margin
    negatives = distance.masked_fill(same, torch.inf).sort(dim=1).values
    count = torch.searchsorted(negatives.detach(), limit.detach()).masked_fill(~same, 0)
    # sums[:, k] is the sum over the k nearest negatives.
    sums = F.pad(negatives.masked_fill(negatives.isinf(), 0).cumsum(dim=1), (1, 0))
    return (count * limit - sums.gather(1, count)).sum() / count.sum().clamp_min(1)


def stable_contrast(
    anchors_nd: Tensor, others_nd: Tensor, concepts_n: Tensor, subjects_n: Tensor, scale: Tensor
) -> Tensor:
    """InfoNCE of anchors against others, where positives share the concept and negatives neither concept nor subject.

    The stable sampling of MultiviewVLM (arXiv 2505.09336): a pair of the same subject with different pseudo-labels is
    most likely labelled wrongly, so it counts neither as positive nor as negative. The mean over positives is as in
    `contrast`.
    """
    same = concepts_n[:, None] == concepts_n[None, :]
    usable = same | (subjects_n[:, None] != subjects_n[None, :])
    logits = scale * F.normalize(anchors_nd, dim=-1) @ F.normalize(others_nd, dim=-1).T
    target = same.to(logits.dtype) / same.sum(dim=1, keepdim=True)
    # Not minus infinity: infinity times a target of 0 is NaN.
    return F.cross_entropy(logits.masked_fill(~usable, -1e4), target)


def text_guidance(attention_nv: Tensor, views_nvd: Tensor, text_nd: Tensor, scale: Tensor) -> Tensor:
    """KL(g || a), mean over samples: g = softmax over views of scale cos(z_v, t), without gradient.

    FACET-VLM's multiview text-guided fusion (arXiv 2507.01673) names no formula. Ours trains the weights a of the
    fusion towards the weights that the text implies, so that fusion without text approximates fusion with it.

    Args:
        attention_nv: Weights of the fusion, [N, V].
        views_nvd: Embeddings of the views, [N, V, D].
        text_nd: Embeddings of the text, [N, D].
        scale: Inverse temperature.
    """
    with torch.no_grad():
        cosine = torch.einsum("nvd,nd->nv", F.normalize(views_nvd, dim=-1), F.normalize(text_nd, dim=-1))
        guide = (scale * cosine).softmax(dim=1)
    return F.kl_div(attention_nv.clamp_min(1e-12).log(), guide, reduction="batchmean")


def view_agreement(fused_nd: Tensor, views_nvd: Tensor, text_nd: Tensor, scale: Tensor) -> Tensor:
    """Mean over views of KL(q_f || q_v): q = softmax over the batch's texts of scale cos(z, t), q_f without gradient.

    FACET-VLM's multiview consistency (arXiv 2507.01673); the formula is ours: the distribution over texts of each
    single view approaches that of the fused embedding.
    """
    text = F.normalize(text_nd, dim=-1).T
    fused = (scale.detach() * F.normalize(fused_nd, dim=-1).detach() @ text.detach()).softmax(dim=1)
    single = (scale * F.normalize(views_nvd, dim=-1) @ text).log_softmax(dim=2)
    return torch.stack([F.kl_div(single[:, v], fused, reduction="batchmean") for v in range(views_nvd.shape[1])]).mean()


def class_cross_entropy(fused_nd: Tensor, anchors_kd: Tensor, classes_n: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of softmax_k(scale cos(z_f, w_k)) against the class, with one learned anchor w_k per class."""
    return F.cross_entropy(scale * F.normalize(fused_nd, dim=-1) @ F.normalize(anchors_kd, dim=-1).T, classes_n)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where `mask` is set; 0, with a gradient of 0, where it is set nowhere."""
    return (values * mask).sum() / mask.sum().clamp_min(1)
