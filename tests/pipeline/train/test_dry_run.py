"""Dry runs: what they say is what a training then does, and they write nothing."""

import pytest

from helpers import small_runs
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train import dry_run
from smile_pipe.pipeline.train.dry_run import plan
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.errors import UsageError


@pytest.fixture
def shards(tmp_path):
    return small_runs.write_shards(tmp_path)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("options", [{}, {"recipe": "supervised", "val_fraction": 0.4}, {"text": "pseudo"}])
def test_a_plan_is_what_a_training_then_does(shards, tmp_path, options):
    config = small_runs.config(shards, tmp_path / "run", **options)
    before = names(tmp_path)
    found = plan(config)
    assert names(tmp_path) == before
    manifest = small_runs.learn(shards, tmp_path / "run", **options)
    assert (found.fingerprint, found.num_steps) == (manifest.fingerprint, manifest.num_steps)
    assert (found.num_samples, found.num_subjects) == (manifest.num_train_samples, len(manifest.train_subjects))
    assert (found.text_source, found.precision) == (manifest.text_source, manifest.precision)
    assert set(found.losses) == {name.removeprefix("loss_") for name in manifest.final_losses} - {"total"}
    assert found.num_validation_subjects == len(RunDirectory(tmp_path / "run").manifest().validation_subjects)


def test_time_is_that_of_the_later_steps(shards, tmp_path, monkeypatch):
    ticks = iter([0, 10, 20, 21, 30, 34, 40, 42])
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: next(ticks))
    found = plan(small_runs.config(shards, tmp_path / "run"))
    assert found.step_seconds == 2 and found.total_seconds == 2 * found.num_steps
    assert found.memory_bytes > 10_000_000


def test_parameters_are_those_that_have_gradients(shards, tmp_path, monkeypatch):
    models, step = [], TrainStep.step
    monkeypatch.setattr(TrainStep, "step", lambda self, *given: models.append(self.model) or step(self, *given))
    found = plan(small_runs.config(shards, tmp_path / "run"))
    parameters = list(models[0].parameters())
    assert found.num_parameters == sum(p.numel() for p in parameters if p.grad is not None)
    assert found.num_parameters < sum(p.numel() for p in parameters)


def test_gpus_are_not_measured(shards, tmp_path):
    found = plan(small_runs.config(shards, tmp_path / "run", use_gpu=True))
    assert found.step_seconds is found.total_seconds is found.memory_bytes is None and found.num_steps > 0


def test_errors_are_those_of_the_training(shards, tmp_path):
    with pytest.raises(UsageError, match="no loss left without text"):
        plan(small_runs.config(shards, tmp_path / "run", recipe="supervised", text="none"))
