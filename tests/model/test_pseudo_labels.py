"""Pseudo-labels: balanced, named by their anchors, and independent of labels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smile_pipe.model.pseudo_labels import balanced_assignment, named_start, pseudo_labels


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(num: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """`num` points about each of four directions, shuffled; their true numbers; the directions."""
    centres = F.normalize(randn(4, 16, seed=1), dim=1)
    truth = torch.arange(4).repeat_interleave(num)[torch.randperm(4 * num, generator=torch.Generator().manual_seed(2))]
    return centres[truth] + noise * randn(4 * num, 16, seed=3), truth, centres


def test_rows_sum_to_1_and_columns_to_equal_shares():
    found = balanced_assignment(randn(40, 5), entropy=0.5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(found.sum(dim=0), torch.full((5,), 8.0, dtype=torch.float64), rtol=1e-3, atol=0)


def test_large_scores_do_not_overflow():
    assert balanced_assignment(1e6 * randn(40, 5)).isfinite().all()


def test_assignment_is_optimal():
    """With low entropy it equals the optimal assignment, which scipy computes exactly."""
    from scipy.optimize import linear_sum_assignment

    scores = randn(12, 3)
    found = balanced_assignment(scores, entropy=0.01, num_steps=3000).argmax(dim=1)
    rows, slots = linear_sum_assignment(-scores.repeat_interleave(4, dim=1).numpy())
    assert found[rows].tolist() == (slots // 4).tolist()


def test_common_bias_does_not_empty_a_class():
    scores = randn(40, 4) * 0.1 + torch.tensor([5.0, 0.0, 0.0, 0.0])
    assert balanced_assignment(scores, entropy=0.5).argmax(dim=1).bincount(minlength=4).min() >= 4


def test_clusters_are_found_from_nearby_anchors():
    points, truth, centres = clusters(25, noise=0.1)
    anchors = centres + 0.25 * randn(4, 16, seed=4)
    assert (pseudo_labels(points, anchors) == truth).double().mean() > 0.97


def test_centres_move_to_the_points():
    points, truth, centres = clusters(25, noise=0.2)
    anchors = centres + 0.35 * randn(4, 16, seed=4)
    at_first, in_the_end = (
        (pseudo_labels(points, anchors, max_rounds) == truth).double().mean() for max_rounds in (0, 20)
    )
    assert at_first < 0.9
    assert in_the_end > 0.98


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_cluster_keeps_the_name_of_its_anchor(order):
    points, truth, centres = clusters(25, noise=0.05)
    assert torch.equal(pseudo_labels(points, centres[order]), torch.tensor(order).argsort()[truth])


def test_labels_are_deterministic():
    points, _, centres = clusters(25, noise=0.5)
    assert torch.equal(pseudo_labels(points, centres), pseudo_labels(points, centres))


def test_more_anchors_than_points():
    assert pseudo_labels(randn(3, 16), randn(7, 16)).shape == (3,)


def test_columns_sum_to_given_shares():
    shares = torch.tensor([0.5, 0.3, 0.1, 0.1], dtype=torch.float64)
    found = balanced_assignment(randn(40, 4), entropy=0.5, shares_k=shares)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(found.sum(dim=0), 40 * shares, rtol=1e-3, atol=0)


def test_equal_shares_are_the_default():
    points, _, centres = clusters(25, noise=0.4)
    assert torch.equal(pseudo_labels(points, centres), pseudo_labels(points, centres, shares_k=torch.full((4,), 0.25)))


def test_named_start_is_the_mean_of_the_named_embeddings():
    points, truth, centres = clusters(25, noise=0.3)
    names = torch.where(torch.arange(100) % 3 == 0, -1, truth)
    names[truth == 3] = -1
    anchors, shares = named_start(5 * points, centres, names)
    for k in range(3):
        expected = sum(point / point.norm() for point, name in zip(points, names.tolist(), strict=True) if name == k)
        torch.testing.assert_close(anchors[k], expected)
    torch.testing.assert_close(anchors[3], centres[3])
    counts = torch.tensor([(names == k).sum() for k in range(3)] + [1]).double()
    torch.testing.assert_close(shares, counts / counts.sum())


def test_shares_help_clusters_of_unequal_size():
    points, truth, _ = clusters(50, noise=0.1)
    kept = (truth > 0) | (torch.arange(200) % 10 == 0)
    points, truth = points[kept], truth[kept]
    names = torch.where(torch.arange(len(truth)) % 5 == 0, (truth + 1) % 4, truth)
    anchors, shares = named_start(points, randn(4, 16, seed=9), names)
    for num_rounds in (0, 20):
        found = [pseudo_labels(points, anchors, num_rounds, given) for given in (shares, None)]
        with_shares, with_equal = ((labels == truth).double().mean() for labels in found)
        assert with_shares > with_equal
