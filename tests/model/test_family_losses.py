"""The losses of the family against plain references: loops over samples and pairs, in double precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.one_rank import on_one_rank
from smile_pipe.model import losses
from smile_pipe.model.distributed import Rows

contrast = on_one_rank(losses.contrast)
multiview_triplet = on_one_rank(losses.multiview_triplet)
stable_contrast = on_one_rank(losses.stable_contrast)
text_guidance = on_one_rank(losses.text_guidance)
view_agreement = on_one_rank(losses.view_agreement)


def multiview_contrast(rows: Tensor, concepts: Tensor, margin: Tensor) -> Tensor:
    return on_one_rank(losses.multiview_contrast)(rows, concepts, torch.arange(len(rows)), margin)


def class_cross_entropy(fused: Tensor, anchors: Tensor, classes: Tensor, scale: Tensor) -> Tensor:
    return losses.class_cross_entropy(Rows.alone(fused), anchors, Rows.alone(classes), scale)


CONCEPTS = torch.tensor([0, 1, 0, 2, 1, 0])
SUBJECTS = torch.tensor([0, 0, 1, 1, 2, 2])
MARGIN = torch.tensor(0.3, dtype=torch.float64)
SCALE = torch.tensor(4.0, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


class TestMultiviewContrast:
    def test_mean_over_pairs(self):
        rows, found = randn(6, 5), []
        for i in range(6):
            for j in range(6):
                s = cosine(rows[i], rows[j])
                if i != j:
                    found.append(1 - s if CONCEPTS[i] == CONCEPTS[j] else max(0.0, s - 0.3))
        assert multiview_contrast(rows, CONCEPTS, MARGIN).item() == pytest.approx(sum(found) / 30)

    def test_zero_for_separated_concepts(self):
        rows = torch.eye(3, dtype=torch.float64)[CONCEPTS] * 7
        assert multiview_contrast(rows, CONCEPTS, MARGIN).item() == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("concepts", [torch.zeros(6), torch.arange(6)])
    def test_batch_with_one_kind_of_pairs_has_a_gradient(self, concepts):
        rows = randn(6, 5).requires_grad_()
        loss = multiview_contrast(rows, concepts, MARGIN)
        loss.backward()
        assert loss.item() > 0 and rows.grad.isfinite().all()


class TestMultiviewTriplet:
    def expected(self, anchors: Tensor, rows: Tensor, concepts: Tensor) -> Tensor:
        """By the definition, triplet by triplet."""
        found = []
        for anchor, concept in zip(F.normalize(anchors, dim=-1), CONCEPTS, strict=True):
            distance = (anchor - F.normalize(rows, dim=-1)).square().sum(dim=-1)
            for p in (concepts == concept).nonzero():
                for n in (concepts != concept).nonzero():
                    found.append(F.relu(distance[p] - distance[n] + MARGIN))
        return torch.stack([gap for gap in found if gap > 0]).mean()

    def test_mean_over_triplets_that_violate_the_margin(self):
        anchors, rows = randn(6, 5).requires_grad_(), randn(12, 5, seed=1).requires_grad_()
        concepts = CONCEPTS.repeat(2)
        loss = multiview_triplet(anchors, CONCEPTS, rows, concepts, MARGIN)
        expected = self.expected(anchors, rows, concepts)
        torch.testing.assert_close(loss, expected)
        found = torch.autograd.grad(loss, (anchors, rows))
        torch.testing.assert_close(found, torch.autograd.grad(expected, (anchors, rows)))

    def test_gradient_of_the_margin(self):
        margin = MARGIN.clone().requires_grad_()
        loss = multiview_triplet(randn(6, 5), CONCEPTS, randn(6, 5), CONCEPTS, margin)
        (gradient,) = torch.autograd.grad(loss, margin)
        assert gradient.item() == pytest.approx(1)

    def test_zero_for_triplets_that_satisfy_the_margin(self):
        rows = torch.eye(3, dtype=torch.float64)[CONCEPTS] * 7
        assert multiview_triplet(rows, CONCEPTS, rows, CONCEPTS, MARGIN).item() == 0

    def test_zero_without_negatives(self):
        rows = randn(6, 5).requires_grad_()
        loss = multiview_triplet(rows, torch.zeros(6), rows, torch.zeros(6), MARGIN)
        loss.backward()
        assert loss.item() == 0 and rows.grad.isfinite().all()


class TestStableContrast:
    def test_same_subject_with_other_label_is_neither_positive_nor_negative(self):
        x, t = randn(6, 5), randn(6, 5, seed=1)
        total = 0.0
        for n in range(6):
            near = {m: math.exp(4.0 * cosine(x[n], t[m])) for m in range(6)}
            friends = [m for m in range(6) if CONCEPTS[m] == CONCEPTS[n]]
            strangers = [m for m in range(6) if CONCEPTS[m] != CONCEPTS[n] and SUBJECTS[m] != SUBJECTS[n]]
            everyone = sum(near[m] for m in friends + strangers)
            total -= sum(math.log(near[m] / everyone) for m in friends) / len(friends)
        found = stable_contrast(x, t, CONCEPTS, SUBJECTS, SCALE)
        assert found.item() == pytest.approx(total / 6)

    def test_with_distinct_subjects_it_is_one_half_of_the_contrast(self):
        x, t, people = randn(6, 5), randn(6, 5, seed=1), torch.arange(6)
        both = (stable_contrast(x, t, CONCEPTS, people, SCALE) + stable_contrast(t, x, CONCEPTS, people, SCALE)) / 2
        torch.testing.assert_close(both, contrast(x, t, CONCEPTS, SCALE))


class TestTextGuidance:
    def test_divergence_of_attention_from_text_weights(self):
        views, text, attention = randn(4, 3, 5), randn(4, 5, seed=1), randn(4, 3, seed=2).softmax(dim=1)
        total = 0.0
        for n in range(4):
            near = [math.exp(4.0 * cosine(views[n, v], text[n])) for v in range(3)]
            guide = [value / sum(near) for value in near]
            total += sum(g * math.log(g / float(a)) for g, a in zip(guide, attention[n], strict=True))
        assert text_guidance(attention, views, text, SCALE).item() == pytest.approx(total / 4)

    def test_gradient_reaches_only_the_attention(self):
        views, text = randn(4, 3, 5).requires_grad_(), randn(4, 5, seed=1).requires_grad_()
        attention = randn(4, 3, seed=2).softmax(dim=1).requires_grad_()
        text_guidance(attention, views, text, SCALE).backward()
        assert attention.grad.abs().sum() > 0
        assert views.grad is None and text.grad is None


class TestViewAgreement:
    def test_mean_divergence_of_views_from_the_fused_embedding(self):
        fused, views, text = randn(4, 5), randn(4, 3, 5, seed=1), randn(4, 5, seed=2)

        def probabilities(z: Tensor) -> list[float]:
            near = [math.exp(4.0 * cosine(z, t)) for t in text]
            return [value / sum(near) for value in near]

        total = 0.0
        for n in range(4):
            for v in range(3):
                q, p = probabilities(fused[n]), probabilities(views[n, v])
                total += sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
        assert view_agreement(fused, views, text, SCALE).item() == pytest.approx(total / 12)

    def test_zero_for_agreeing_views_and_no_gradient_of_fused(self):
        fused, text = randn(4, 5).requires_grad_(), randn(4, 5, seed=2)
        views = (fused.detach()[:, None] * 3).expand(4, 3, 5).clone().requires_grad_()
        loss = view_agreement(fused, views, text, SCALE)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-9)
        assert fused.grad is None


def test_class_cross_entropy_is_that_of_cosines():
    fused, anchors, classes = randn(6, 5), randn(3, 5, seed=1), CONCEPTS
    total = 0.0
    for n in range(6):
        near = [math.exp(4.0 * cosine(fused[n], anchor)) for anchor in anchors]
        total -= math.log(near[classes[n]] / sum(near))
    assert class_cross_entropy(fused, anchors, classes, SCALE).item() == pytest.approx(total / 6)
    # And of torch's own on the same numbers.
    logits = 4.0 * F.normalize(fused, dim=1) @ F.normalize(anchors, dim=1).T
    assert F.cross_entropy(logits, classes).item() == pytest.approx(total / 6)
