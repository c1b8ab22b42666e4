"""The lock on an output directory, with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from helpers.processes import wait_until
from smile_pipe.pipeline.common.directory_lock import NAME, STALE_AFTER, directory_lock, wait_while_held
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

HOLD = """
import sys, time
from pathlib import Path
from smile_pipe.pipeline.common.directory_lock import directory_lock
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


def test_on_a_disk_nobody_is_waited_for(holder, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    wait_while_held(tmp_path)
    with pytest.raises(UsageError, match=f"process {holder.pid}"), directory_lock(tmp_path):
        pass


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), directory_lock(tmp_path / "file" / "out"):
        pass


class TestObjectStore:
    """Where no operating system holds the lock."""

    @pytest.fixture(params=["memory", "s3"])
    def root(self, request, tmp_path) -> StoragePath:
        url = f"memory://{tmp_path.name}" if request.param == "memory" else request.getfixturevalue("s3_url")
        return StoragePath(url) / "out"

    def test_a_second_one_is_refused_and_the_holder_named(self, root):
        with directory_lock(root):
            with (
                pytest.raises(UsageError, match=rf"process {os.getpid()} on .* is writing there"),
                directory_lock(root),
            ):
                pass
            assert (root / NAME).exists()
        assert not (root / NAME).exists()
        with directory_lock(root):
            pass

    def test_one_of_two_at_once_gets_it(self, root):
        held, refused, together = [], [], threading.Barrier(8)

        def take() -> None:
            together.wait()
            try:
                with directory_lock(root):
                    held.append(1)
                    wait_until(lambda: len(refused) == 7)
            except UsageError:
                refused.append(1)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 7)

    @pytest.mark.parametrize(
        "holder",
        [
            {"pid": 2**22 + 1, "host": socket.gethostname(), "renewed": time.time()},
            {"pid": os.getpid(), "host": socket.gethostname(), "token": "let go of", "renewed": time.time()},
            {"pid": 1, "host": "elsewhere", "renewed": time.time() - 2 * STALE_AFTER},
            {},
        ],
    )
    def test_a_dead_holders_is_taken_over(self, root, holder):
        (root / NAME).write_bytes(json.dumps(holder).encode())
        with directory_lock(root):
            assert json.loads((root / NAME).read_bytes())["pid"] == os.getpid()

    def test_of_two_that_take_over_the_same_one_the_later_has_it(self, root, monkeypatch):
        """The earlier one has made the lock anew when the later one, which saw the old one too, removes it."""
        (root / NAME).write_bytes(b"{}")
        later = elsewhere(time.time()) | {"token": "later"}
        monkeypatch.setattr("time.sleep", lambda seconds: (root / NAME).write_bytes(json.dumps(later).encode()))
        with pytest.raises(UsageError, match="process 1 on elsewhere"), directory_lock(root):
            pass
        assert json.loads((root / NAME).read_bytes()) == later

    def test_a_living_one_elsewhere_keeps_it(self, root):
        holder = elsewhere(time.time() - STALE_AFTER / 2)
        (root / NAME).write_bytes(json.dumps(holder).encode())
        with pytest.raises(UsageError, match="process 1 on elsewhere"), directory_lock(root):
            pass
        assert json.loads((root / NAME).read_bytes()) == holder

    def test_one_that_is_no_longer_renewed_is_waited_out(self, root, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.LOOK_EVERY", 0.05)
        (root / NAME).write_bytes(json.dumps(elsewhere(time.time() - STALE_AFTER + 1)).encode())
        wait_while_held(root)
        with directory_lock(root):
            assert json.loads((root / NAME).read_bytes())["pid"] == os.getpid()

    def test_one_that_is_let_go_of_is_waited_for(self, root, monkeypatch):
        (root / NAME).write_bytes(json.dumps(elsewhere(time.time())).encode())
        monkeypatch.setattr("time.sleep", lambda seconds: (root / NAME).unlink())
        wait_while_held(root)
        assert not (root / NAME).exists()

    def test_nobody_is_waited_for_where_none_holds_it(self, root, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
        wait_while_held(root)
        with directory_lock(root):
            pass
        wait_while_held(root)

    def test_one_that_lives_is_not_waited_for_without_end(self, root, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.LOOK_EVERY", 0.05)
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.LONGEST_WAIT", 0.3)
        (root / NAME).write_bytes(json.dumps(elsewhere(time.time())).encode())
        wait_while_held(root)
        with pytest.raises(UsageError, match="process 1 on elsewhere"), directory_lock(root):
            pass

    def test_it_is_renewed_while_it_is_held(self, root, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.RENEWED_EVERY", 0.05)

        def renewed() -> float:
            return json.loads(root.fs.cat_file((root / NAME).path))["renewed"]

        with directory_lock(root):
            first = renewed()
            wait_until(lambda: renewed() > first)

    @pytest.mark.parametrize("error", [ConnectionError("reset"), EndpointConnectionError(endpoint_url="nowhere")])
    def test_a_storage_that_fails_for_a_moment_does_not_end_its_renewal(self, root, monkeypatch, error):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.RENEWED_EVERY", 0.05)
        write, failed = type(root).write_bytes, []

        def fail_once(path: StoragePath, content: bytes) -> int:
            if not failed:
                failed.append(path)
                raise error
            return write(path, content)

        monkeypatch.setattr(type(root), "write_bytes", fail_once)
        with directory_lock(root):
            wait_until(lambda: failed == [root / NAME])
            found = root.fs.cat_file((root / NAME).path)
            wait_until(lambda: root.fs.cat_file((root / NAME).path) != found, 10)

    def test_a_storage_that_fails_at_the_end_keeps_nothing_back_and_nobody_out(self, root, monkeypatch):
        with monkeypatch.context() as patch, directory_lock(root):
            patch.setattr(root.fs, "cat_file", failing(EndpointConnectionError(endpoint_url="nowhere")))
        assert (root / NAME).exists()
        with directory_lock(root):
            pass
        assert not (root / NAME).exists()

    def test_a_storage_that_cannot_be_reached_is_told_as_such(self, root, monkeypatch):
        monkeypatch.setattr(root.fs, "pipe_file", failing(EndpointConnectionError(endpoint_url="nowhere")))
        with pytest.raises(UsageError, match=r"out: cannot be written .*nowhere"), directory_lock(root):
            pass

    def test_a_lock_of_which_only_the_answer_was_lost_is_ours(self, root, monkeypatch):
        made = root.fs.pipe_file

        def make_and_fail(path, value, mode):
            made(path, value, mode=mode)
            raise FileExistsError

        monkeypatch.setattr(root.fs, "pipe_file", make_and_fail)
        with directory_lock(root):
            assert json.loads((root / NAME).read_bytes())["pid"] == os.getpid()

    def test_a_bucket_that_is_not_there(self, s3_server):
        root = StoragePath("s3://no-such-bucket/out")
        with pytest.raises(UsageError, match=r"no-such-bucket/out: cannot be written"), directory_lock(root):
            pass


def elsewhere(renewed: float) -> dict[str, object]:
    """A holder on another machine, and when it last gave a sign of life."""
    return {"pid": 1, "host": "elsewhere", "since": "noon", "renewed": renewed}


def failing(error: Exception):
    """A call to a storage that fails."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
