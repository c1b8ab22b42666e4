"""Every loss against a plain reference: loops over samples, features and pairs, in double precision."""

import itertools
import math

import pytest
import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from helpers.one_rank import on_one_rank
from smile_pipe.model import losses
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.losses import cross_correlation, off_diagonal_energy

contrast = on_one_rank(losses.contrast)
cross_modal_redundancy = on_one_rank(losses.cross_modal_redundancy)
multiview_decorrelation = on_one_rank(losses.multiview_decorrelation)
vision_language_contrast = on_one_rank(losses.vision_language_contrast)

LAMBDA = 0.0051
CONCEPTS = torch.tensor([0, 1, 0, 2, 1, 0])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decorrelated(num: int, dim: int) -> Tensor:
    """Features of mean 0 that are orthogonal to each other over the batch: their correlation is the identity."""
    return torch.linalg.qr(torch.cat([torch.ones(num, 1), randn(num, dim)], dim=1).double()).Q[:, 1:]


def plain_correlation(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """Pearson's r of each feature of `a` with each of `b`, by its definition."""
    num, dim = len(a), len(a[0])
    table = [[0.0] * dim for _ in range(dim)]
    for i, j in itertools.product(range(dim), range(dim)):
        x, y = [row[i] for row in a], [row[j] for row in b]
        mean_x, mean_y = sum(x) / num, sum(y) / num
        covariance = sum((p - mean_x) * (q - mean_y) for p, q in zip(x, y, strict=True))
        norm = math.sqrt(sum((p - mean_x) ** 2 for p in x) * sum((q - mean_y) ** 2 for q in y))
        table[i][j] = covariance / norm
    return table


def plain_barlow_twins(a: Tensor, b: Tensor, weight: float) -> float:
    C, dim = plain_correlation(a.tolist(), b.tolist()), a.shape[1]
    on = sum((C[i][i] - 1) ** 2 for i in range(dim))
    off = sum(C[i][j] ** 2 for i in range(dim) for j in range(dim) if i != j)
    return (on + weight * off) / dim


def plain_contrast(image: Tensor, text: Tensor, concepts: list[int], scale: float) -> float:
    """The mean over anchors, both ways, of minus the mean log-probability of the anchor's positives."""

    def cosine(x: list[float], y: list[float]) -> float:
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))

    def one_way(anchors: list[list[float]], others: list[list[float]]) -> float:
        total = 0.0
        for i, anchor in enumerate(anchors):
            logits = [scale * cosine(anchor, other) for other in others]
            log_sum = math.log(sum(math.exp(logit) for logit in logits))
            positives = [j for j in range(len(others)) if concepts[j] == concepts[i]]
            total -= sum(logits[j] - log_sum for j in positives) / len(positives)
        return total / len(anchors)

    images, texts = image.tolist(), text.tolist()
    return (one_way(images, texts) + one_way(texts, images)) / 2


class TestCrossCorrelation:
    def test_pearson_correlation(self):
        a, b = randn(7, 3, seed=1) * 5 + 2, randn(7, 3, seed=2)
        expected = torch.tensor(plain_correlation(a.tolist(), b.tolist()), dtype=torch.float64)
        torch.testing.assert_close(cross_correlation(a, b), expected, rtol=1e-6, atol=1e-7)

    def test_rows_belong_to_the_first_argument(self):
        a, b = randn(64, 2, seed=3), randn(64, 2, seed=4)
        b[:, 1] = a[:, 0]
        C = cross_correlation(a, b)
        assert C[0, 1] > 0.99 and C[1, 0].abs() < 0.5

    def test_off_diagonal_energy_is_the_sum_of_squares_off_the_diagonal(self):
        assert off_diagonal_energy(torch.tensor([[9.0, 2.0], [3.0, 9.0]])) == 13


class TestMultiviewDecorrelation:
    @pytest.mark.parametrize("num_views", [2, 3, 4])
    def test_mean_of_barlow_twins_over_pairs_of_views(self, num_views):
        views = randn(6, num_views, 3, seed=5)
        pairs = list(itertools.combinations(range(num_views), 2))
        expected = sum(plain_barlow_twins(views[:, u], views[:, v], LAMBDA) for u, v in pairs) / len(pairs)
        assert float(multiview_decorrelation(views, LAMBDA)) == pytest.approx(expected, rel=1e-6)

    def test_zero_for_equal_views_with_decorrelated_features(self):
        views = decorrelated(16, 5)[:, None].expand(16, 3, 5)
        assert float(multiview_decorrelation(views, 1.0)) < 1e-9

    def test_redundant_features_cost_lambda(self):
        feature = randn(16, 1, seed=6)
        views = feature[:, None].expand(16, 2, 4)
        # Each of the 4 * 3 off-diagonal correlations is 1; the sum is divided by the 4 features.
        assert float(multiview_decorrelation(views, LAMBDA)) == pytest.approx(LAMBDA * 3, rel=1e-5)

    def test_unrelated_views_cost_one(self):
        joint = decorrelated(32, 8)
        views = torch.stack([joint[:, :4], joint[:, 4:]], dim=1)
        assert float(multiview_decorrelation(views, LAMBDA)) == pytest.approx(1.0, rel=1e-6)

    def test_collapse_costs_one(self):
        collapsed = randn(1, 1, 4, seed=7).expand(16, 2, 4)
        almost = collapsed + 1e-9 * randn(16, 2, 4, seed=8)
        assert float(multiview_decorrelation(collapsed, LAMBDA)) == pytest.approx(1.0, rel=1e-6)
        assert float(multiview_decorrelation(almost, LAMBDA)) > 0.9

    def test_invariant_to_scale_and_shift_of_features(self):
        views = randn(12, 2, 3, seed=9)
        moved = views * torch.tensor([3.0, 0.5, 40.0]) - 7
        assert float(multiview_decorrelation(moved, LAMBDA)) == pytest.approx(
            float(multiview_decorrelation(views, LAMBDA)), rel=1e-6
        )

    @pytest.mark.parametrize("dim", [16, 128, 1024])
    def test_by_default_one_feature_in_all_costs_several_times_more_than_no_invariance(self, dim):
        """Otherwise nothing prevents an embedding of rank 1."""
        weight = RecipeConfig(joint_dim=dim).redundancy_weight
        one_feature = randn(64, 1, 1, seed=11).expand(64, 3, dim)
        assert float(multiview_decorrelation(one_feature, weight)) > 5

    def test_zero_for_a_single_view(self):
        assert float(multiview_decorrelation(randn(4, 1, 3), LAMBDA)) == 0


class TestContrast:
    def test_mean_over_anchors_and_positives(self):
        image, text = randn(6, 4, seed=10), randn(6, 4, seed=11)
        expected = plain_contrast(image, text, CONCEPTS.tolist(), 5.0)
        assert float(contrast(image, text, CONCEPTS, torch.tensor(5.0))) == pytest.approx(expected, rel=1e-9)

    def test_equals_clip_loss_for_distinct_concepts(self):
        image, text = randn(8, 4, seed=12).float(), randn(8, 4, seed=13).float()
        unit = torch.nn.functional.normalize
        expected = ClipLoss()(unit(image, dim=-1), unit(text, dim=-1), torch.tensor(14.0))
        torch.testing.assert_close(contrast(image, text, torch.arange(8), torch.tensor(14.0)), expected)

    def test_equal_prompts_are_not_negatives(self):
        # Two concepts, each with one text, and images that match them: the least that can be had is log 2, the
        # entropy of two equal positives. Were the second of them a negative, pushing it away would cost less.
        text = torch.eye(2, dtype=torch.float64).repeat_interleave(2, dim=0)
        same = torch.tensor([0, 0, 1, 1])
        best = float(contrast(text, text, same, torch.tensor(100.0)))
        assert best == pytest.approx(math.log(2), abs=1e-6)
        image = text.clone().requires_grad_()
        contrast(image, text, same, torch.tensor(100.0)).backward()
        assert image.grad.abs().max() < 1e-6

    def test_only_directions_matter(self):
        image, text = randn(6, 4, seed=14), randn(6, 4, seed=15)
        lengths = torch.arange(1, 7)[:, None]
        torch.testing.assert_close(
            contrast(image * lengths, text / lengths, CONCEPTS, torch.tensor(5.0)),
            contrast(image, text, CONCEPTS, torch.tensor(5.0)),
        )

    def test_matching_costs_less_than_not_matching(self):
        text = randn(5, 8, seed=16)
        aligned, crossed = (contrast(x, text, torch.arange(5), torch.tensor(10.0)) for x in (text, text.roll(1, 0)))
        assert aligned < 0.2 < crossed

    def test_sum_over_fused_embedding_and_mean_view(self):
        fused, views, text = randn(6, 4, seed=17), randn(6, 3, 4, seed=18), randn(6, 4, seed=19)
        single = sum(plain_contrast(views[:, v], text, CONCEPTS.tolist(), 5.0) for v in range(3)) / 3
        expected = plain_contrast(fused, text, CONCEPTS.tolist(), 5.0) + single
        found = vision_language_contrast(fused, views, text, CONCEPTS, torch.tensor(5.0))
        assert float(found) == pytest.approx(expected, rel=1e-9)


class TestCrossModalRedundancy:
    def test_mean_energy_off_the_diagonal(self):
        fused, text = randn(7, 3, seed=20), randn(7, 3, seed=21)
        C = plain_correlation(fused.tolist(), text.tolist())
        expected = sum(C[i][j] ** 2 for i in range(3) for j in range(3) if i != j) / 3
        assert float(cross_modal_redundancy(fused, text)) == pytest.approx(expected, rel=1e-6)

    def test_equal_features_cost_nothing(self):
        fused = decorrelated(16, 4)
        assert float(cross_modal_redundancy(fused, fused)) < 1e-9
        assert float(cross_modal_redundancy(fused, -fused)) < 1e-9

    def test_redundant_features_cost(self):
        fused = decorrelated(16, 4)
        assert float(cross_modal_redundancy(fused, fused.roll(1, dims=1))) == pytest.approx(1.0, rel=1e-5)


class TestGradients:
    """By finite differences, in double precision."""

    @pytest.mark.parametrize("num_views", [2, 3])
    def test_of_multiview_decorrelation(self, num_views):
        views = randn(4, num_views, 2, seed=22).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: multiview_decorrelation(v, LAMBDA), views)

    def test_of_contrast_with_the_temperature(self):
        image, text = (randn(6, 2, seed=seed).requires_grad_() for seed in (23, 24))
        scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda i, t, s: contrast(i, t, CONCEPTS, s), (image, text, scale))

    def test_of_vision_language_contrast(self):
        inputs = [randn(*shape, seed=25 + n).requires_grad_() for n, shape in enumerate([(6, 2), (6, 2, 2), (6, 2)])]
        scale = torch.tensor(3.0, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda f, v, t: vision_language_contrast(f, v, t, CONCEPTS, scale), inputs)

    def test_of_cross_modal_redundancy(self):
        inputs = [randn(4, 3, seed=seed).requires_grad_() for seed in (28, 29)]
        assert torch.autograd.gradcheck(cross_modal_redundancy, inputs)

    def test_collapsed_features_have_finite_gradients(self):
        views = torch.ones(4, 2, 3, requires_grad=True)
        multiview_decorrelation(views, LAMBDA).backward()
        assert views.grad.isfinite().all()
