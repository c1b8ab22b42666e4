"""Commands on a Ray of three nodes spread their work and give the output of one machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.ray_nodes import RayNodes
from helpers.worlds import content
from smile_pipe.pipeline.runs.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with RayNodes(num_workers=2) as nodes:
        yield nodes


def smile_pipe(nodes: RayNodes, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a command as on the head node."""
    return subprocess.run(
        [sys.executable, "-c", "from smile_pipe.cli.main import main; main()", *map(str, arguments), "--json"],
        env=nodes.environment | environment,
        capture_output=True,
        text=True,
    )


def result(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_render_on_several_nodes_gives_the_bytes_of_one_node(nodes, faces_dir, shards_dir, tmp_path):
    # As in the fixture `shards_dir`.
    options = ("--size", 48, "--samples-per-shard", 8)
    done = smile_pipe(nodes, "render", faces_dir, "--out", tmp_path / "out", *options, "--address", nodes.address)
    assert result(done)["num_samples"] == 35
    assert sum(nodes.has_run("MapBatches(process_batch)")) > 1
    assert content(tmp_path / "out") == content(shards_dir)


def test_training_on_two_nodes_ignores_the_working_directory_of_the_job(nodes, shards_dir, tmp_path):
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "model.py").write_text("raise RuntimeError('a stranger was imported')\n")
    # What `ray job submit --working-dir` sets for the commands that it runs.
    job = {"RAY_ADDRESS": nodes.address, "RAY_JOB_CONFIG_JSON_ENV_VAR": _job_config(strange)}
    options = ("--epochs", 1, "--batch-size", 4, "--split", "kfold:5:0", "--num-workers", 2, "--address", "auto")
    done = smile_pipe(nodes, "train", "--shards", shards_dir, "--out", tmp_path / "run", *options, **job)
    manifest = result(done)
    assert (manifest["world_size"], manifest["num_train_samples"]) == (2, 28)
    # A worker needs a core, and a node has one.
    assert sum(nodes.has_run("RayTrainWorker")) == 2
    assert [checkpoint.step for checkpoint in RunDirectory(tmp_path / "run").checkpoints()] == [manifest["num_steps"]]


def test_a_missing_ray_token_is_a_clear_error(nodes, faces_dir, tmp_path):
    # Twice instead of for twenty seconds.
    lacking = {"RAY_AUTH_MODE": "disabled", "RAY_NUM_REDIS_GET_RETRIES": "2"}
    options = ("--out", tmp_path / "out", "--address", nodes.address)
    done = smile_pipe(nodes, "render", faces_dir, *options, **lacking)
    assert done.returncode == 2
    assert f"--address {nodes.address}: the Ray cluster requires a token; set RAY_AUTH_MODE=token" in done.stderr


def _job_config(working_dir: Path) -> str:
    return json.dumps({"runtime_env": {"working_dir": str(working_dir)}, "metadata": {}})
