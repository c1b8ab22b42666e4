"""The connection to Ray for one stage."""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smile_pipe.pipeline.common import ray_session as module
from smile_pipe.pipeline.common.ray_session import ray_session
from smile_pipe.shards.errors import UsageError

pytestmark = pytest.mark.ray


def test_unreachable_address_is_a_usage_error_without_long_retries(tmp_path):
    with pytest.raises(UsageError, match=r"^address 127\.0\.0\.1:1: no Ray cluster found: "):
        module._connect("127.0.0.1:1", tmp_path, {})


def test_existing_connection_is_used_and_kept(ray_cluster):
    import ray

    before = ray.get_runtime_context().get_job_id()
    with ray_session("local"):
        assert ray.get_runtime_context().get_job_id() == before
    assert ray.is_initialized()


def test_logs_are_hidden_only_during_the_session(ray_cluster, caplog):
    # The Ray session of the fixture hides logs too; that is lifted here.
    before = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    try:
        with ray_session("local"):
            logging.getLogger("smile").warning("chatter")
            logging.getLogger("smile").error("trouble")
        logging.getLogger("smile").warning("after")
    finally:
        logging.disable(before)
    assert [record.message for record in caplog.records if record.name == "smile"] == ["trouble", "after"]


@pytest.mark.parametrize("is_verbose", [False, True])
def test_output_of_workers_is_shown_only_when_verbose(is_verbose, monkeypatch, tmp_path):
    import ray

    options: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given))
    module.set_verbose(is_verbose)
    try:
        module._connect("local", tmp_path, {})
    finally:
        module.set_verbose(False)
    assert options["log_to_driver"] is is_verbose


def test_workers_do_not_import_from_the_users_folder_and_no_temporary_files_remain(tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "timm.py").write_text("raise RuntimeError('module of the user')")
    script = """
import ray
from smile_pipe.pipeline.common.ray_session import ray_session
with ray_session("local"):
    found = ray.get(ray.remote(lambda: __import__("timm").__name__).remote())
print(found)
"""
    # A folder of its own, as other tests have sessions at the same time; a short one, as paths of sockets are limited.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as scratch:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path / "user",
            env=os.environ | {"PYTHONPATH": os.getcwd(), "TMPDIR": scratch},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.split() == ["timm"], done.stderr
        assert not list(Path(scratch).glob("smile-pipe-*"))


def test_unreachable_address_from_the_environment_is_a_usage_error_without_long_retries(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match=r"^address auto: no Ray cluster found: "):
        module._connect("auto", tmp_path, {})
