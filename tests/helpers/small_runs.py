"""Small trainings in this process: fifteen training samples of five subjects, and towers of a few weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers import tiny_arch
from helpers.samples import write_shard_set
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import WEIGHTS, RunDirectory, open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train import stage as train
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.reader import ShardSet

ARCH = "tiny-run-vit"
DROPPING_ARCH = "tiny-run-dropping-vit"
"""An architecture that drops a random half of the patches of each image in training mode."""
NUM_LEARNED, NUM_STEPS = 15, 4
"""Number of training samples, and of steps per epoch."""


def write_shards(folder: Path) -> Path:
    """Write shards of six subjects with three samples each, and register the architectures."""
    register(folder)
    write_shard_set(folder / "shards", num_subjects=6, channels=("rgb",))
    return folder / "shards"


def register(folder: Path) -> None:
    """Register the architectures in this process; they accept any prompt."""
    text, vision = tiny_arch.CONFIG["text_cfg"] | {"vocab_size": 49408}, tiny_arch.CONFIG["vision_cfg"]
    tiny_arch.register(folder, ARCH, text_cfg=text)
    tiny_arch.register(folder, DROPPING_ARCH, text_cfg=text, vision_cfg=vision | {"patch_dropout": 0.5})


def config(shards: Path | str, out: Path, **options: Any) -> TrainConfig:
    defaults = {"shards": str(shards), "out": out, "epochs": 2, "batch_size": 4, "split": "kfold:6:0", "arch": ARCH}
    return TrainConfig.model_validate(defaults | options)


def learn(shards: Path | str, out: Path, **options: Any) -> RunManifest:
    """Train in this process, without Ray."""
    return train.run(config(shards, out, **options), in_process=True)


def learn_until(step: int, monkeypatch: pytest.MonkeyPatch, shards: Path, out: Path, **options: Any) -> None:
    """Train as `learn` does, and interrupt the training after so many steps."""
    original = TrainStep.step

    def stop(self: TrainStep, batch: Any, epoch: int, number: int, *rest: Any) -> Any:
        if number == step:
            raise KeyboardInterrupt
        return original(self, batch, epoch, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(shards, out, **options)


def weights(run: Path) -> dict[str, Tensor]:
    """Weights of the last checkpoint."""
    return RunDirectory(run).checkpoints()[-1].load_model()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether weights are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics without speed and waiting time."""
    speed = ("samples_per_second", "data_wait")
    return [{name: value for name, value in row.items() if name not in speed} for row in RunDirectory(run).metrics()]


def shake(run: Path) -> None:
    """Add noise to all weights of the result: some parts of a model start at zero and have no effect."""
    path, generator = RunDirectory(run).checkpoints()[-1].path / WEIGHTS, torch.Generator().manual_seed(7)
    save_file({name: w + 0.3 * torch.randn(w.shape, generator=generator) for name, w in weights(run).items()}, path)


def result(run: Path) -> TrainedModel:
    """Load the model of a run."""
    return TrainedModel.load(*open_run(run))


def reader_of(shards: Path, run: Path) -> FaceDataset:
    """Open shards with the decoding options of a run."""
    manifest = open_run(run)[0]
    return FaceDataset(ShardSet.open(str(shards)), result(run).decode_spec(manifest, manifest.temporal), 0)
