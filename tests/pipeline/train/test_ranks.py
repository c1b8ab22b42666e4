"""Training on two ranks, real processes with gloo: bit-identical resuming, also with another number of workers."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from helpers import small_runs
from helpers.small_runs import NUM_LEARNED, NUM_STEPS, config, learn, same, timeless, weights
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import RunLog
from smile_pipe.pipeline.train import cluster, loop, train_step
from smile_pipe.pipeline.train import job as train_job
from smile_pipe.pipeline.train import stage as train
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.train_step import TrainStep

pytestmark = pytest.mark.slow

# In the second epoch, one step after the checkpoint that the run resumes from.
STOP, SAVED = NUM_STEPS + 3, NUM_STEPS + 2
# Time limit for waiting for the other process, which may have failed.
MOST = timedelta(seconds=60)


class StoppedError(Exception):
    """Stands for the death of the process."""


def watched(stop_at: int, notes: Path, rank: int, poisoned: int = -1) -> Callable[[], None]:
    """Record the keys of each step and stop after `stop_at`; returns a function that undoes the patches.

    At the step `poisoned` the images of rank 1 are NaN.
    """
    learn_step, log_step, augment = TrainStep.step, RunLog.step, train_step.augment

    def noting(self: TrainStep, batch: Any, epoch: int, step: int, *rest: Any) -> Any:
        # If a step is repeated after a stop, the second time counts.
        (notes / f"{epoch}.{step}.{rank}").write_text(" ".join(batch.keys))
        factor = torch.nan if step == poisoned and rank == 1 else 1.0
        train_step.augment = lambda *given: augment(*given) * factor
        losses = learn_step(self, batch, epoch, step, *rest)
        (notes.parent / f"skipped-{rank}").write_text(str(int(self.finite_steps.num_skipped)))
        return losses

    def stopping(log: RunLog, number: int, *rest: Any) -> None:
        log_step(log, number, *rest)
        if number == stop_at:
            raise StoppedError

    TrainStep.step, RunLog.step = noting, stopping  # type: ignore[method-assign]

    def undo() -> None:
        TrainStep.step, RunLog.step = learn_step, log_step  # type: ignore[method-assign]
        train_step.augment = augment

    return undo


def begin(folder: Path) -> None:
    """Make the architectures known in each process, once: they are files, which no other may read meanwhile."""
    torch.set_num_threads(1)
    own = folder / str(os.getpid())
    own.mkdir()
    small_runs.register(own)


def work(rank: int, job: Job, meeting: Path, stop_at: int, poisoned: int) -> None:
    """Entry point of each of the two processes."""
    notes = job.config.out.parent / "notes"
    notes.mkdir(exist_ok=True)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=MOST)
    undo = watched(stop_at, notes, rank, poisoned)
    try:
        loop.train(job, Worker(rank, 2, torch.device("cpu")))
    finally:
        undo()
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Iterator[ProcessPoolExecutor]:
    """Two processes that are shared by all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), begin, (folder,)) as pool:
        yield pool


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def learn_on_two(ranks, shards, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Returns a function like `learn` for two processes; `stop_at` is the step after which they stop."""
    monkeypatch.setattr(train, "ray_session", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "resources_per_worker", lambda config: {})

    def run(out: Path, stop_at: int = 0, poisoned: int = -1, **options: Any) -> Any:
        def on_both(job: Job, resources: dict[str, int]) -> None:
            # Each task waits for the other one, so no process takes both.
            meeting = tmp_path / f"meeting-{out.parent.name}-{stop_at}"
            each = partial(work, job=job, meeting=meeting, stop_at=stop_at, poisoned=poisoned)
            for ended in [ranks.submit(each, rank) for rank in range(2)]:
                ended.result(timeout=120)

        monkeypatch.setattr(train_job, "train_on_ray", on_both)
        wanted = config(shards, out, num_workers=2, batch_size=2, save_every=2, **options)
        if not stop_at:
            return train.run(wanted)
        with pytest.raises(StoppedError):
            train.run(wanted)
        assert RunDirectory(out).checkpoints()[-1].step == SAVED
        return None

    return run


def assert_each_sample_once_an_epoch(notes: Path) -> None:
    """Each sample was read once per epoch, by either rank."""
    for epoch in range(2):
        keys = Counter(key for path in notes.glob(f"{epoch}.*") for key in path.read_text().split())
        assert len(keys) == NUM_LEARNED and set(keys.values()) == {1}, epoch


@pytest.mark.parametrize("options", [{}, {"recipe": "multiview-vlm"}, {"arch": small_runs.DROPPING_ARCH}])
def test_run_stopped_within_an_epoch_resumes_bit_identically(learn_on_two, tmp_path, options):
    whole, halves = (tmp_path / name / "run" for name in ("whole", "halves"))
    learn_on_two(whole, **options)
    learn_on_two(halves, stop_at=STOP, **options)
    manifest = learn_on_two(halves, resume=True, **options)
    assert same(weights(whole), weights(halves)) and timeless(whole) == timeless(halves)
    assert manifest.world_sizes == ((0, 2),) and manifest.num_steps == 2 * NUM_STEPS
    assert_each_sample_once_an_epoch(whole.parent / "notes")
    assert_each_sample_once_an_epoch(halves.parent / "notes")


def test_step_that_is_not_finite_on_one_rank_is_skipped_on_both(learn_on_two, tmp_path):
    manifest = learn_on_two(tmp_path / "run", poisoned=2)
    assert manifest.num_skipped_steps == 1
    assert [(tmp_path / f"skipped-{rank}").read_text() for rank in range(2)] == ["1", "1"]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_one_worker_resumes_a_run_of_two(learn_on_two, shards, tmp_path):
    out = tmp_path / "run"
    learn_on_two(out, stop_at=STOP)
    undo = watched(0, tmp_path / "notes", 0)
    try:
        manifest = learn(shards, out, batch_size=4, resume=True)
    finally:
        undo()
    assert manifest.world_sizes == ((0, 2), (SAVED, 1)) and manifest.num_steps == 2 * NUM_STEPS
    # Samples after the last checkpoint of the two were read again.
    (tmp_path / "notes" / f"1.{SAVED}.1").unlink()
    assert_each_sample_once_an_epoch(tmp_path / "notes")


def test_two_workers_resume_a_run_of_one(learn_on_two, shards, tmp_path):
    out, notes = tmp_path / "run", tmp_path / "notes"
    notes.mkdir()
    undo = watched(STOP, notes, 0)
    try:
        with pytest.raises(StoppedError):
            learn(shards, out, batch_size=4, save_every=2)
    finally:
        undo()
    manifest = learn_on_two(out, resume=True)
    assert manifest.world_sizes == ((0, 1), (SAVED, 2)) and manifest.num_steps == 2 * NUM_STEPS
    assert_each_sample_once_an_epoch(notes)
