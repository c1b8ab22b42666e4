"""The lock on an output directory, with real processes."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.directory_lock import NAME, directory_lock
from shards.errors import UsageError

HOLD = """
import sys, time
from pathlib import Path
from pipeline.directory_lock import directory_lock
with directory_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_directory_that_is_held_is_refused_and_its_holder_named(holder, tmp_path):
    with pytest.raises(UsageError, match=rf"process {holder.pid} on .* is writing there"), directory_lock(tmp_path):
        pass


def test_a_process_that_is_killed_lets_go(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with directory_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / NAME).read_text()


def test_nothing_is_left_behind_but_what_was_written(tmp_path):
    with directory_lock(tmp_path / "new"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == [NAME]
    assert not (tmp_path / "new").exists()
    with directory_lock(tmp_path / "new"):
        (tmp_path / "new" / "written").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["written"]
    with directory_lock(tmp_path):
        pass
    assert tmp_path.exists()


def test_it_is_released_by_an_error(tmp_path):
    with pytest.raises(KeyError), directory_lock(tmp_path):
        raise KeyError
    with directory_lock(tmp_path):
        pass


def test_a_lock_file_of_something_else_does_not_confuse(holder, tmp_path):
    (tmp_path / NAME).write_bytes(b"\xff no json")
    with pytest.raises(UsageError, match="another process is writing there"), directory_lock(tmp_path):
        pass


def test_never_two_at_once_however_they_meet(tmp_path):
    inside, most, entered = 0, 0, 0
    guard = threading.Lock()

    def enter() -> None:
        nonlocal inside, most, entered
        for _ in range(200):
            try:
                with directory_lock(tmp_path):
                    with guard:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except UsageError:
                continue

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and entered > 10
