"""Each dataset from its files to a model: detected, rendered, verified, trained on for a few steps."""

import math
from pathlib import Path

import pytest

from helpers.small_datasets import DATASETS
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.train import stage as train
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.verify import verify_shards

SEQUENCES = {"bu4dfe", "bp4d", "coma"}


@pytest.fixture(scope="module", params=DATASETS)
def rendered(request, tmp_path_factory, ray_cluster) -> tuple[str, Path, ShardManifest]:
    """Name of a dataset, its shards and their manifest."""
    root = tmp_path_factory.mktemp(request.param)
    DATASETS[request.param](root / "data")
    manifest = render.run(RenderConfig(data_dir=root / "data", out=root / "shards", size=48, frames=3))
    return request.param, root / "shards", manifest


def test_every_sample_is_rendered(rendered):
    name, shards, manifest = rendered
    assert (manifest.layout, manifest.num_failures) == (name, 0)
    assert manifest.num_sequences == (manifest.num_samples if name in SEQUENCES else {"folder": 6}.get(name, 0))
    assert [problem for _, found in verify_shards(ShardSet.open(str(shards))) for problem in found] == []


def test_is_trained_on(rendered, tmp_path, monkeypatch):
    # In this process: what a worker imports takes longer than these few steps.
    monkeypatch.setattr("smile_pipe.pipeline.train.stage._in_process", lambda config: True)
    _, shards, _ = rendered
    config = TrainConfig(shards=str(shards), out=tmp_path / "run", epochs=1, batch_size=4, split="all")
    losses = train.run(config).final_losses
    assert losses.keys() >= {"loss_mv", "loss_vl", "loss_cm", "loss_total"}
    assert all(math.isfinite(loss) for loss in losses.values())
