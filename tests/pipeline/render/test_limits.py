"""Limits on time, memory and deaths, with real processes that hang, crash and allocate."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from helpers.processes import workers
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.render import process
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.job import _deaths_folder
from smile_pipe.pipeline.render.limits import MAX_DEATHS, Limits, count_deaths, enforce_limits, pause_limits
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.process import read_units
from smile_pipe.pipeline.render.stage import run
from smile_pipe.pipeline.render.units import WorkUnit
from smile_pipe.shards.errors import StorageError
from smile_pipe.shards.index import read_failures
from smile_pipe.shards.storage import StoragePath

pytestmark = pytest.mark.faults


@pytest.fixture
def deaths(tmp_path: Path) -> Path:
    return tmp_path / "deaths"


@pytest.fixture
def limits() -> Limits:
    return Limits(seconds=30, megabytes=200)


def exit_code_of(work) -> int:
    """Run `work` in a child process and return its exit code."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_block_within_the_limits_leaves_no_file(limits, deaths):
    with enforce_limits(limits, deaths, "a"):
        assert np.zeros(1000).sum() == 0
    assert list(deaths.iterdir()) == []


def test_exceeding_the_memory_limit_is_an_error_and_the_worker_survives(limits, deaths):
    with pytest.raises(MeshError, match="takes more than 200 MB"), enforce_limits(limits, deaths, "a"):
        np.ones(400 << 17)
    assert np.ones(400 << 17).nbytes == 400 << 20


def test_a_sample_that_hangs_is_given_up_after_two_workers(limits, deaths):
    short = limits.model_copy(update={"seconds": 0.3})

    def hang() -> None:
        with enforce_limits(short, deaths, "a"):
            time.sleep(20)

    start = time.monotonic()
    assert [exit_code_of(hang), exit_code_of(hang)] == [1, 1] and time.monotonic() - start < 10
    with pytest.raises(MeshError, match=r"given up: 2 workers died of it, or it took them more than 0\.3 s"):
        hang()


def test_one_death_is_not_counted_after_a_success(limits, deaths):
    def die() -> None:
        with enforce_limits(limits, deaths, "a"):
            os._exit(9)

    assert exit_code_of(die) == 9
    with enforce_limits(limits, deaths, "a"):
        pass
    assert exit_code_of(die) == 9
    with enforce_limits(limits, deaths, "a"):
        pass


def test_kills_of_the_driver_with_its_workers_are_not_counted(limits, tmp_path):
    output = RenderOutput(tmp_path / "out")

    def read() -> None:
        with enforce_limits(limits, output.deaths, "a.0"):
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(MAX_DEATHS + 1):
        output.begin(())
        assert exit_code_of(read) == -signal.SIGKILL
        assert count_deaths(output.deaths, "a.0") == 1


def test_counts_outside_the_output_directory_are_those_of_one_driver(monkeypatch):
    output = RenderOutput("memory://driver/out")
    folders = set()
    for job in ("01", "02"):
        monkeypatch.setattr(ray, "get_runtime_context", lambda job=job: SimpleNamespace(get_job_id=lambda: job))
        folders |= {_deaths_folder(output), _deaths_folder(output)}
    assert len(folders) == 2


def test_an_ordinary_error_propagates_and_leaves_no_file(limits, deaths):
    with pytest.raises(MeshError, match="line 3"), enforce_limits(limits, deaths, "a"):
        raise MeshError("line 3: bad")
    assert list(deaths.iterdir()) == []


class TestPausedLimits:
    def test_paused_time_is_not_counted(self, limits, deaths):
        short = limits.model_copy(update={"seconds": 0.5})

        def wait() -> None:
            with enforce_limits(short, deaths, "a"), pause_limits():
                time.sleep(1)

        assert exit_code_of(wait) == 0

    def test_time_used_before_a_pause_still_counts_after_it(self, limits, deaths):
        short = limits.model_copy(update={"seconds": 0.6})

        def work_and_wait() -> None:
            with enforce_limits(short, deaths, "a"):
                for _ in range(3):
                    time.sleep(0.3)
                    with pause_limits():
                        pass

        assert exit_code_of(work_and_wait) == 1

    def test_memory_allocated_in_a_pause_is_not_limited(self, limits, deaths):
        with enforce_limits(limits, deaths, "a"), pause_limits():
            assert np.ones(400 << 17).nbytes == 400 << 20

    def test_memory_used_before_a_pause_still_counts_after_it(self, limits, deaths):
        # In a new process: memory that this one has freed and keeps would not count for the sample.
        script = f"""if True:
            from pathlib import Path
            import numpy as np
            from smile_pipe.pipeline.render.limits import Limits, enforce_limits, pause_limits
            with enforce_limits(Limits.model_validate_json({limits.model_dump_json()!r}), Path({str(deaths)!r}), "a"):
                kept = np.ones(120 << 17)
                with pause_limits():
                    pass
                kept = [kept, np.ones(120 << 17)]
        """
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert ended.returncode == 1 and "MeshError: takes more than 200 MB of memory" in ended.stderr

    def test_pausing_without_limits_does_nothing(self):
        with pause_limits():
            assert np.ones(400 << 17).nbytes == 400 << 20


def test_units_of_one_sequence_processed_in_parallel_do_not_count_as_deaths(limits, deaths, tmp_path, monkeypatch):
    sample = SampleSource("a", "a", "HA", None, (ScanFiles("a.obj"),) * 3, frame_rate=25.0)
    fork = multiprocessing.get_context("fork")
    together, settings = fork.Barrier(3), RenderConfig(data_dir=tmp_path, out=tmp_path / "out").resolve()

    def meet(*_: object) -> None:
        together.wait(timeout=30)
        raise MeshError("met the others")

    def read(start: int) -> None:
        (unit,) = read_units([WorkUnit(sample, start, start + 1)], tmp_path, settings, limits, deaths)
        (tmp_path / f"{start}.failure").write_text(unit.failure.reason)

    monkeypatch.setattr(process, "read_frames", meet)
    children = [fork.Process(target=read, args=(start,)) for start in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert all("met the others" in (tmp_path / f"{start}.failure").read_text() for start in range(3))
    assert list(deaths.iterdir()) == []


class TestDeathCountsUnderUrl:
    def test_counts_are_written_and_removed(self, limits, s3_url):
        deaths = StoragePath(s3_url) / "shards/.progress/deaths"
        with enforce_limits(limits, deaths, "a"):
            assert (deaths / "a.deaths").read_bytes() == b"x"
        assert not (deaths / "a.deaths").exists()

    def test_deaths_are_counted(self, limits, s3_url):
        deaths = StoragePath(s3_url) / "deaths"
        (deaths / "a.deaths").write_bytes(b"x" * MAX_DEATHS)
        with pytest.raises(MeshError, match="given up: 2 workers died of it"), enforce_limits(limits, deaths, "a"):
            pass

    def test_a_storage_failure_is_a_storage_error(self, limits, s3_url, monkeypatch):
        deaths = StoragePath(s3_url) / "deaths"

        def fail(*_: object, **__: object) -> None:
            raise OSError(16, "Please reduce your request rate.")

        monkeypatch.setattr(deaths.fs, "open", fail)
        with pytest.raises(StorageError, match=r"a\.deaths: the storage failed"), enforce_limits(limits, deaths, "a"):
            pass


def test_a_scan_that_kills_its_workers_is_a_failure_and_the_others_are_rendered(faces_dir, ray_cluster, tmp_path):
    subject = next(path for path in sorted(faces_dir.iterdir()) if path.is_dir())
    shutil.copytree(subject, tmp_path / "faces" / subject.name)
    mesh = sorted((tmp_path / "faces").rglob("*.wrl"))[3]
    key = mesh.stem.removesuffix("_F3D")
    # It takes long enough to read to be killed during it.
    mesh.write_bytes(mesh.read_bytes() + b"# a long comment\n" * (8 << 20))
    out = tmp_path / "out"
    stop = threading.Event()

    def kill_its_readers() -> None:
        num_deaths = 0
        while not stop.is_set():
            counter = out / ".progress/deaths" / f"{key}.0.deaths"
            # The count of a sample that is given up stays.
            if counter.exists() and counter.stat().st_size == num_deaths + 1 <= MAX_DEATHS:
                num_deaths += 1
                for pid in workers():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    killer = threading.Thread(target=kill_its_readers)
    killer.start()
    try:
        manifest = run(RenderConfig(data_dir=tmp_path / "faces", out=out, size=32, channels=("rgb",)))
    finally:
        stop.set()
        killer.join()
    assert (manifest.num_samples, manifest.num_failures) == (6, 1)
    (failure,) = read_failures(out / "failures.parquet")
    assert failure.key == key and "given up: 2 workers died of it" in failure.reason
    again = run(RenderConfig(data_dir=tmp_path / "faces", out=out, size=32, channels=("rgb",), retry_failed=True))
    assert (again.num_samples, again.num_failures) == (7, 0)


def test_a_scan_over_the_memory_limit_is_a_failure(faces_dir, ray_cluster, tmp_path):
    subject = next(path for path in sorted(faces_dir.iterdir()) if path.is_dir())
    shutil.copytree(subject, tmp_path / "faces" / subject.name)
    mesh = sorted((tmp_path / "faces").rglob("*.wrl"))[3]
    mesh.write_bytes(mesh.read_bytes() + b"# a long comment\n" * (8 << 20))
    options = {"size": 32, "channels": ("rgb",), "sample_memory": 100}
    manifest = run(RenderConfig(data_dir=tmp_path / "faces", out=tmp_path / "out", **options))
    (failure,) = read_failures(tmp_path / "out/failures.parquet")
    assert manifest.num_samples == 6 and "memory" in failure.reason
