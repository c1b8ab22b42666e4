"""GradCache, activation checkpointing and compilation: less memory or time with the same losses."""

import json
import shutil

import pytest
import torch

from helpers import small_runs, tiny_arch
from helpers.small_runs import config, learn, timeless, weights
from smile_pipe.pipeline.runs import run_log
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train import grad_cache, train_step
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError

EXACT = {"epochs": 2, "precision": "float32"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", autouse=True)
def each_step_is_logged():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_log, "LOG_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def plain(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    learn(shards, out, **EXACT)
    return out


def losses(run) -> torch.Tensor:
    return torch.tensor([[value for name, value in row.items() if "loss" in name] for row in timeless(run)])


def check_first_steps(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Before the first step losses are equal but for rounding.

    After it they are less so: AdamW's steps along gradients that are nothing but rounding are as long as others.
    """
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)


def test_grad_cache_gives_the_same_losses(shards, plain, tmp_path, monkeypatch):
    num_samples, embed = [], grad_cache.embed
    monkeypatch.setattr(
        grad_cache,
        "embed",
        lambda network, inputs, precision: (
            num_samples.append(len(inputs.frames.counts)) or embed(network, inputs, precision)
        ),
    )
    learn(shards, tmp_path / "run", grad_cache_chunks=3, **EXACT)
    check_first_steps(losses(tmp_path / "run"), losses(plain))
    # Fifteen samples in four steps of three chunks, with two passes each.
    assert max(num_samples) == 2 and len(num_samples) == 2 * 8 * 3 and sum(num_samples) == 2 * 2 * 15


def test_activation_checkpointing_gives_the_same_losses(shards, plain, tmp_path, monkeypatch):
    calls, checkpoint = [], torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        "open_clip.transformer.checkpoint", lambda *given, **how: calls.append(given[0]) or checkpoint(*given, **how)
    )
    learn(shards, tmp_path / "run", checkpoint_activations=True, **EXACT)
    torch.testing.assert_close(losses(tmp_path / "run"), losses(plain), rtol=1e-6, atol=1e-6)
    # One block of the image tower and one of the text tower, in each of eight steps.
    assert len(calls) == 2 * 8


def test_activation_checkpointing_of_resnet_is_refused_before_writing(shards, tmp_path):
    with pytest.raises(UsageError, match="checkpoint_activations: the image tower of smile-tiny does not support it"):
        learn(shards, tmp_path / "run", checkpoint_activations=True, arch="smile-tiny")
    assert not (tmp_path / "run").exists()


def test_compiled_tower_gives_the_same_losses_and_weight_names(shards, plain, tmp_path, monkeypatch):
    # The default backend needs a minute and a compiler.
    monkeypatch.setattr(train_step, "COMPILE_BACKEND", "eager")
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    learn(shards, tmp_path / "run", compile=True, ema=0.5, val_fraction=0.2, epochs=1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    found = RunDirectory(tmp_path / "run").checkpoints()[-1]
    assert found.load_model().keys() == found.load_state()["model"].keys() == weights(plain).keys()
    learn(shards, tmp_path / "other", compile=True, **EXACT)
    torch.testing.assert_close(losses(tmp_path / "other"), losses(plain), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_activation_checkpointing_counts_each_batch_once(shards, tmp_path):
    vision = {"image_size": 32, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"}
    text = tiny_arch.CONFIG["text_cfg"] | {"vocab_size": 49408}
    arch = tiny_arch.register(tmp_path, "tiny-run-resnet", vision_cfg=vision, text_cfg=text)
    learn(shards, tmp_path / "run", arch=arch, checkpoint_activations=True, **EXACT)
    counts = {int(value) for name, value in weights(tmp_path / "run").items() if name.endswith("num_batches_tracked")}
    assert counts == {8}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="the usual backend needs a C++ compiler")
def test_default_compile_backend_gives_the_same_losses(shards, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    learn(shards, tmp_path / "run", compile=True, **EXACT)
    assert any((tmp_path / "cache").rglob("*.so"))
    check_first_steps(losses(tmp_path / "run"), losses(plain))
    torch.compiler.reset()


def test_compute_options_are_recorded_and_not_in_the_fingerprint(shards, tmp_path):
    plain = config(shards, tmp_path / "run")
    options = {"grad_cache_chunks": 4, "checkpoint_activations": True, "compile": True, "wandb": "faces"}
    other = plain.model_copy(update=options)
    assert other.for_fingerprint() == plain.for_fingerprint()
    assert options.items() <= TrainConfig.from_record(other.recorded()).items()
    assert other.recorded()["accumulate"] == 4
    for name, value in {"ema": 0.9, "val_fraction": 0.1, "precision": "float32", "batch_size": 5}.items():
        assert plain.model_copy(update={name: value}).for_fingerprint() != plain.for_fingerprint()
    assert json.loads(json.dumps(other.recorded())) == other.recorded()
