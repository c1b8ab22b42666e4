"""Small renders in a few processes without Ray: the bytes of a render on Ray, and the same limits and failures."""

import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from helpers.processes import workers
from helpers.trees import contents
from smile_pipe.pipeline.common import worker_processes
from smile_pipe.pipeline.render import local_job, stage
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.limits import MAX_DEATHS
from smile_pipe.pipeline.render.local_job import is_small, num_processes
from smile_pipe.pipeline.render.stage import plan, run
from smile_pipe.shards.index import read_failures
from smile_pipe.shards.manifest import ShardManifest

OPTIONS = {"size": 48, "samples_per_shard": 8}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render without Ray, also if an earlier test of this process has connected to it."""
    monkeypatch.setattr(stage, "is_connected", lambda: False)
    monkeypatch.setattr(stage, "ray_session", lambda address: pytest.fail("Ray was started"))


@pytest.fixture
def scans(faces_dir: Path, tmp_path: Path) -> Path:
    """Seven scans of one subject, which a test may change."""
    subject = next(path for path in sorted(faces_dir.iterdir()) if path.is_dir())
    shutil.copytree(subject, tmp_path / "faces" / subject.name)
    return tmp_path / "faces"


def slow_to_read(scans: Path) -> str:
    """Make one scan long enough to be killed while it is read, and return its key."""
    mesh = sorted(scans.rglob("*.wrl"))[3]
    mesh.write_bytes(mesh.read_bytes() + b"# a long comment\n" * (8 << 20))
    return mesh.stem.removesuffix("_F3D")


def test_bytes_are_those_of_a_render_on_ray(shards_dir, faces_dir, no_ray, tmp_path):
    waits: list[str] = []
    manifest = run(RenderConfig(data_dir=faces_dir, out=tmp_path / "out", **OPTIONS), on_wait=waits.append)
    assert manifest == ShardManifest.read(shards_dir / "manifest.json")
    assert contents(tmp_path / "out") == contents(shards_dir)
    assert waits == [
        "starting 2 processes; this job is too small for Ray",
        "loading kernels (the first render on a machine compiles them)",
    ]


def test_all_channels_and_dynamic_images_of_sequences(no_ray, ray_cluster, tmp_path, monkeypatch):
    from helpers.small_datasets import write_bu4dfe

    write_bu4dfe(tmp_path / "data", subjects=1)
    options = {"data_dir": tmp_path / "data", "channels": "rgb,depth,normal,flow", "temporal": "both", "size": 32}
    run(RenderConfig(out=tmp_path / "out", **options))
    monkeypatch.undo()
    run(RenderConfig(out=tmp_path / "on-ray", **options))
    assert contents(tmp_path / "out") == contents(tmp_path / "on-ray")


def test_changed_labels_and_broken_scans_are_as_on_ray(scans, no_ray, ray_cluster, tmp_path, monkeypatch):
    sorted(scans.rglob("*.wrl"))[2].write_text("no mesh at all")
    for text in ("label", "geometry"):
        run(RenderConfig(data_dir=scans, out=tmp_path / "out", text=text, **OPTIONS))
    monkeypatch.undo()
    run(RenderConfig(data_dir=scans, out=tmp_path / "on-ray", text="geometry", **OPTIONS))
    assert contents(tmp_path / "out") == contents(tmp_path / "on-ray")


@pytest.mark.faults
def test_scan_that_kills_its_processes_is_a_failure_and_the_others_are_rendered(scans, no_ray, tmp_path):
    key, out, stop = slow_to_read(scans), tmp_path / "out", threading.Event()

    def kill_its_readers() -> None:
        num_deaths = 0
        while not stop.is_set():
            counter = out / ".progress/deaths" / f"{key}.0.deaths"
            if counter.exists() and counter.stat().st_size == num_deaths + 1 <= MAX_DEATHS:
                with suppress(psutil.Error):
                    processes = [psutil.Process(pid) for pid in workers(worker_processes.__name__)]
                    smallest, *_, largest = sorted(processes, key=lambda process: process.memory_info().rss)
                    # The one that has the long file in memory.
                    if largest.memory_info().rss - smallest.memory_info().rss > 100 << 20:
                        largest.kill()
                        num_deaths += 1
            time.sleep(0.002)

    killer = threading.Thread(target=kill_its_readers)
    killer.start()
    config = RenderConfig(data_dir=scans, out=out, size=32, channels=("rgb",))
    try:
        manifest = run(config)
    finally:
        stop.set()
        killer.join()
    assert (manifest.num_samples, manifest.num_failures) == (6, 1)
    (failure,) = read_failures(out / "failures.parquet")
    assert failure.key == key and "given up: 2 workers died of it" in failure.reason
    assert run(config.model_copy(update={"retry_failed": True})).num_failures == 0


@pytest.mark.faults
def test_scan_over_the_memory_limit_is_a_failure(scans, no_ray, tmp_path):
    key = slow_to_read(scans)
    manifest = run(RenderConfig(data_dir=scans, out=tmp_path / "out", size=32, sample_memory=100))
    (failure,) = read_failures(tmp_path / "out/failures.parquet")
    assert manifest.num_samples == 6 and failure.key == key and "memory" in failure.reason


class TestSize:
    """Which jobs are small."""

    def tasks(self, faces_dir: Path, out: Path, **options):
        config = RenderConfig(data_dir=faces_dir, out=out, **options)
        return plan(config).tasks, config.resolve()

    @pytest.mark.parametrize(("max_frames", "expected"), [(34, False), (35, True)])
    def test_frames_are_counted(self, faces_dir, tmp_path, max_frames, expected):
        assert is_small(*self.tasks(faces_dir, tmp_path / "out"), max_frames) == expected

    def test_images_have_to_fit_in_memory(self, faces_dir, tmp_path):
        # 35 scans of nine views of 2048 px are 10 GB.
        assert not is_small(*self.tasks(faces_dir, tmp_path / "out", size=2048, rig="9"), 1000)

    def test_rewritten_samples_count_and_copied_ones_do_not(self, shards_dir, faces_dir, tmp_path):
        out = shutil.copytree(shards_dir, tmp_path / "out")
        rewrites = self.tasks(faces_dir, out, text="geometry", **OPTIONS)
        assert not is_small(*rewrites, 34) and is_small(*rewrites, 35)
        copies = self.tasks(faces_dir, out, subjects="F0001", **OPTIONS)
        assert is_small(*copies, 0)

    def test_gpus_need_ray(self, faces_dir, tmp_path):
        tasks, settings = self.tasks(faces_dir, tmp_path / "out")
        assert not is_small(tasks, settings.model_copy(update={"renderer": "zbuffer-cuda"}), 1000)

    def test_more_frames_have_more_processes(self, faces_dir, tmp_path, monkeypatch):
        tasks, _ = self.tasks(faces_dir, tmp_path / "out")
        monkeypatch.setattr(local_job, "available_cores", lambda: 64)
        assert (num_processes(tasks[:1]), num_processes(tasks * 2), num_processes(tasks * 50)) == (2, 4, 8)
        monkeypatch.setattr(local_job, "available_cores", lambda: 1)
        assert num_processes(tasks * 50) == 1

    def test_zero_frames_and_a_connection_are_for_ray(self, scans, ray_cluster, tmp_path):
        waits: list[str] = []
        run(RenderConfig(data_dir=scans, out=tmp_path / "out", size=32), on_wait=waits.append)
        assert waits[0] == "connecting to Ray"


def test_zero_frames_without_ray_starts_ray(scans, monkeypatch, tmp_path):
    class StartedError(Exception):
        pass

    def start(address: str) -> None:
        raise StartedError

    monkeypatch.setattr(stage, "is_connected", lambda: False)
    monkeypatch.setattr(stage, "ray_session", start)
    with pytest.raises(StartedError):
        run(RenderConfig(data_dir=scans, out=tmp_path / "out", size=32, max_frames_without_ray=0))
