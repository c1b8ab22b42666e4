"""View-aware fusion: a weighted mean of views whose weights depend on the directions of the views."""

import pytest
import torch

from smile_pipe.model.fusion import ViewFusion

DIM = 6


@pytest.fixture
def fusion() -> ViewFusion:
    torch.manual_seed(0)
    return ViewFusion(DIM).double()


def views_from(num_views: int, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Random embeddings [B, V, D] and unit directions [V, 3]."""
    generator = torch.Generator().manual_seed(num_views)
    views = torch.randn(batch, num_views, DIM, generator=generator, dtype=torch.float64)
    directions = torch.randn(num_views, 3, generator=generator, dtype=torch.float64)
    return views, torch.nn.functional.normalize(directions, dim=-1)


@pytest.mark.parametrize("num_views", [1, 2, 3, 5, 9])
def test_weights_sum_to_one_for_any_number_of_views(fusion, num_views):
    views, directions = views_from(num_views)
    fused, weights = fusion(views, directions)
    assert fused.shape == (4, DIM) and weights.shape == (4, num_views)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, dtype=torch.float64))


def test_the_fused_embedding_is_the_weighted_sum_of_the_views(fusion):
    views, directions = views_from(3)
    fused, weights = fusion(views, directions)
    for b in range(len(views)):
        torch.testing.assert_close(fused[b], sum(weights[b, v] * views[b, v] for v in range(3)))


def test_a_score_is_the_documented_formula(fusion):
    views, directions = views_from(3)
    A, b = fusion.from_embedding.weight, fusion.from_embedding.bias
    B, w = fusion.from_direction.weight, fusion.score.weight[0]
    for sample, weights in zip(views, fusion(views, directions)[1], strict=True):
        scores = [w @ torch.tanh(A @ z + b + B @ d) for z, d in zip(sample, directions, strict=True)]
        torch.testing.assert_close(weights, torch.stack(scores).softmax(dim=0))


def test_single_view_is_unchanged(fusion):
    views, directions = views_from(1)
    torch.testing.assert_close(fusion(views, directions)[0], views[:, 0])


def test_weights_depend_on_the_direction(fusion):
    views, directions = views_from(1)
    equal = views.expand(-1, 3, -1)
    _, weights = fusion(equal, views_from(3)[1])
    assert (weights[0] - 1 / 3).abs().max() > 1e-3
    _, same = fusion(equal, directions.expand(3, -1))
    torch.testing.assert_close(same, torch.full_like(same, 1 / 3))


def test_weights_depend_on_the_embedding(fusion):
    views, directions = views_from(3)
    _, weights = fusion(views, directions)
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_fusion_does_not_depend_on_the_order_of_views(fusion):
    views, directions = views_from(5)
    order = [3, 0, 4, 1, 2]
    fused, weights = fusion(views, directions)
    fused_again, weights_again = fusion(views[:, order], directions[order])
    torch.testing.assert_close(fused_again, fused)
    torch.testing.assert_close(weights_again, weights[:, order])


def test_all_parameters_have_gradients(fusion):
    views, directions = views_from(3)
    fusion(views, directions)[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in fusion.parameters())
