"""Going on with a run: over another number of workers, and what is refused."""

import json
import shutil

import pytest

from helpers import small_runs
from helpers.small_runs import config, learn
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train.resume import updated_world_sizes
from smile_pipe.shards.errors import UsageError

TRAIN = {"num_workers": 1, "batch_size": 4, "split": "kfold:5:0"}
RECIPE = {"name": "clip", "arch": "smile-tiny"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def stopped(shards, tmp_path):
    """A run that is as if two workers had made its first epoch, and been stopped."""
    out = tmp_path / "run"
    learn(shards, out)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-000008")
    about = json.loads((out / "config.json").read_text())
    about["train"] |= {"num_workers": 2, "batch_size": 2}
    about["world_sizes"] = [[0, 2]]
    (out / "config.json").write_text(json.dumps(about))
    return out


def test_run_resumes_with_another_number_of_workers(shards, stopped):
    manifest = learn(shards, stopped, resume=True, batch_size=4)
    assert manifest.world_size == 1 and manifest.world_sizes == ((0, 2), (4, 1)) and manifest.num_steps == 8
    assert RunManifest.read(stopped / "manifest.json") == manifest
    assert json.loads((stopped / "config.json").read_text())["world_sizes"] == [[0, 2], [4, 1]]


def test_other_batch_size_is_refused_with_a_hint(shards, stopped):
    told = r"takes 4 samples a step, and this one would take 5 \(1 x 5\); choose .* whose product is 4"
    with pytest.raises(UsageError, match=told):
        learn(shards, stopped, resume=True, batch_size=5)
    with pytest.raises(UsageError, match="other options"):
        learn(shards, stopped, resume=True, seed=1)
    with pytest.raises(UsageError, match="other options"):
        learn(shards, stopped, batch_size=5)


def test_manifest_records_the_number_of_workers(shards, tmp_path):
    manifest = learn(shards, tmp_path / "run", epochs=1)
    assert manifest.world_sizes == ((0, 1),)


@pytest.mark.parametrize(
    ("earlier", "step", "asked", "expected"),
    [
        ([[0, 1]], 4, 1, ((0, 1),)),
        ([[0, 1]], 4, 2, ((0, 1), (4, 2))),
        ([[0, 1], [4, 2]], 8, 2, ((0, 1), (4, 2))),
        ([[0, 1], [4, 2]], 8, 4, ((0, 1), (4, 2), (8, 4))),
        # The second start came to no checkpoint of its own.
        ([[0, 1], [4, 2]], 4, 1, ((0, 1),)),
        ([[0, 1]], 0, 2, ((0, 2),)),
        (None, 0, 2, ((0, 2),)),
        # Written before there was such a list.
        ("older", 4, 1, ((0, 3), (4, 1))),
    ],
)
def test_world_sizes_record_each_change_with_its_step(tmp_path, earlier, step, asked, expected):
    directory = RunDirectory(tmp_path)
    if earlier:
        told = {} if earlier == "older" else {"world_sizes": earlier}
        load_run_config = {"fingerprint": "f", "train": TRAIN | {"num_workers": 3}, "recipe": RECIPE}
        directory.config_path.write_text(json.dumps(load_run_config | told))
    if step:
        directory.save(step, {}, {"step": step}, keep=1)
    assert updated_world_sizes(config(tmp_path, tmp_path, num_workers=asked), directory) == expected


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"architectures": ["BertModel"], "model_type": "bert"}',
        # Of a cross-validation.
        b'{"crossval": {"epochs": 1}, "fingerprint": "f", "shards": "../shards"}',
        json.dumps({"train": TRAIN, "recipe": RECIPE}).encode(),
        json.dumps({"fingerprint": 1, "train": TRAIN, "recipe": RECIPE}).encode(),
        json.dumps({"fingerprint": "f", "train": {"num_workers": 1}, "recipe": RECIPE}).encode(),
        json.dumps({"fingerprint": "f", "train": TRAIN | {"batch_size": "many"}, "recipe": RECIPE}).encode(),
        json.dumps({"fingerprint": "f", "train": TRAIN, "recipe": RECIPE, "world_sizes": [[0]]}).encode(),
        json.dumps({"fingerprint": "f", "train": TRAIN}).encode(),
        json.dumps({"fingerprint": "f", "train": TRAIN, "recipe": {"name": "clip"}}).encode(),
    ],
)
def test_foreign_config_json_is_refused(shards, tmp_path, content, resume):
    (tmp_path / "config.json").write_bytes(content)
    told = f"^out {tmp_path}: holds files that are not of a run; name a new or empty directory$"
    with pytest.raises(UsageError, match=told):
        learn(shards, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == content


def test_folder_named_config_json_is_refused(shards, tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UsageError, match="not of a run"):
        learn(shards, tmp_path)
