"""A training step does not wait for its device: no value is read there, and all copies to it are queued.

The device is `meta`, whose tensors have no data: reading one fails without the detector as well.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers import small_runs
from helpers.samples import make_timeline, write_shard_set
from helpers.sync_detector import no_device_syncs
from smile_pipe.model.config import RECIPES
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.data.dataset import Batch, DecodeSpec, FaceDataset
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.reader import ShardSet

DEVICE = torch.device("meta")
# Scans, and sequences with frames and dynamic images.
TIMELINES = (None, make_timeline(2, "both"), make_timeline(5, "both"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    small_runs.register(folder)
    write_shard_set(folder / "shards", num_subjects=6, timelines=TIMELINES, channels=("rgb", "normal"))
    return folder / "shards"


@pytest.fixture
def make_step(shards, tmp_path, monkeypatch) -> Callable[..., tuple[TrainStep, Batch]]:
    """Returns a function that makes a training step on the device, and a batch."""
    adamw = torch.optim.AdamW

    class Unfused(adamw):
        # The fused form, which waits for nothing, has no kernel for `meta`, and others do not skip steps.
        found_inf = property(lambda self: None, lambda self, value: None)

    def make_optimizer(groups, **options):
        groups = list(groups)
        is_meta = groups[0]["params"][0].device == DEVICE
        return Unfused(groups, **options | {"fused": False}) if is_meta else adamw(groups, **options)

    monkeypatch.setattr(torch.optim, "AdamW", make_optimizer)

    def make(device: torch.device = DEVICE, **options: object) -> tuple[TrainStep, Batch]:
        config = small_runs.config(shards, tmp_path / "run", temporal="both", precision="float32", **options)
        job = prepare(config, in_process=True)[2]
        model = build_model(job.recipe)
        model.freeze_unreached(with_text=job.text_source != "none", with_sequences=True)
        size = model.towers.image_size
        dataset = FaceDataset(ShardSet.open(str(shards)), DecodeSpec(job.channels, size, job.temporal), 0)
        rows = dataset.shards.rows[:5]
        (batch,) = dataset.batches([rows])
        train_step = TrainStep(job, Worker(0, 1, device), model.to(device), dataset, rows)
        if train_step.text_targets.pseudo:
            train_step.text_targets.pseudo.labels = torch.arange(len(rows)) % 3
        train_step.load_checkpoint(RunDirectory(config.out))
        return train_step, batch

    return make


def run(train_step: TrainStep, batch: Batch) -> dict[str, torch.Tensor]:
    with no_device_syncs(device="meta"):
        return train_step.step(batch, 0, 0, 1.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_waits_for_the_device(make_step, recipe):
    losses = run(*make_step(recipe=recipe, channel="rgb", ema=0.9))
    assert losses.keys() == {*RECIPES[recipe].weights, "total"}
    assert all(loss.device == DEVICE for loss in losses.values())


@pytest.mark.parametrize("options", [{"channel": "normal"}, {"grad_cache_chunks": 2}, {"arch": "smile-tiny"}])
def test_no_option_waits_for_the_device(make_step, options):
    run(*make_step(**options))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_waits_for_a_gpu(make_step, recipe):
    train_step, batch = make_step(torch.device("cuda"), recipe=recipe, channel="normal", ema=0.9)
    # The first step also loads kernels and allocates memory.
    train_step.step(batch, 0, 0, 1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step.step(batch, 0, 1, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
