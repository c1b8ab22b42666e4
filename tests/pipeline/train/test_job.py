"""What a job requests of Ray Train and of data-parallel training."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray.train.torch
import torch
import torch.distributed as dist

from helpers import small_runs
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train import job as training_job
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.reader import ShardSet


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    shards = small_runs.write_shards(folder)
    return prepare(small_runs.config(shards, folder / "run"), in_process=True)[2]


@pytest.mark.parametrize(("use_gpu", "backend"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_ranks_exchange_between_gpus_and_between_their_cpus(job, monkeypatch, use_gpu, backend):
    requested: list[dict[str, Any]] = []

    class Trainer:
        def __init__(self, _: Any, **options: Any) -> None:
            requested.append(options)

        def fit(self) -> None:
            pass

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(training_job, "warn_on_lost_nodes", lambda *_: nullcontext())
    config = job.config.model_copy(update={"use_gpu": use_gpu, "num_workers": 2})
    training_job.train_on_ray(Job(**vars(job) | {"config": config}), {"CPU": 1})
    assert requested[0]["torch_config"].backend == backend


def test_checkpoints_in_short_succession_are_reported_to_ray_once(monkeypatch, tmp_path):
    reports: list[tuple] = []
    monkeypatch.setattr(ray.train, "report", lambda metrics, **options: reports.append((metrics, *options)))
    run = RunDirectory(tmp_path)
    run.save(4, {"weight": torch.zeros(2)}, {"step": 4}, keep=1)
    report = training_job.RayReporter(run, Worker(0, 1, torch.device("cpu")))
    for step in range(3):
        report({"step": step}, is_last=False)
    assert not reports
    report.next_report = 0.0
    for step in range(3, 6):
        report({"step": step}, is_last=False)
    report({"step": 6}, is_last=True)
    assert reports == [({"step": 3}, "checkpoint"), ({"step": 6}, "checkpoint")]


@pytest.fixture
def process_group(tmp_path) -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_gradients_are_in_memory_once(job, process_group, tmp_path: Path):
    model = build_model(job.recipe)
    model.freeze_unreached(with_text=True, with_sequences=False)
    shards = ShardSet.open(job.config.shards)
    dataset = FaceDataset(shards, DecodeSpec(job.channels, model.towers.image_size), 0)
    train_step = TrainStep(job, Worker(0, 2, torch.device("cpu")), model, dataset, shards.rows)
    train_step.load_checkpoint(RunDirectory(job.config.out))
    (batch,) = dataset.batches([shards.rows[:4]])
    for step in range(2):
        train_step.step(batch, 0, step, 1.0)
    # All are views of the few buckets that ranks exchange.
    grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) <= 2 < len(grads)
