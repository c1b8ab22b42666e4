"""What towers compute in: told from the hardware, and close to single precision."""

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
def test_cpus_get_bfloat16_where_they_multiply_it(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_precision("cpu") == precision


def test_gpus_get_bfloat16():
    assert native_precision("cuda") == "bfloat16"


def test_embeddings_in_bfloat16_point_where_those_in_single_precision_do():
    torch.manual_seed(0)
    towers = Towers("smile-tiny").eval()
    images = torch.rand(4, 3, 96, 96)
    with torch.inference_mode():
        exact = towers.encode_images(images)
        with torch.autocast("cpu", torch.bfloat16):
            near = towers.encode_images(images)
    assert near.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, near.float()).min() > 0.999


def test_convolutions_see_channels_last_and_weights_are_saved_as_ever():
    visual = Towers("smile-tiny").clip.visual
    assert visual.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    visual.conv1.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    towers = Towers("smile-tiny")
    towers.clip.visual = visual
    towers.encode_images(torch.rand(2, 3, 96, 96))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
