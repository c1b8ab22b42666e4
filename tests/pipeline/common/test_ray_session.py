"""Ray for the time of one stage."""

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


def test_an_address_where_nobody_answers_is_the_users_mistake_and_takes_no_minutes(tmp_path):
    with pytest.raises(UsageError, match=r"--address 127\.0\.0\.1:1: no Ray there"):
        module._connect("127.0.0.1:1", tmp_path, {})


def test_a_connection_that_exists_is_used_and_left_open(ray_cluster):
    import ray

    before = ray.get_runtime_context().get_job_id()
    with ray_session("local"):
        assert ray.get_runtime_context().get_job_id() == before
    assert ray.is_initialized()


def test_notes_are_held_back_only_while_it_lasts(ray_cluster, caplog):
    # The session's own Ray holds notes back, too; here that is lifted for a while.
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
def test_what_workers_print_comes_here_only_when_it_is_asked_for(is_verbose, monkeypatch, tmp_path):
    import ray

    options: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given))
    module.say_all(is_verbose)
    try:
        module._connect("local", tmp_path, {})
    finally:
        module.say_all(False)
    assert options["log_to_driver"] is is_verbose


def test_workers_do_not_import_from_the_users_folder_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "model.py").write_text("raise RuntimeError('not mine')")
    script = """
import ray
from smile_pipe.pipeline.common.ray_session import ray_session
with ray_session("local"):
    found = ray.get(ray.remote(lambda: __import__("smile_pipe.model.config").__name__).remote())
print(found)
"""
    before = set(Path(tempfile.gettempdir()).glob("smile-pipe-*"))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "user",
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["model"], done.stderr
    assert set(Path(tempfile.gettempdir()).glob("smile-pipe-*")) <= before


def test_an_address_of_the_environment_where_nobody_answers_takes_no_minutes_either(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match="--address auto: no Ray there"):
        module._connect("auto", tmp_path, {})
