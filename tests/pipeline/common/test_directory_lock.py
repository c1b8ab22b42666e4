"""The lock on an output directory, with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from helpers.faulty_server import failing
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
    """A process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_held_directory_is_refused_with_the_name_of_the_holder(holder, tmp_path):
    with pytest.raises(UsageError, match=rf"process {holder.pid} on .* is writing there"), directory_lock(tmp_path):
        pass


def test_killed_process_releases_the_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with directory_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / NAME).read_text()


def test_only_written_files_remain(tmp_path):
    with directory_lock(tmp_path / "new"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == [NAME]
    assert not (tmp_path / "new").exists()
    with directory_lock(tmp_path / "new"):
        (tmp_path / "new" / "written").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["written"]
    with directory_lock(tmp_path):
        pass
    assert tmp_path.exists()


def test_error_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), directory_lock(tmp_path):
        raise KeyError
    with directory_lock(tmp_path):
        pass


def test_foreign_content_of_a_held_lock_file_is_ignored(holder, tmp_path):
    (tmp_path / NAME).write_bytes(b"\xff no json")
    with pytest.raises(UsageError, match="another process is writing there"), directory_lock(tmp_path):
        pass


def test_two_threads_never_hold_the_lock_together(tmp_path):
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

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(enter) for _ in range(4)]:
            future.result()
    assert most == 1 and entered > 10


def test_second_lock_of_the_same_process_is_refused(tmp_path):
    with (
        directory_lock(tmp_path),
        pytest.raises(UsageError, match=rf"process {os.getpid()} on .* is writing there"),
        directory_lock(tmp_path),
    ):
        pass


def test_local_lock_is_not_waited_for(holder, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    wait_while_held(tmp_path)
    with pytest.raises(UsageError, match=f"process {holder.pid}"), directory_lock(tmp_path):
        pass


def test_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), directory_lock(tmp_path / "file" / "out"):
        pass


class TestObjectStore:
    """The lock object under a URL."""

    @pytest.fixture(params=["memory", "s3"])
    def root(self, request, tmp_path) -> StoragePath:
        url = f"memory://{tmp_path.name}" if request.param == "memory" else request.getfixturevalue("s3_url")
        return StoragePath(url) / "out"

    def test_second_holder_is_refused_with_the_name_of_the_first(self, root):
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

    def test_one_of_eight_simultaneous_processes_gets_the_lock(self, root):
        held, refused, together = [], [], threading.Barrier(8)

        def acquire() -> None:
            together.wait()
            try:
                with directory_lock(root):
                    held.append(1)
                    wait_until(lambda: len(refused) == 7)
            except UsageError:
                refused.append(1)

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(acquire) for _ in range(8)]:
                future.result()
        assert (len(held), len(refused)) == (1, 7)

    @pytest.mark.parametrize(
        "holder",
        [
            {"pid": 2**22 + 1, "host": socket.gethostname(), "renewed": time.time()},
            {"pid": os.getpid(), "host": socket.gethostname(), "token": "released", "renewed": time.time()},
            {"pid": 1, "host": "elsewhere", "renewed": time.time() - 2 * STALE_AFTER},
            {},
        ],
    )
    def test_lock_of_a_dead_holder_is_taken_over(self, root, holder):
        (root / NAME).write_bytes(json.dumps(holder).encode())
        with directory_lock(root):
            assert json.loads((root / NAME).read_bytes())["pid"] == os.getpid()

    def test_of_two_processes_that_take_over_a_lock_the_later_holds_it(self, root, monkeypatch):
        """Both have read the dead holder; the later one removes and replaces the lock that the earlier one created."""
        (root / NAME).write_bytes(b"{}")
        later = elsewhere(time.time()) | {"token": "later"}
        monkeypatch.setattr("time.sleep", lambda seconds: (root / NAME).write_bytes(json.dumps(later).encode()))
        with pytest.raises(UsageError, match="process 1 on elsewhere"), directory_lock(root):
            pass
        assert json.loads((root / NAME).read_bytes()) == later

    def test_live_holder_on_another_machine_keeps_the_lock(self, root):
        holder = elsewhere(time.time() - STALE_AFTER / 2)
        (root / NAME).write_bytes(json.dumps(holder).encode())
        with pytest.raises(UsageError, match="process 1 on elsewhere"), directory_lock(root):
            pass
        assert json.loads((root / NAME).read_bytes()) == holder

    def test_lock_without_renewal_is_waited_for_until_stale(self, root, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.POLL_SECONDS", 0.05)
        (root / NAME).write_bytes(json.dumps(elsewhere(time.time() - STALE_AFTER + 1)).encode())
        wait_while_held(root)
        with directory_lock(root):
            assert json.loads((root / NAME).read_bytes())["pid"] == os.getpid()

    def test_wait_ends_when_the_lock_is_released(self, root, monkeypatch):
        (root / NAME).write_bytes(json.dumps(elsewhere(time.time())).encode())
        monkeypatch.setattr("time.sleep", lambda seconds: (root / NAME).unlink())
        wait_while_held(root)
        assert not (root / NAME).exists()

    def test_free_lock_is_not_waited_for(self, root, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
        wait_while_held(root)
        with directory_lock(root):
            pass
        wait_while_held(root)

    def test_wait_for_a_live_holder_is_limited(self, root, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.POLL_SECONDS", 0.05)
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.MAX_WAIT", 0.3)
        (root / NAME).write_bytes(json.dumps(elsewhere(time.time())).encode())
        wait_while_held(root)
        with pytest.raises(UsageError, match="process 1 on elsewhere"), directory_lock(root):
            pass

    def test_held_lock_is_renewed(self, root, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.RENEW_SECONDS", 0.05)

        def renewed() -> float:
            return json.loads(root.fs.cat_file((root / NAME).path))["renewed"]

        with directory_lock(root):
            first = renewed()
            wait_until(lambda: renewed() > first)

    @pytest.mark.parametrize("error", [ConnectionError("reset"), EndpointConnectionError(endpoint_url="nowhere")])
    def test_renewal_continues_after_a_storage_failure(self, root, monkeypatch, error):
        monkeypatch.setattr("smile_pipe.pipeline.common.directory_lock.RENEW_SECONDS", 0.05)
        write, failed = type(root).write_bytes, []

        def fail_once(path: StoragePath, content: bytes) -> int:
            if not failed:
                failed.append(path)
                raise error
            return write(path, content)

        monkeypatch.setattr(type(root), "write_bytes", fail_once)
        with directory_lock(root):
            wait_until(lambda: failed == [root / NAME])
            before = root.fs.cat_file((root / NAME).path)
            wait_until(lambda: root.fs.cat_file((root / NAME).path) != before, 10)

    def test_storage_failure_at_release_raises_nothing_and_blocks_nobody(self, root, monkeypatch):
        with monkeypatch.context() as patch, directory_lock(root):
            patch.setattr(root.fs, "cat_file", failing(EndpointConnectionError(endpoint_url="nowhere")))
        assert (root / NAME).exists()
        with directory_lock(root):
            pass
        assert not (root / NAME).exists()

    def test_unreachable_storage_is_a_usage_error(self, root, monkeypatch):
        monkeypatch.setattr(root.fs, "pipe_file", failing(EndpointConnectionError(endpoint_url="nowhere")))
        with pytest.raises(UsageError, match=r"out: cannot be written: .*nowhere"), directory_lock(root):
            pass

    def test_lock_is_ours_if_only_the_answer_of_the_storage_was_lost(self, root, monkeypatch):
        create = root.fs.pipe_file

        def create_and_fail(path, value, mode):
            create(path, value, mode=mode)
            raise FileExistsError

        monkeypatch.setattr(root.fs, "pipe_file", create_and_fail)
        with directory_lock(root):
            assert json.loads((root / NAME).read_bytes())["pid"] == os.getpid()

    def test_missing_bucket_is_refused(self, s3_server):
        root = StoragePath("s3://no-such-bucket/out")
        with pytest.raises(UsageError, match=r"no-such-bucket/out: cannot be written"), directory_lock(root):
            pass


def elsewhere(renewed: float) -> dict[str, object]:
    """A holder on another machine that renewed its lock at `renewed`."""
    return {"pid": 1, "host": "elsewhere", "since": "noon", "renewed": renewed}
