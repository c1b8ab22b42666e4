"""Restarts of a training: failures in a row are limited, those of a lifetime are not."""

from contextlib import nullcontext
from typing import Any

import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import WorkerGroupError

from helpers import small_runs
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train import job as training_job
from smile_pipe.pipeline.train.failure_policy import FailuresInARow
from smile_pipe.pipeline.train.stage import prepare

FAILURE = WorkerGroupError("a worker died", worker_failures={0: RuntimeError("died")})


def test_a_new_checkpoint_resets_the_count(tmp_path):
    run = RunDirectory(tmp_path)
    policy = FailuresInARow(FailureConfig(max_failures=2), run)

    def failures(count: int) -> list[str]:
        return [policy.make_decision(FAILURE).name for _ in range(count)]

    assert failures(2) == ["RETRY"] * 2
    for step in range(1, 6):
        run.save(step, {"weight": torch.zeros(2)}, {"step": step}, keep=1)
        assert failures(2) == ["RETRY"] * 2
    assert policy.make_decision(FAILURE) == FailureDecision.RAISE


def test_a_training_uses_this_policy(tmp_path, monkeypatch):
    used: list[Any] = []

    class Trainer:
        def __init__(self, _: Any, run_config: RunConfig, **options: Any) -> None:
            self.run_config = run_config

        def fit(self) -> None:
            self._initialize_and_run_controller(failure_policy=None, callbacks=[])

        def _initialize_and_run_controller(self, **options: Any) -> None:
            used.append(options["failure_policy"])

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(training_job, "warn_on_lost_nodes", lambda *_: nullcontext())
    shards = small_runs.write_shards(tmp_path)
    job = prepare(small_runs.config(shards, tmp_path / "run"), in_process=True)[2]
    training_job.train_on_ray(job, {"CPU": 1})
    assert isinstance(used[0], FailuresInARow) and used[0].run.root == RunDirectory(job.config.out).root
    assert used[0].failure_config.max_failures == training_job.MAX_RESTARTS
