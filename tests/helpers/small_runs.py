"""Small trainings in this process: fifteen samples of five subjects to learn from, towers of a few weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers import tiny_arch
from helpers.samples import write_shard_set
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import WEIGHTS, RunDirectory, open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train import stage as train
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.reader import ShardSet

ARCH = "tiny-run-vit"
DROPPING_ARCH = "tiny-run-dropping-vit"
"""It drops half of each image's patches, by chance, whenever it learns."""
NUM_LEARNED, NUM_STEPS = 15, 4
"""Samples of the training side, and steps of an epoch."""


def write_shards(folder: Path) -> Path:
    """Six subjects with three samples each; the architectures are made known, too."""
    register(folder)
    write_shard_set(folder / "shards", num_subjects=6, channels=("rgb",))
    return folder / "shards"


def register(folder: Path) -> None:
    """Make the architectures known in this process; they take any prompt."""
    text, vision = tiny_arch.CONFIG["text_cfg"] | {"vocab_size": 49408}, tiny_arch.CONFIG["vision_cfg"]
    tiny_arch.register(folder, ARCH, text_cfg=text)
    tiny_arch.register(folder, DROPPING_ARCH, text_cfg=text, vision_cfg=vision | {"patch_dropout": 0.5})


def config(shards: Path, out: Path, **options: Any) -> TrainConfig:
    given = {"shards": str(shards), "out": out, "epochs": 2, "batch_size": 4, "split": "kfold:6:0", "arch": ARCH}
    return TrainConfig.model_validate(given | options)


def learn(shards: Path, out: Path, **options: Any) -> RunManifest:
    """Train, without Ray."""
    return train.run(config(shards, out, **options), in_process=True)


def weights(run: Path) -> dict[str, Tensor]:
    """Those of the last checkpoint."""
    return RunDirectory(run).checkpoints()[-1].load_model()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether weights are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics without how fast it went."""
    of_time = ("samples_per_second", "data_wait")
    return [{name: value for name, value in row.items() if name not in of_time} for row in RunDirectory(run).metrics()]


def shake(run: Path) -> None:
    """Move all weights of the result, so that none has the value that it begins with, at which parts do nothing."""
    path, generator = RunDirectory(run).checkpoints()[-1].path / WEIGHTS, torch.Generator().manual_seed(7)
    save_file({name: w + 0.3 * torch.randn(w.shape, generator=generator) for name, w in weights(run).items()}, path)


def result(run: Path) -> TrainedModel:
    """The model of a run."""
    return TrainedModel.load(*open_run(run))


def reader_of(shards: Path, run: Path) -> FaceDataset:
    """Reads samples as the run did."""
    manifest, size = open_run(run)[0], result(run).model.towers.image_size
    reading = DecodeSpec(manifest.channel, size, manifest.temporal, manifest.max_frames)
    return FaceDataset(ShardSet.open(str(shards)), reading, 0)
