"""Shard sets of schema version 2 in all stages that read shards: the results of the same set in version 3."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import smile_pipe
from helpers.old_format import to_version_2
from helpers.small_runs import learn, same, timeless, weights, write_shards
from smile_pipe.cli.main import app
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run as evaluate


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same samples in version 2 and in version 3."""
    new = write_shards(tmp_path_factory.mktemp("new"))
    return to_version_2(Path(shutil.copytree(new, tmp_path_factory.mktemp("old") / "shards"))), new


def test_samples_are_equal(sets):
    old, new = (smile_pipe.open_shards(str(root)) for root in sets)
    assert (old.manifest.schema_version, new.manifest.schema_version) == (2, 3)
    assert [old.read(row) for row in old.rows] == [new.read(row) for row in new.rows]
    digests = [{row.digest for row in shards.rows} for shards in (old, new)]
    assert digests[0].isdisjoint(digests[1])


def test_training_and_evaluation_have_the_same_results(sets, tmp_path):
    manifests = [learn(root, tmp_path / root.parent.name) for root in sets]
    runs = [tmp_path / root.parent.name for root in sets]
    assert manifests[0] == manifests[1]
    assert same(*map(weights, runs)) and timeless(runs[0]) == timeless(runs[1])
    reports = [evaluate(EvaluateConfig(run=run, shards=str(root))) for run, root in zip(runs, sets, strict=True)]
    assert reports[0].protocols == reports[1].protocols


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_commands_read_it(sets, command):
    done = [CliRunner().invoke(app, [command, str(root)]) for root in sets]
    assert [one.exit_code for one in done] == [0, 0], done[0].output
    assert done[0].output.replace(str(sets[0]), "") == done[1].output.replace(str(sets[1]), "")


def test_part_of_a_set_is_opened(sets):
    assert len(smile_pipe.open_shards(f"{sets[0]}/shards/000001.tar").rows) == 4
