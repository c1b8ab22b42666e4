"""A render that loses nodes, actors or blocks continues and gives the same bytes."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from helpers.paths import REPOSITORY
from helpers.worlds import content
from smile_pipe.pipeline.render import job
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.stage import run

pytestmark = [pytest.mark.faults, pytest.mark.ray]

IN_FULL = pytest.mark.skipif(not os.environ.get("SMILE_PIPE_FAULTS"), reason="takes long: make test-faults")


# As in the fixture `shards_dir`.
OPTIONS = {"size": 48, "samples_per_shard": 8}


@ray.remote(num_cpus=0, max_retries=0)
def die() -> None:
    os._exit(1)


def lose_block() -> ray.ObjectRef:
    return die.remote()


def lose_actor() -> ray.ObjectRef:
    raise ActorDiedError


def lose_input_of_task() -> ray.ObjectRef:
    raise RayTaskError("encode", "a trace", ActorDiedError())


def raise_bug() -> ray.ObjectRef:
    raise RayTaskError("encode", "a trace", ZeroDivisionError())


class TestNodes:
    """On three nodes, which `helpers/nodes.py` starts in a child process."""

    @pytest.fixture
    def render(self, faces_dir: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[list[int], str]]]:
        """Return a function that renders into `tmp_path / "out"` and returns the progress and the log of Ray."""
        # For the files of Ray. The name is short, since there are sockets among them.
        scratch = tempfile.mkdtemp(prefix="nodes-", dir="/tmp")
        root = REPOSITORY / "tests"
        paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))

        def start(
            deaths: list[tuple[str, int]], gpus: int = 0, frames_per_batch: int = 4, **options
        ) -> tuple[list[int], str]:
            options = {"data_dir": str(faces_dir), "out": str(tmp_path / "out"), **options}
            wanted = {"options": options, "gpus": gpus, "frames_per_batch": frames_per_batch, "deaths": deaths}
            done = subprocess.run(
                [sys.executable, root / "helpers" / "nodes.py", json.dumps(wanted)],
                env=os.environ | {"PYTHONPATH": paths, "RAY_TMPDIR": scratch, "TMPDIR": scratch},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1]), done.stderr

        yield start
        shutil.rmtree(scratch, ignore_errors=True)

    @pytest.fixture
    def undisturbed(self, faces_dir: Path, ray_cluster: None, tmp_path: Path) -> Callable[..., dict[str, bytes]]:
        """Return a function that renders without faults and returns the files."""

        def make(**options) -> dict[str, bytes]:
            run(RenderConfig(data_dir=faces_dir, out=tmp_path / "undisturbed", **options))
            return content(tmp_path / "undisturbed")

        return make

    def test_blocks_of_dead_nodes_are_recomputed(self, render, undisturbed, tmp_path):
        options = {"size": 32, "limit": 24, "samples_per_shard": 20}
        # Both nodes, so that all blocks of the first shard are lost before it is written.
        done, said = render([("node", 12), ("node", 12)], **options)
        assert sum(map(int, re.findall(r"recover (\d+) lost objects", said))) >= 3
        assert done[-1] == 24 and done == sorted(done)
        assert content(tmp_path / "out") == undisturbed(**options)

    def test_the_operators_of_gpus_give_the_bytes_of_the_operator_of_cpus(self, render, undisturbed, tmp_path):
        options = {"size": 16, "limit": 6, "samples_per_shard": 4, "renderer": "zbuffer"}
        done, _ = render([], gpus=1, frames_per_batch=2, **options)
        assert done[-1] == 6
        assert content(tmp_path / "out") == undisturbed(**options)

    def test_a_dead_actor_is_replaced(self, render, undisturbed, tmp_path):
        options = {"size": 16, "limit": 4, "samples_per_shard": 2, "channels": ("rgb",), "renderer": "zbuffer"}
        done, _ = render([("actor", 1)], gpus=1, frames_per_batch=1, **options)
        assert done[-1] == 4
        assert content(tmp_path / "out") == undisturbed(**options)

    @IN_FULL
    def test_blocks_of_dead_nodes_and_actors_are_rendered_again(self, render, undisturbed, tmp_path):
        options = {"size": 16, "limit": 14, "samples_per_shard": 12, "channels": ("rgb",), "renderer": "zbuffer"}
        done, _ = render([("node", 14), ("node", 14)], gpus=1, frames_per_batch=2, **options)
        # Started again: what was rendered is lost.
        assert done[-1] == 14 and done != sorted(done)
        assert content(tmp_path / "out") == undisturbed(**options)

    @IN_FULL
    def test_nodes_that_die_one_after_the_other(self, render, undisturbed, tmp_path):
        options = {"size": 48, "samples_per_shard": 8}
        done, _ = render([("node", count) for count in range(3, 33, 4)], frames_per_batch=3, **options)
        assert done[-1] == 35
        assert content(tmp_path / "out") == undisturbed(**options)


class TestLostBlocks:
    """Blocks that Ray cannot recompute, on the Ray that all tests share."""

    @pytest.fixture
    def attempts(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[int]:
        """Lose a block in the first attempts of a job; the list gets the number of shards of each attempt."""
        lose, which, times = request.param
        encoded_blocks = job._encoded_blocks
        attempts: list[int] = []

        def lost(tasks: list, *args) -> Iterator:
            attempts.append(len(tasks))
            for number, (ref, num_rows) in enumerate(encoded_blocks(tasks, *args)):
                yield lose() if number == which and len(attempts) <= times else ref, num_rows

        monkeypatch.setattr(job, "_encoded_blocks", lost)
        return attempts

    @pytest.mark.parametrize(
        "attempts", [(lose_block, 2, 1), (lose_actor, 2, 1), (lose_input_of_task, 2, 1)], indirect=True
    )
    def test_only_shards_that_are_not_written_start_again(self, attempts, faces_dir, shards_dir, tmp_path):
        done: list[int] = []
        config = RenderConfig(data_dir=faces_dir, out=tmp_path / "out", **OPTIONS)
        run(config, lambda progress: done.append(progress.num_done))
        first, again = attempts
        assert first == 5 and again <= 3
        # Samples that have to be rendered again do not count as rendered.
        assert done[-1] == max(done) == 35
        assert content(tmp_path / "out") == content(shards_dir)

    @pytest.mark.parametrize(
        ("attempts", "error", "num_shards"),
        [((lose_actor, 0, 99), ActorDiedError, [5, 5, 5]), ((raise_bug, 0, 99), RayTaskError, [5])],
        indirect=["attempts"],
    )
    def test_a_job_without_progress_is_given_up(self, attempts, faces_dir, ray_cluster, tmp_path, error, num_shards):
        with pytest.raises(error):
            run(RenderConfig(data_dir=faces_dir, out=tmp_path / "out", **OPTIONS))
        assert attempts == num_shards
