"""Precision of the towers: chosen by hardware, and close to single precision."""

import pytest
import torch
from torch import Tensor

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.objectives import GatheredBatch, Term
from smile_pipe.model.recipes import build_model
from smile_pipe.model.towers import Towers, full_matmul_precision, native_precision, set_matmul_precision


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


@pytest.fixture
def restored_settings():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(
    ("precision", "products", "is_tf32"),
    [("float32", "highest", False), ("tf32", "high", True), ("bfloat16", "highest", False)],
)
def test_gpus_use_tf32_for_nothing_else(restored_settings, precision, products, is_tf32):
    set_matmul_precision(precision, torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == products and torch.backends.cudnn.allow_tf32 == is_tf32


def test_settings_of_a_cpu_are_left_alone(restored_settings):
    torch.set_float32_matmul_precision("high")
    set_matmul_precision("float32", torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "high"


def test_losses_never_use_tf32(restored_settings):
    model, seen = build_model(RecipeConfig(name="barlow", arch="smile-tiny")), []

    def of(batch: GatheredBatch) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return batch.views.own.sum()

    model.terms = lambda: {"mv": Term(of, frozenset(("views",)), compares=False)}
    rows = Embeddings(*(torch.ones(2, *shape) for shape in ((3, 4), (4,), (3,), (4,))))
    torch.set_float32_matmul_precision("high")
    model.losses(rows, None, torch.arange(2))
    assert seen == ["highest"] and torch.get_float32_matmul_precision() == "high"


def test_precision_is_restored_after_an_error(restored_settings):
    torch.set_float32_matmul_precision("high")
    with pytest.raises(OSError), full_matmul_precision():
        raise OSError
    assert torch.get_float32_matmul_precision() == "high"
