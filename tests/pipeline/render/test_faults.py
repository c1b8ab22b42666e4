"""Renders that are killed, stopped or starved: nothing is lost, nothing is left half done, and the end is the same.

`make test-faults` runs them in full; without it a few moments and scans stand for many.
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


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, 25 of each subject."""
    out = tmp_path_factory.mktemp("faces")
    synth(SynthConfig(out=out, subjects=SUBJECTS, texture_size=64))
    return out


@pytest.fixture(scope="module")
def undisturbed(faces: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a render leaves that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(RenderConfig(data_dir=faces, out=out, **OPTIONS))
    return content(out)


def command(faces: Path, out: Path) -> list[str]:
    options = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    program = [sys.executable, "-c", "from smile_pipe.cli.main import main; main()"]
    return [*program, "render", str(faces), "--out", str(out), *options]


@pytest.fixture
def start(faces: Path, tmp_path: Path) -> Iterator:
    """Starts renders into `tmp_path / "out"` in a process of their own; those that are still there are killed."""
    started: list[subprocess.Popen] = []
    # Who is killed clears nothing away. The name is short, since Ray makes sockets in it.
    scratch = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))

    def begin() -> subprocess.Popen:
        process = subprocess.Popen(
            command(faces, tmp_path / "out"),
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
    """Wait until there are so many of these files in `out`, or the process has ended."""
    while process.poll() is None and len(list(out.glob(files))) < count:
        time.sleep(0.01)


def test_a_render_that_is_killed_again_and_again_comes_to_the_same_bytes(start, faces, undisturbed, tmp_path):
    chance = random.Random(0)
    out, num_shards = tmp_path / "out", sum(name.endswith(".tar") for name in undisturbed)
    moments: list[tuple[bool, int]] = []
    for n in range(KILLS):
        process = start()
        if n % 5 == 0:
            # Before there is a new shard, while it plans or while Ray starts.
            time.sleep(chance.random() * 8)
        else:
            # A moment after some shard, so that every part of the run is hit; shards that are kept count as well.
            wait_for("shards/*.tar", 1 + n * (num_shards - 1) // KILLS, out, process)
            time.sleep(chance.random() * 0.3)
        moments.append((process.poll() is None, len(list(out.glob("shards/*.tar")))))
        process.kill()
        process.wait()
    print("killed in mid-run, and shards by then:", moments)
    assert sum(alive for alive, _ in moments) >= KILLS - 1
    last = start()
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert content(out) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(start, faces, undisturbed, ray_cluster, tmp_path, number):
    for _ in range(3):
        process = start()
        # A shard without its receipt is not made yet.
        wait_for(".progress/*.tar.json", 1, tmp_path / "out", process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        if process.returncode:
            break
        # It came too late: on a busy machine a run of few scans may be done by then.
        assert content(tmp_path / "out") == undisturbed
        shutil.rmtree(tmp_path / "out")
    assert process.returncode == 128 + number, said
    assert "run the same command to continue" in said and "Traceback" not in said
    config = RenderConfig(data_dir=faces, out=tmp_path / "out", **OPTIONS)
    assert plan(config).kept
    run(config)
    assert content(tmp_path / "out") == undisturbed


def test_a_killed_worker_is_replaced_and_nothing_is_missing_or_double(faces, undisturbed, ray_cluster, tmp_path):
    killed: list[int] = []
    is_over = threading.Event()

    def kill_one() -> None:
        # As soon as it is seen at work: progress is told when a task is done, which may be the last. Only one, since a
        # sample that two workers died of is given up.
        while not killed and not is_over.wait(0.01):
            for pid in workers()[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        run(RenderConfig(data_dir=faces, out=tmp_path / "out", **OPTIONS))
    finally:
        is_over.set()
        killer.join()
    assert killed
    assert content(tmp_path / "out") == undisturbed


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_when_there_is_room(faces, undisturbed, ray_cluster, tmp_path):
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


def test_scans_that_vanish_while_they_are_read_are_failures_and_come_back(faces, ray_cluster, tmp_path):
    data = shutil.copytree(faces, tmp_path / "data")
    gone = sorted(data.rglob("*.wrl"))[-1]
    whole = gone.read_bytes()
    config = RenderConfig(data_dir=data, out=tmp_path / "out", **OPTIONS)
    manifest = run(config, lambda progress: gone.unlink(missing_ok=True))
    assert manifest.num_failures == 1
    gone.write_bytes(whole)
    assert run(config).num_failures == 0
    assert ShardManifest.read(tmp_path / "out/manifest.json").num_samples == manifest.num_samples + 1
