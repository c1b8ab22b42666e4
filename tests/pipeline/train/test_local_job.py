"""Training without Ray: when, with which cores, and what happens to errors of the process."""

from pathlib import Path

import pytest

from helpers.samples import spoil, write_shard_set
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.train import local_job, stage
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.local_job import MAX_RESTARTS, TrainingError, needs_no_ray, num_cores
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without Ray, also if an earlier test of this process has connected to it."""
    monkeypatch.setattr(local_job, "is_connected", lambda: False)
    monkeypatch.setattr(stage, "ray_session", lambda address: pytest.fail("Ray was started"))


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    write_shard_set(tmp_path / "shards", num_subjects=3, channels=("rgb",))
    options = {"epochs": 1, "batch_size": 2, "split": "kfold:3:0"}
    return TrainConfig(shards=str(tmp_path / "shards"), out=tmp_path / "run", **options)


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"use_gpu": True}, {"address": "auto"}])
def test_several_workers_gpus_and_clusters_need_ray(config, options, monkeypatch):
    assert needs_no_ray(config) and not needs_no_ray(config.model_copy(update=options))
    monkeypatch.setattr(local_job, "is_connected", lambda: True)
    assert not needs_no_ray(config)


def test_cores_are_those_of_the_option_or_all(config, monkeypatch):
    monkeypatch.setattr(local_job, "available_cores", lambda: 3)
    assert num_cores(config) == 3 and num_cores(config.model_copy(update={"cpus_per_worker": 2})) == 2
    with pytest.raises(UsageError, match="cpus_per_worker 4: this machine has 3 cores; choose fewer"):
        stage.run(config.model_copy(update={"cpus_per_worker": 4}))
    assert not (config.out / "config.json").exists()


@pytest.mark.faults
def test_damaged_sample_ends_the_training_without_a_restart(config, monkeypatch):
    shards = ShardSet.open(config.shards)
    spoil(Path(config.shards), shards.rows)
    starts: list[int] = []
    monkeypatch.setattr(local_job, "WorkerProcesses", counted(starts))
    with pytest.raises(BadSampleError, match=shards.rows[0].key[:3]):
        stage.run(config)
    assert starts == [1]


@pytest.mark.faults
def test_other_errors_are_raised_after_restarts(config, monkeypatch):
    starts: list[int] = []
    monkeypatch.setattr(local_job, "WorkerProcesses", counted(starts))
    # A folder in the place of a file that the loop writes.
    (config.out / "metrics.jsonl").mkdir(parents=True)
    (config.out / ".lock").touch()
    with pytest.raises(TrainingError, match="directory"):
        local_job.train_in_one_process(stage.prepare(config, in_process=False)[2], cores=1)
    assert starts == [1] * (1 + MAX_RESTARTS)


def counted(starts: list[int]):
    """`WorkerProcesses` that appends its number of processes to `starts`."""
    started = local_job.WorkerProcesses

    def start(count: int, num_threads: int):
        starts.append(count)
        return started(count, num_threads)

    return start
