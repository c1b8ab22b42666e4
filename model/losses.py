"""The losses, each a function of embeddings alone: plain formulas, one term each. `model/README.md` derives them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_correlation(a_nd: Tensor, b_nd: Tensor, eps: float = 1e-8) -> Tensor:
    """C = BN(a)^T BN(b) / N, [D, D]: each feature normalised over the batch, without affine parameters.

    Zbontar et al., "Barlow Twins", ICML 2021, equation 2 (its code divides by the batch's biased deviation, as here).
    """

    def normalise(x: Tensor) -> Tensor:
        return (x - x.mean(dim=0)) * torch.rsqrt(x.var(dim=0, unbiased=False) + eps)

    return normalise(a_nd).T @ normalise(b_nd) / len(a_nd)


def off_diagonal_energy(matrix: Tensor) -> Tensor:
    """Sum of the squares off the diagonal."""
    return matrix.square().sum() - matrix.diagonal().square().sum()


def multiview_decorrelation(views_nvd: Tensor, off_diagonal_weight: float) -> Tensor:
    """L_mv: mean over view pairs u < v of [sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2] / D, C of z_u and z_v.

    Barlow Twins, equation 1, between views in place of distortions. The division by D is ours: it keeps the weight of
    the term independent of the embedding's size.
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
    """
    logits = scale * F.normalize(image_nd, dim=-1) @ F.normalize(text_nd, dim=-1).T
    same = (concepts_n[:, None] == concepts_n[None, :]).to(logits.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def vision_language_contrast(
    fused_nd: Tensor, views_nvd: Tensor, text_nd: Tensor, concepts_n: Tensor, scale: Tensor
) -> Tensor:
    """L_vl = contrast(z_f, t) + mean_v contrast(z_v, t): the fused embedding and each single view meet the text."""
    single = [contrast(views_nvd[:, v], text_nd, concepts_n, scale) for v in range(views_nvd.shape[1])]
    return contrast(fused_nd, text_nd, concepts_n, scale) + torch.stack(single).mean()


def cross_modal_redundancy(fused_nd: Tensor, text_nd: Tensor) -> Tensor:
    """L_cm = sum_{i != j} C_ij^2 / D, C of z_f and t: a feature of one modality does not repeat another of the other.

    The diagonal is left alone: pushing it to zero would fight L_vl, which aligns equal features.
    """
    return off_diagonal_energy(cross_correlation(fused_nd, text_nd)) / fused_nd.shape[1]
