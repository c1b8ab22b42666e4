"""Renders that are killed, stopped or run out of disk space give the same output in the end.

`make test-faults` runs all of them; otherwise there are few kills and few scans.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.processes import workers
from helpers.worlds import content
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.stage import plan, run
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run as synth
from smile_pipe.shards.manifest import ShardManifest

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

IN_FULL = bool(os.environ.get("SMILE_PIPE_FAULTS"))
KILLS = 25 if IN_FULL else 2
SUBJECTS = 20 if IN_FULL else 3
OPTIONS = {"size": 48, "samples_per_shard": 10}
FRAMES_WITHOUT_RAY = {"ray": 0, "processes": 10_000}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 scans of each subject."""
    out = tmp_path_factory.mktemp("faces")
    synth(SynthConfig(out=out, subjects=SUBJECTS, texture_size=64))
    return out


@pytest.fixture(scope="module")
def undisturbed(faces: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The output of a render without faults."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(RenderConfig(data_dir=faces, out=out, **OPTIONS))
    return content(out)


def command(faces: Path, out: Path, **more: int) -> list[str]:
    options = [word for name, value in (OPTIONS | more).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    program = [sys.executable, "-c", "from smile_pipe.cli.main import main; main()"]
    return [*program, "render", str(faces), "--out", str(out), *options]


@pytest.fixture(params=FRAMES_WITHOUT_RAY)
def start(request: pytest.FixtureRequest, faces: Path, tmp_path: Path) -> Iterator:
    """Return a function that starts a render into `tmp_path / "out"` in a process; all are killed at the end."""
    started: list[subprocess.Popen] = []
    # A killed process leaves its files here. The name is short, since Ray creates sockets in it.
    scratch = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))

    def begin() -> subprocess.Popen:
        process = subprocess.Popen(
            command(faces, tmp_path / "out", max_frames_without_ray=FRAMES_WITHOUT_RAY[request.param]),
            env=os.environ | {"TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    shutil.rmtree(scratch, ignore_errors=True)


def wait_for(files: str, count: int, out: Path, process: subprocess.Popen) -> None:
    """Wait until `out` has `count` such files, or the process has ended."""
    while process.poll() is None and len(list(out.glob(files))) < count:
        time.sleep(0.01)


def test_repeatedly_killed_render_gives_the_same_bytes(request, start, faces, undisturbed, tmp_path):
    chance = random.Random(0)
    out, num_shards = tmp_path / "out", sum(name.endswith(".tar") for name in undisturbed)
    kills: list[tuple[bool, int]] = []
    for n in range(KILLS):
        process = start()
        if n % 5 == 0:
            # Before the first new shard, while the plan is computed or Ray starts.
            time.sleep(chance.random() * (8 if request.node.callspec.params["start"] == "ray" else 2))
        else:
            # Shortly after some shard, so that each part of the run is interrupted; kept shards count too.
            wait_for("shards/*.tar", 1 + n * (num_shards - 1) // KILLS, out, process)
            time.sleep(chance.random() * 0.3)
        kills.append((process.poll() is None, len(list(out.glob("shards/*.tar")))))
        process.kill()
        process.wait()
    print("killed in mid-run, and shards by then:", kills)
    assert sum(alive for alive, _ in kills) >= KILLS - 1
    last = start()
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert content(out) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_explains_how_to_resume(start, faces, undisturbed, ray_cluster, tmp_path, number):
    for _ in range(3):
        process = start()
        # A shard without its record is not finished.
        wait_for(".progress/*.tar.json", 1, tmp_path / "out", process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        if process.returncode:
            break
        # Too late: on a busy machine a run of few scans may be finished by then.
        assert content(tmp_path / "out") == undisturbed
        shutil.rmtree(tmp_path / "out")
    assert process.returncode == 128 + number, said
    assert "run the same command to continue" in said and "Traceback" not in said
    config = RenderConfig(data_dir=faces, out=tmp_path / "out", **OPTIONS)
    assert plan(config).kept
    run(config)
    assert content(tmp_path / "out") == undisturbed


def test_a_killed_worker_is_replaced_and_the_output_is_complete(faces, undisturbed, ray_cluster, tmp_path):
    killed: list[int] = []
    is_finished = threading.Event()

    def kill_one() -> None:
        # As soon as a worker process exists: progress is reported after a task, which may be the last. Kill only one,
        # since a sample that killed two workers is given up.
        while not killed and not is_finished.wait(0.01):
            for pid in workers()[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        run(RenderConfig(data_dir=faces, out=tmp_path / "out", **OPTIONS))
    finally:
        is_finished.set()
        killer.join()
    assert killed
    assert content(tmp_path / "out") == undisturbed


def test_a_full_disk_is_a_clear_error_and_the_run_can_be_resumed(faces, undisturbed, ray_cluster, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    largest = max(len(tar) for name, tar in undisturbed.items() if name.endswith(".tar"))
    size = f"size={int(2.5 * largest)}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        config = RenderConfig(data_dir=faces, out=disk / "out", **OPTIONS)
        with pytest.raises(OSError, match="No space left on device"):
            run(config)
        for path in (disk / "out/shards").iterdir():
            assert not path.name.endswith(".tar") or path.read_bytes() == undisturbed[f"shards/{path.name}"]
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        run(config)
        assert content(disk / "out") == undisturbed
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_scans_deleted_during_the_run_are_failures_until_they_return(faces, ray_cluster, tmp_path):
    data = shutil.copytree(faces, tmp_path / "data")
    gone = sorted(data.rglob("*.wrl"))[-1]
    whole = gone.read_bytes()
    config = RenderConfig(data_dir=data, out=tmp_path / "out", **OPTIONS)
    manifest = run(config, lambda progress: gone.unlink(missing_ok=True))
    assert manifest.num_failures == 1
    gone.write_bytes(whole)
    assert run(config).num_failures == 0
    assert ShardManifest.read(tmp_path / "out/manifest.json").num_samples == manifest.num_samples + 1
