"""Systems with class anchors: each loss equals a plain loop, prototypes move as documented, and text stays as it is."""

import math

import pytest
import torch
from torch import Tensor

from helpers import tiny_arch
from helpers.tiny_models import make_model
from smile_pipe.model.class_anchors import LABEL_SMOOTHING, PROTOTYPE_DECAY
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.recipes import build_model, check_recipe

NUM, VIEWS, DIM, NUM_CLASSES = 6, 3, 4, 4
CLASSES = torch.tensor([0, 1, 1, 3, 0, 1])


def embeddings(seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((NUM, VIEWS, DIM), (NUM, DIM), (NUM, VIEWS))
    return Embeddings(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes), None)


def losses(model, given: Embeddings) -> dict[str, float]:
    return {name: value.item() for name, value in model.losses(given, CLASSES, torch.arange(NUM)).items()}


def cosine(a: Tensor, b: Tensor) -> float:
    return (a @ b / a.norm() / b.norm()).item()


def log_softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [logit - math.log(total) for logit in logits]


class TestMpa:
    @pytest.fixture
    def model(self, tmp_path):
        return make_model(tmp_path, "mpa-vlm")

    def test_losses_equal_plain_loops(self, model):
        given, scale = embeddings(), model.scale.item()
        found = losses(model, given)
        soft = [
            log_softmax([scale * cosine(z, w) for w in model.anchors])[c]
            for z, c in zip(given.fused, CLASSES, strict=True)
        ]
        assert found["soft"] == pytest.approx(-sum(soft) / NUM)
        hard = [log_softmax([scale * cosine(t, w) for w in model.anchors])[k] for k, t in enumerate(model.class_texts)]
        assert found["hard"] == pytest.approx(-sum(hard) / NUM_CLASSES)
        distances = []
        for z, c in zip(given.fused, CLASSES, strict=True):
            own = [f / f.norm() for f, other in zip(given.fused, CLASSES, strict=True) if other == c]
            mean = sum(own) / len(own)
            distances.append(((z / z.norm() - mean / mean.norm()) ** 2).sum().item())
        assert found["proto"] == pytest.approx(sum(distances) / NUM)

    def test_prototypes_are_moving_averages_of_the_classes_that_a_batch_has(self, model):
        first, second = embeddings(), embeddings(1)
        losses(model, first)
        expected = torch.zeros(NUM_CLASSES, DIM, dtype=torch.float64)
        means = [
            [torch.stack([z / z.norm() for z in e.fused[c == CLASSES]]).mean(dim=0) for c in (0, 1, 3)]
            for e in (first, second)
        ]
        expected[[0, 1, 3]] = torch.stack(means[0])
        torch.testing.assert_close(model.prototypes, expected)
        losses(model, second)
        expected[[0, 1, 3]] = PROTOTYPE_DECAY * expected[[0, 1, 3]] + (1 - PROTOTYPE_DECAY) * torch.stack(means[1])
        torch.testing.assert_close(model.prototypes, expected)
        model.eval()
        losses(model, embeddings(2))
        torch.testing.assert_close(model.prototypes, expected)

    def test_prototypes_have_no_gradient_and_are_in_checkpoints(self, model):
        given = embeddings()
        fused = given.fused.requires_grad_()
        loss = model.losses(given, CLASSES, torch.arange(NUM))["proto"]
        (grad,) = torch.autograd.grad(loss, fused)
        # The pull towards a fixed point on the sphere: nothing along the embedding itself.
        assert grad.abs().max() > 1e-3 and (grad * fused).sum(dim=1).abs().max() < 1e-12
        assert {"prototypes", "class_texts"} <= model.state_dict().keys()

    def test_text_of_classes_is_the_mean_of_their_prompts_and_is_not_trained(self, model):
        _, _, tokens, _ = tiny_arch.faces(NUM_CLASSES * 2)
        parts = list(tokens.split(2))
        model.train()
        model.set_class_prompts(parts)
        assert model.training
        with torch.no_grad():
            model.eval()
            for found, part in zip(model.class_texts, parts, strict=True):
                text = torch.nn.functional.normalize(model.embed_text(part).float(), dim=-1)
                torch.testing.assert_close(found.float(), text.mean(dim=0))
        learned = {name for name, p in model.named_parameters() if p.requires_grad}
        assert "anchors" in learned and not any(name.startswith("project_text") for name in learned)

    def test_alignment_alone_is_refused(self):
        check_recipe("mpa-vlm", ("soft",))
        with pytest.raises(ValueError, match="no loss left that reads images"):
            check_recipe("mpa-vlm", ("soft", "proto"))

    def test_one_class_is_refused(self):
        with pytest.raises(ValueError, match="mpa-vlm needs at least two classes"):
            build_model(RecipeConfig(name="mpa-vlm", num_classes=1))


def test_views_of_mit_are_weighted_by_their_losses(tmp_path):
    model, given = make_model(tmp_path, "mit"), embeddings()
    scale = model.scale.item()

    def cross_entropy(rows) -> float:
        total = 0.0
        for z, c in zip(rows, CLASSES, strict=True):
            logs = log_softmax([scale * cosine(z, w) for w in model.anchors])
            total -= (1 - LABEL_SMOOTHING) * logs[c] + LABEL_SMOOTHING * sum(logs) / NUM_CLASSES
        return total / NUM

    found, by_view = losses(model, given), [cross_entropy(given.views[:, v]) for v in range(VIEWS)]
    assert found["ce"] == pytest.approx(cross_entropy(given.fused))
    weights = [math.exp(loss) for loss in by_view]
    assert found["views"] == pytest.approx(
        sum(w * loss for w, loss in zip(weights, by_view, strict=True)) / sum(weights)
    )


def test_weights_of_views_have_no_gradient(tmp_path):
    model, given = make_model(tmp_path, "mit"), embeddings()
    views = given.views.requires_grad_()
    (grad,) = torch.autograd.grad(model.losses(given, CLASSES, torch.arange(NUM))["views"], views)
    single = [
        torch.autograd.grad(
            model.losses(Embeddings(views, view, given.attention, None), CLASSES, torch.arange(NUM))["ce"], view
        )
        for view in (views[:, v].detach().requires_grad_() for v in range(VIEWS))
    ]
    by_view = [
        model.losses(Embeddings(views, views[:, v], given.attention, None), CLASSES, torch.arange(NUM))["ce"]
        for v in range(VIEWS)
    ]
    weights = torch.stack(by_view).detach().softmax(dim=0)
    for v in range(VIEWS):
        torch.testing.assert_close(grad[:, v], weights[v] * single[v][0])
