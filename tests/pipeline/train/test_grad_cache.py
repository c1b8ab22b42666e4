"""GradCache: chunks give the gradients of the whole batch, for any number of chunks."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers import tiny_arch
from helpers.tiny_models import NAMES, faces, make_model, texts_for
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import RecipeModel, build_model
from smile_pipe.pipeline.train.grad_cache import ModelInputs, backward

TOTAL = 7
"""Number of samples; the first two are sequences of three and two frames."""


def make_inputs(num_channels: int = 1) -> ModelInputs:
    views, directions, tokens, concepts, frames = faces(TOTAL, slice(None), num_channels)
    return ModelInputs(views, directions, frames, tokens, concepts, torch.arange(TOTAL) // 2)


def learn(model: RecipeModel, num_chunks: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses, and gradients by names of parameters."""
    model.zero_grad(set_to_none=True)
    inputs = make_inputs(model.config.num_channels)
    inputs = replace(inputs, tokens=texts_for(model, inputs.tokens))
    losses = backward(model, model, inputs, "float32", num_chunks)
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recipe", NAMES)
@pytest.mark.parametrize("num_chunks", [2, 3, TOTAL, TOTAL + 5])
def test_chunks_give_losses_and_gradients_of_the_whole_batch(tmp_path, recipe, num_chunks):
    model = make_model(tmp_path, recipe)
    losses, expected = learn(model, 1)
    in_chunks, found = learn(model, num_chunks)
    assert in_chunks.keys() == losses.keys() and found.keys() == expected.keys()
    assert all(torch.allclose(in_chunks[name], losses[name], rtol=1e-9) for name in losses)
    largest = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        assert float((found[name] - grad).norm()) < 1e-5 * max(float(grad.norm()), 1e-2 * largest), name


def test_gradients_accumulate(tmp_path):
    model = make_model(tmp_path, "smile-vlm")
    _, once = learn(model, 2)
    backward(model, model, make_inputs(), "float32", 2)
    for name, parameter in model.named_parameters():
        if name in once:
            torch.testing.assert_close(parameter.grad, 2 * once[name])


def test_chunks_keep_all_frames_of_a_sample_together(tmp_path):
    inputs = make_inputs()
    chunks = inputs.chunks(3)
    assert [chunk.frames.counts.tolist() for chunk in chunks] == [[3, 2, 1], [1, 1], [1, 1]]
    assert [len(chunk.views) for chunk in chunks] == [6, 2, 2]
    for name in ("views", "tokens", "concept_ids", "subject_ids"):
        assert torch.equal(torch.cat([getattr(chunk, name) for chunk in chunks]), getattr(inputs, name))
    assert torch.equal(torch.cat([chunk.frames.times for chunk in chunks]), inputs.frames.times)


def test_chunks_without_text(tmp_path):
    model = make_model(tmp_path, "barlow")
    model.freeze_unreached(with_text=False, with_sequences=True)
    inputs = replace(make_inputs(), tokens=None, concept_ids=None)
    losses = backward(model, model, inputs, "float32", 3)
    assert losses.keys() == {"mv", "total"}
    assert model.project_image[0].weight.grad.abs().max() > 0 and model.project_text[0].weight.grad is None


def test_batchnorm_statistics_count_each_chunk_once():
    torch.manual_seed(0)
    model = build_model(RecipeConfig(arch="smile-tiny", joint_dim=8))
    reference = deepcopy(model)
    views, tokens = torch.rand(4, 2, 3, 96, 96), torch.randint(1, 9, (4, 32))
    directions = torch.nn.functional.normalize(torch.randn(2, 3), dim=-1)
    inputs = ModelInputs(views, directions, PackedFrames.of_scans(4), tokens, torch.arange(4), torch.arange(4))
    backward(model, model, inputs, "float32", 2)
    for chunk in inputs.chunks(2):
        reference(chunk.views, directions, chunk.tokens, chunk.frames)
    expected = dict(reference.named_buffers())
    assert int(expected["towers.clip.visual.bn1.num_batches_tracked"]) == 2
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name]), name


@pytest.mark.parametrize("num_chunks", [1, 2])
def test_recomputed_activations_do_not_count_for_batchnorm(tmp_path: Path, num_chunks):
    vision = {"image_size": 32, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"}
    torch.manual_seed(0)
    name = tiny_arch.register(tmp_path, "tiny-test-resnet", vision_cfg=vision)
    model = build_model(RecipeConfig(arch=name, joint_dim=8))
    reference = deepcopy(model)
    model.towers.checkpoint_activations()
    _, directions, tokens, concepts = tiny_arch.faces(4)
    views = torch.rand(4, 3, 3, 32, 32)
    inputs = ModelInputs(views, directions, PackedFrames.of_scans(4), tokens, concepts, concepts)
    passes: list[int] = []
    norm = model.towers.clip.visual.trunk.layer1[0].bn1
    norm.register_forward_hook(lambda *_: passes.append(1))
    backward(model, model, inputs, "float32", num_chunks, recomputes=True)
    backward(reference, reference, inputs, "float32", num_chunks)
    # With chunks there is one more pass, which keeps no activations.
    assert len(passes) == (2 if num_chunks == 1 else 3 * num_chunks)
    assert int(norm.num_batches_tracked) == num_chunks
    for (name, found), expected in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)
    for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_both_passes_repeat_dropout_and_random_state_continues(tmp_path: Path):
    vision = tiny_arch.CONFIG["vision_cfg"] | {"patch_dropout": 0.5}
    torch.manual_seed(0)
    name = tiny_arch.register(tmp_path, "tiny-dropping-vit", vision_cfg=vision)
    model = build_model(RecipeConfig(arch=name, joint_dim=4))
    views, directions, tokens, concepts = tiny_arch.faces(6)
    inputs = ModelInputs(views, directions, PackedFrames.of_scans(6), tokens, concepts, concepts)
    seen: list[Tensor] = []
    hook = model.register_forward_hook(lambda *given: seen.append(given[2].views.detach()))
    torch.manual_seed(1)
    backward(model, model, inputs, "float32", 3)
    after = torch.rand(1)
    assert all(torch.equal(first, second) for first, second in zip(seen[:3], seen[3:], strict=True))
    hook.remove()
    torch.manual_seed(1)
    whole = [model(chunk.views, directions, chunk.tokens, chunk.frames).views for chunk in inputs.chunks(3)]
    assert torch.equal(torch.rand(1), after)
    # Check that something is dropped.
    again = [model(chunk.views, directions, chunk.tokens, chunk.frames).views for chunk in inputs.chunks(3)]
    assert not torch.equal(torch.cat(whole), torch.cat(again))
