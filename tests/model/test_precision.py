"""Precision of the towers: chosen by hardware, and close to single precision."""

import pytest
import torch

from smile_pipe.model.towers import Towers, native_precision


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_cpus_use_bfloat16_if_they_support_it(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_precision("cpu") == precision


def test_gpus_use_bfloat16():
    assert native_precision("cuda") == "bfloat16"


def test_bfloat16_embeddings_are_close_to_single_precision():
    torch.manual_seed(0)
    towers = Towers("smile-tiny").eval()
    images = torch.rand(4, 3, 96, 96)
    with torch.inference_mode():
        exact = towers.encode_images(images)
        with torch.autocast("cpu", torch.bfloat16):
            near = towers.encode_images(images)
    assert near.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, near.float()).min() > 0.999


def test_channels_last_does_not_change_saved_weights():
    visual = Towers("smile-tiny").clip.visual
    assert visual.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    visual.conv1.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    towers = Towers("smile-tiny")
    towers.clip.visual = visual
    towers.encode_images(torch.rand(2, 3, 96, 96))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
