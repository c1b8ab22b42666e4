"""Lost nodes during training: a warning, replacement by another node, and resuming with fewer workers."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.processes import wait_until
from helpers.ray_nodes import RayNodes
from helpers.samples import write_shard_set
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train import cluster
from smile_pipe.pipeline.train.cluster import has_room, warn_on_lost_nodes
from smile_pipe.pipeline.train.config import TrainConfig

pytestmark = pytest.mark.faults

IN_FULL = pytest.mark.skipif(not os.environ.get("SMILE_PIPE_FAULTS"), reason="takes long: make test-faults")


def node(cpus: int, gpus: int = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})}


@pytest.mark.parametrize(
    ("nodes", "resources", "num_workers", "fits"),
    [
        ([node(4), node(4)], {"CPU": 4}, 2, True),
        ([node(4), node(4, alive=False)], {"CPU": 4}, 2, False),
        # Six cores, but only one node has three.
        ([node(4), node(2)], {"CPU": 3}, 2, False),
        ([node(16, gpus=2)], {"CPU": 1, "GPU": 1}, 2, True),
        ([node(16, gpus=1), node(16)], {"CPU": 1, "GPU": 1}, 2, False),
        ([], {"CPU": 1}, 1, False),
    ],
)
def test_has_room_counts_whole_workers_on_alive_nodes(nodes, resources, num_workers, fits):
    assert has_room(nodes, resources, num_workers) is fits


def test_lost_node_is_logged_once_per_loss(monkeypatch, caplog, tmp_path):
    import ray

    # Results of the checks: one without room is ignored, two in a row are logged, and again after a recovery.
    found = iter([2, 1, 2, 1, 1, 1, 2, 1, 1])
    asked: list[int] = []

    def nodes() -> list[dict]:
        asked.append(next(found, 2))
        return [node(asked[-1])]

    monkeypatch.setattr(ray, "nodes", nodes)
    monkeypatch.setattr(cluster, "CHECK_SECONDS", 0.001)
    config = TrainConfig(shards="s", out=tmp_path, num_workers=2, batch_size=8)
    with caplog.at_level(logging.ERROR), warn_on_lost_nodes(config, {"CPU": 1}):
        wait_until(lambda: len(asked) > 9)
    assert len(caplog.messages) == 2
    assert "no room for 2 workers" in caplog.text and "whose product is 16" in caplog.text


class Training:
    """`smile-pipe train` on nodes of one core."""

    def __init__(self, nodes: RayNodes, shards: Path, out: Path) -> None:
        self.nodes, self.shards, self.out = nodes, shards, out

    def start(self, *options: object) -> subprocess.Popen:
        arguments = ["train", "--shards", self.shards, "--out", self.out, "--split", "kfold:6:0", "--epochs", 40]
        command = [sys.executable, "-c", "from smile_pipe.cli.main import main; main()", *arguments, "--json", *options]
        return subprocess.Popen(
            [*map(str, command), "--address", self.nodes.address],
            env=self.nodes.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def step(self) -> int:
        return max((checkpoint.step for checkpoint in RunDirectory(self.out).checkpoints()), default=0)


@IN_FULL
def test_new_node_replaces_a_lost_one_and_fewer_workers_can_resume(tmp_path):
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
    with RayNodes(num_workers=3) as nodes:
        training = Training(nodes, tmp_path / "shards", tmp_path / "run")
        process = training.start("--num-workers", 2, "--batch-size", 2)
        wait_until(lambda: training.step or process.poll() is not None, seconds=180)
        nodes.kill_one("RayTrainWorker")
        # On the nodes that are left there is room for two.
        wait_until(lambda: training.step >= 20 or process.poll() is not None, seconds=180)
        before = training.step
        assert process.poll() is None and before >= 20
        for _ in range(2):
            nodes.kill_one()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 143, stderr
        last = training.start("--num-workers", 1, "--batch-size", 4, "--resume")
        stdout, stderr = last.communicate(timeout=300)
        assert last.returncode == 0, stderr
        manifest = json.loads(stdout)
        assert manifest["num_steps"] == 160 and [size for _, size in manifest["world_sizes"]] == [2, 1]
        assert manifest["world_sizes"][1][0] >= before
