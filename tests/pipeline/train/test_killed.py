"""Interrupted training: a killed worker or a stopped command gives a bit-identical result."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.processes import workers
from helpers.samples import write_shard_set
from helpers.small_runs import same, timeless, weights
from smile_pipe.pipeline.common import worker_processes
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train import local_job
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import run as train

pytestmark = [pytest.mark.faults, pytest.mark.ray]

IN_FULL = pytest.mark.skipif(not os.environ.get("SMILE_PIPE_FAULTS"), reason="takes long: make test-faults")

EPOCHS = 12
OPTIONS = {"epochs": EPOCHS, "batch_size": 2, "split": "kfold:6:0", "keep_checkpoints": EPOCHS}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen samples, fifteen of them for training."""
    root = tmp_path_factory.mktemp("shards") / "shards"
    write_shard_set(root, num_subjects=6, channels=("rgb",))
    return root


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Uninterrupted runs by number of workers; each is made once."""
    made: dict[int, Path] = {}

    def make(num_workers: int) -> Path:
        if num_workers not in made:
            out = tmp_path_factory.mktemp("uninterrupted") / "run"
            train(config(shards, out, num_workers))
            made[num_workers] = out
        return made[num_workers]

    return make


def config(shards: Path, out: Path, num_workers: int = 1) -> TrainConfig:
    return TrainConfig(shards=str(shards), out=out, num_workers=num_workers, **OPTIONS)


def assert_same_result(found: Path, expected: Path) -> None:
    """Equal weights and losses, to the bit, and a row of metrics for each step that has one, once."""
    assert same(weights(found), weights(expected)) and timeless(found) == timeless(expected)
    assert RunManifest.read(found / "manifest.json") == RunManifest.read(expected / "manifest.json")


class Killer(threading.Thread):
    """Kills one worker of a run, once, as soon as there is a checkpoint."""

    def __init__(self, out: Path, name: str) -> None:
        super().__init__(daemon=True)
        self.out, self.name_of_worker, self.killed, self.steps_before = out, name, 0, -1
        self.first_checkpoint = out / "checkpoints" / "never"

    def run(self) -> None:
        until = time.monotonic() + 120
        while not (checkpoints := RunDirectory(self.out).checkpoints()) and time.monotonic() < until:
            time.sleep(0.005)
        self.killed = workers(self.name_of_worker)[-1]
        os.kill(self.killed, signal.SIGKILL)
        self.first_checkpoint, self.steps_before = checkpoints[0].path, len(RunDirectory(self.out).checkpoints())
        self.inode = self.first_checkpoint.local.stat().st_ino


def train_and_kill(out: Path, wanted: TrainConfig, name: str) -> None:
    """Train, and kill the worker with this name in the middle of the run; finished steps are not repeated."""
    killer = Killer(out, name)
    killer.start()
    train(wanted)
    killer.join()
    assert killer.killed and killer.steps_before < EPOCHS
    assert killer.first_checkpoint.local.stat().st_ino == killer.inode


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=IN_FULL)])
def test_killed_worker_restarts_from_the_last_checkpoint(shards, ray_cluster, uninterrupted, tmp_path, num_workers):
    import ray

    if ray.cluster_resources()["CPU"] < num_workers:
        pytest.skip("there are not cores for as many workers")
    train_and_kill(tmp_path / "run", config(shards, tmp_path / "run", num_workers), "RayTrainWorker")
    assert_same_result(tmp_path / "run", uninterrupted(num_workers))


def test_killed_process_without_ray_restarts_from_the_last_checkpoint(shards, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(local_job, "is_connected", lambda: False)
    waits: list[str] = []
    train_and_kill(tmp_path / "run", config(shards, tmp_path / "run"), worker_processes.__name__)
    assert_same_result(tmp_path / "run", uninterrupted(1))
    shutil.rmtree(tmp_path / "run")
    train(config(shards, tmp_path / "run"), on_wait=waits.append)
    assert waits == ["starting a process; one worker on CPUs needs no Ray"]
    assert_same_result(tmp_path / "run", uninterrupted(1))


class TestStopping:
    @pytest.fixture
    def stopped(self, shards: Path, tmp_path: Path) -> Callable[[signal.Signals], tuple[int, str, float]]:
        """Runs `smile-pipe train`, stops it once there is a checkpoint, and gives code, stderr and seconds it took."""

        def stop(number: signal.Signals) -> tuple[int, str, float]:
            words = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
            arguments = ["train", "--shards", str(shards), "--out", str(tmp_path / "run"), *words]
            command = [sys.executable, "-c", "from smile_pipe.cli.main import main; main()", *arguments]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                until = time.monotonic() + 200
                while not RunDirectory(tmp_path / "run").checkpoints() and time.monotonic() < until:
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.01)
                process.send_signal(number)
                began = time.monotonic()
                _, stderr = process.communicate(timeout=60)
                return process.returncode, stderr, time.monotonic() - began
            finally:
                process.kill()

        return stop

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=IN_FULL)]
    )
    def test_stopped_command_ends_soon_names_resume_and_resumes_to_the_same_result(
        self, shards, uninterrupted, stopped, tmp_path, number, code
    ):
        found, stderr, seconds = stopped(number)
        assert found == code, stderr
        assert "--resume" in stderr and "Traceback" not in stderr
        assert seconds < 20
        out = RunDirectory(tmp_path / "run")
        left = out.checkpoints()
        assert 0 < len(left) < EPOCHS and not out.manifest_path.exists()
        for checkpoint in left:
            assert checkpoint.load_state()["step"] == checkpoint.step and checkpoint.load_model()
        train(config(shards, tmp_path / "run").model_copy(update={"resume": True}))
        assert_same_result(tmp_path / "run", uninterrupted(1))
