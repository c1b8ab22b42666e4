"""Several channels: a system for each, with its own losses, and joined embeddings in which all have equal votes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import tiny_arch
from helpers.tiny_models import NUM_CLASSES
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.multichannel import MultiChannelModel
from smile_pipe.model.recipes import build_model

NUM = 6


@pytest.fixture(params=["smile-vlm", "facet-vlm", "supervised"])
def model(request, tmp_path) -> MultiChannelModel:
    return make_model(tmp_path, request.param)


def make_model(folder, recipe: str) -> MultiChannelModel:
    torch.manual_seed(0)
    arch = tiny_arch.register(folder)
    model = build_model(RecipeConfig(name=recipe, arch=arch, joint_dim=5, num_classes=NUM_CLASSES, num_channels=2))
    assert isinstance(model, MultiChannelModel)
    # Other temperatures, so that weights by temperature differ from equal ones.
    for system, temperature in zip(model, (0.1, 0.4), strict=True):
        torch.nn.init.constant_(system.log_scale, -torch.tensor(temperature).log().item())
    return model.eval()


def faces(num_views: int = 3) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Views of each of two channels, directions, tokens, and concepts."""
    views, directions, tokens, concepts = tiny_arch.faces(NUM, num_views)
    return [views, views.flip(-1).square()], directions, tokens, concepts


def test_losses_and_gradients_are_means_of_those_of_separate_systems(model):
    channels, directions, tokens, concepts = faces()
    subjects = torch.arange(NUM) // 2
    found = model.losses(model(torch.cat(channels, dim=2), directions, tokens), concepts, subjects)
    found["total"].backward()
    grads = [[p.grad.clone() for p in system.parameters() if p.grad is not None] for system in model]
    model.zero_grad()
    parts = [
        system.losses(system(views, directions, tokens), concepts, subjects)
        for system, views in zip(model, channels, strict=True)
    ]
    assert found.keys() == parts[0].keys() and len(found) > 1
    for name, value in found.items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2)
    for system, part, grad in zip(model, parts, grads, strict=True):
        part["total"].backward()
        expected = [p.grad for p in system.parameters() if p.grad is not None]
        assert len(grad) > 5
        torch.testing.assert_close(grad, [each / 2 for each in expected])


def test_cosine_times_scale_is_the_mean_of_the_logits(model):
    channels, directions, tokens, _ = faces()
    with torch.no_grad():
        _, fused, _ = model.embed_faces(torch.cat(channels, dim=2), directions)
        found = model.scale * fused @ model.embed_text(tokens).T
        logits = [
            system.scale
            * F.normalize(system.embed_faces(views, directions)[1], dim=-1)
            @ F.normalize(system.embed_text(tokens), dim=-1).T
            for system, views in zip(model, channels, strict=True)
        ]
    torch.testing.assert_close(found, (logits[0] + logits[1]) / 2)
    torch.testing.assert_close(fused.norm(dim=-1), torch.ones(NUM))
    assert fused.shape == (NUM, model.embed_dim) == (NUM, 10)


def test_views_of_any_subset_are_fused(model):
    channels, directions, _, _ = faces()
    with torch.no_grad():
        views = model.embed_views(torch.cat(channels, dim=2), None)
        _, fused, attention = model.fuse(views[:, [2, 0]], directions[[2, 0]])
        for number, (system, channel) in enumerate(zip(model, channels, strict=True)):
            _, alone, weights = system.embed_faces(channel[:, [2, 0]], directions[[2, 0]])
            part = fused[:, 5 * number : 5 * number + 5]
            torch.testing.assert_close(F.normalize(part, dim=-1), F.normalize(alone, dim=-1))
            assert weights.shape == attention.shape
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(NUM))


def test_only_a_classifier_has_anchors(tmp_path):
    assert make_model(tmp_path, "smile-vlm").class_anchors() is None
    model = make_model(tmp_path, "supervised")
    anchors = model.class_anchors()
    assert anchors.shape == (NUM_CLASSES, 10)
    torch.testing.assert_close(anchors.norm(dim=-1), torch.ones(NUM_CLASSES))
    expected = [F.normalize(system.anchors, dim=-1) for system in model]
    for part, each in zip(anchors.chunk(2, dim=-1), expected, strict=True):
        torch.testing.assert_close(F.normalize(part, dim=-1), each)


def test_each_system_freezes_what_its_losses_do_not_reach(tmp_path):
    model = make_model(tmp_path, "smile-vlm")
    model.freeze_unreached(with_text=False, with_sequences=False)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for number in (0, 1):
        own = {name for name in frozen if name.startswith(f"systems.{number}.")}
        assert any(".temporal." in name for name in own) and any(".project_text." in name for name in own)
        assert not any(".project_image." in name for name in own)


def test_scalars_are_means(tmp_path):
    assert make_model(tmp_path, "smile-vlm").learned_scalars()["temperature"] == pytest.approx(0.25)
