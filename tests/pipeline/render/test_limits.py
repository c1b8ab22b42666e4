"""What one sample may cost a worker, with real workers that hang, crash and swell."""

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

import numpy as np
import pytest

from helpers.processes import workers
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.render import operators
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.limits import MAX_DEATHS, Limits, limited, not_limited
from smile_pipe.pipeline.render.operators import pieces_table, read_pieces
from smile_pipe.pipeline.render.stage import run
from smile_pipe.pipeline.render.units import WorkUnit
from smile_pipe.shards.index import read_failures
from smile_pipe.shards.storage import StorageError, StoragePath


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def limits() -> Limits:
    return Limits(seconds=30, megabytes=200)


def in_a_child(work) -> int:
    """The exit code of a process that does `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_stays_within_leaves_no_mark(limits, marks):
    with limited(limits, marks, "a"):
        assert np.zeros(1000).sum() == 0
    assert list(marks.iterdir()) == []


def test_memory_beyond_the_limit_is_an_error_and_the_worker_lives_on(limits, marks):
    with pytest.raises(MeshError, match="takes more than 200 MB"), limited(limits, marks, "a"):
        np.ones(400 << 17)
    assert np.ones(400 << 17).nbytes == 400 << 20


def test_a_sample_that_hangs_ends_its_worker_and_is_given_up_after_the_second(limits, marks):
    hasty = limits.model_copy(update={"seconds": 0.3})

    def hang() -> None:
        with limited(hasty, marks, "a"):
            time.sleep(20)

    start = time.monotonic()
    assert [in_a_child(hang), in_a_child(hang)] == [1, 1] and time.monotonic() - start < 10
    with pytest.raises(MeshError, match=r"given up: 2 workers died of it, or it took them more than 0\.3 s"):
        hang()


def test_one_death_is_forgiven_and_forgotten(limits, marks):
    def die() -> None:
        with limited(limits, marks, "a"):
            os._exit(9)

    assert in_a_child(die) == 9
    with limited(limits, marks, "a"):
        pass
    assert in_a_child(die) == 9
    with limited(limits, marks, "a"):
        pass


def test_an_ordinary_error_is_passed_on_and_leaves_no_mark(limits, marks):
    with pytest.raises(MeshError, match="line 3"), limited(limits, marks, "a"):
        raise MeshError("line 3: bad")
    assert list(marks.iterdir()) == []


class TestWaitingForSomethingElse:
    def test_takes_none_of_the_time(self, limits, marks):
        hasty = limits.model_copy(update={"seconds": 0.5})

        def wait() -> None:
            with limited(hasty, marks, "a"), not_limited():
                time.sleep(1)

        assert in_a_child(wait) == 0

    def test_and_what_was_left_of_it_is_left(self, limits, marks):
        hasty = limits.model_copy(update={"seconds": 0.6})

        def work_and_wait() -> None:
            with limited(hasty, marks, "a"):
                for _ in range(3):
                    time.sleep(0.3)
                    with not_limited():
                        pass

        assert in_a_child(work_and_wait) == 1

    def test_takes_none_of_the_memory(self, limits, marks):
        with limited(limits, marks, "a"), not_limited():
            assert np.ones(400 << 17).nbytes == 400 << 20

    def test_and_what_was_left_of_it_is_left_too(self, limits, marks):
        # In a process of its own: what this one has once had and not given back would not count for the sample.
        swell = f"""if True:
            from pathlib import Path
            import numpy as np
            from smile_pipe.pipeline.render.limits import Limits, limited, not_limited
            with limited(Limits.model_validate_json({limits.model_dump_json()!r}), Path({str(marks)!r}), "a"):
                kept = np.ones(120 << 17)
                with not_limited():
                    pass
                kept = [kept, np.ones(120 << 17)]
        """
        ended = subprocess.run([sys.executable, "-c", swell], capture_output=True, text=True)
        assert ended.returncode == 1 and "MeshError: takes more than 200 MB of memory" in ended.stderr

    def test_changes_nothing_where_there_are_no_limits(self):
        with not_limited():
            assert np.ones(400 << 17).nbytes == 400 << 20


def test_pieces_of_one_sequence_that_are_made_at_the_same_time_are_not_deaths_of_each_other(
    limits, marks, tmp_path, monkeypatch
):
    sample = SampleSource("a", "a", "HA", None, (ScanFiles("a.obj"),) * 3, frame_rate=25.0)
    fork = multiprocessing.get_context("fork")
    together, settings = fork.Barrier(3), RenderConfig(data_dir=tmp_path, out=tmp_path / "out").resolve()

    def meet(*_: object) -> None:
        together.wait(timeout=30)
        raise MeshError("met the others")

    def read(start: int) -> None:
        piece = pieces_table([WorkUnit(sample, start, start + 1)])
        (row,) = read_pieces(piece, str(tmp_path), settings, limits, str(marks)).to_pylist()
        (tmp_path / f"{start}.failure").write_text(row["failure"])

    monkeypatch.setattr(operators, "read_piece", meet)
    children = [fork.Process(target=read, args=(start,)) for start in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert all("met the others" in (tmp_path / f"{start}.failure").read_text() for start in range(3))
    assert list(marks.iterdir()) == []


class TestMarksUnderAUrl:
    def test_are_kept_and_taken_away(self, limits, s3_url):
        marks = StoragePath(s3_url) / "shards/.progress/deaths"
        with limited(limits, marks, "a"):
            assert (marks / "a.deaths").read_bytes() == b"x"
        assert not (marks / "a.deaths").exists()

    def test_count_the_deaths(self, limits, s3_url):
        marks = StoragePath(s3_url) / "deaths"
        (marks / "a.deaths").write_bytes(b"x" * MAX_DEATHS)
        with pytest.raises(MeshError, match="given up: 2 workers died of it"), limited(limits, marks, "a"):
            pass

    def test_a_storage_that_fails_is_no_fault_of_the_sample(self, limits, s3_url, monkeypatch):
        marks = StoragePath(s3_url) / "deaths"

        def fail(*_: object, **__: object) -> None:
            raise OSError(16, "Please reduce your request rate.")

        monkeypatch.setattr(marks.fs, "open", fail)
        with pytest.raises(StorageError, match=r"a\.deaths: the storage failed"), limited(limits, marks, "a"):
            pass


def test_a_scan_that_its_workers_die_of_is_a_failure_and_all_others_are_rendered(faces_dir, ray_cluster, tmp_path):
    subject = next(path for path in sorted(faces_dir.iterdir()) if path.is_dir())
    shutil.copytree(subject, tmp_path / "faces" / subject.name)
    mesh = sorted((tmp_path / "faces").rglob("*.wrl"))[3]
    key = mesh.stem.removesuffix("_F3D")
    # Long enough to read that its worker is found in the act.
    mesh.write_bytes(mesh.read_bytes() + b"# a long comment\n" * (8 << 20))
    out = tmp_path / "out"
    stop = threading.Event()

    def kill_whoever_reads_it() -> None:
        deaths = 0
        while not stop.is_set():
            mark = out / ".progress/deaths" / f"{key}.0.deaths"
            # The mark of a sample that is given up stays where it is.
            if mark.exists() and mark.stat().st_size == deaths + 1 <= MAX_DEATHS:
                deaths += 1
                for pid in workers():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    killer = threading.Thread(target=kill_whoever_reads_it)
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


def test_a_scan_that_takes_too_much_memory_is_a_failure(faces_dir, ray_cluster, tmp_path):
    subject = next(path for path in sorted(faces_dir.iterdir()) if path.is_dir())
    shutil.copytree(subject, tmp_path / "faces" / subject.name)
    mesh = sorted((tmp_path / "faces").rglob("*.wrl"))[3]
    mesh.write_bytes(mesh.read_bytes() + b"# a long comment\n" * (8 << 20))
    options = {"size": 32, "channels": ("rgb",), "sample_memory": 100}
    manifest = run(RenderConfig(data_dir=tmp_path / "faces", out=tmp_path / "out", **options))
    (failure,) = read_failures(tmp_path / "out/failures.parquet")
    assert manifest.num_samples == 6 and "memory" in failure.reason
