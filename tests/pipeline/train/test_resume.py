"""Resuming a run: with another number of workers, from a record of an earlier version, and what is refused."""

import json
import logging
import shutil

import pytest

from helpers import small_runs
from helpers.small_runs import config, learn
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.resume import updated_world_sizes
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import fingerprint
from smile_pipe.shards.reader import ShardSet

TRAIN = {"num_workers": 1, "batch_size": 4, "split": "kfold:5:0"}
RECIPE = {"name": "clip", "arch": "smile-tiny"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def stopped(shards, tmp_path):
    """A run that two workers have started, stopped after its first epoch."""
    out = tmp_path / "run"
    learn(shards, out)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-000008")
    record = json.loads((out / "config.json").read_text())
    record["train"] |= {"num_workers": 2, "batch_size": 2}
    record |= {"world_sizes": [[0, 2]], "partitions": 2}
    (out / "config.json").write_text(json.dumps(record))
    return out


# Options in the config.json of a run before some of them were renamed.
EARLIER_OPTIONS = {
    "accumulate": 1,
    "arch": small_runs.ARCH,
    "batch_size": 4,
    "channel": "auto",
    "checkpoint_activations": False,
    "compile": False,
    "ema": 0.0,
    "epochs": 2,
    "learning_rate": 0.001,
    "max_frames": 16,
    "metadata": "auto",
    "num_workers": 1,
    "precision": "auto",
    "pretrained": None,
    "recipe": "smile-vlm",
    "seed": 0,
    "split": "kfold:6:0",
    "temporal": "auto",
    "temporal_pooling": "attention",
    "text": "auto",
    "use_gpu": False,
    "validation": 0.2,
    "wandb": None,
    "warmup": 0.05,
    "weight_decay": 0.05,
    "where": None,
    "without": ["cm"],
}
EARLIER_COMPUTE_OPTIONS = ("num_workers", "batch_size", "accumulate", "checkpoint_activations", "compile", "wandb")


def test_run_of_an_earlier_version_is_resumed(shards, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    out, options = tmp_path / "run", {"drop_loss": ("cm",), "val_fraction": 0.2}
    learn(shards, out, **options)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-000006")
    record = json.loads((out / "config.json").read_text())
    decisive = {name: value for name, value in EARLIER_OPTIONS.items() if name not in EARLIER_COMPUTE_OPTIONS}
    shards_fingerprint = ShardSet.open(str(shards)).manifest.fingerprint
    record |= {
        "train": EARLIER_OPTIONS,
        "fingerprint": fingerprint(decisive | {"joined_batch_size": 4}, shards_fingerprint, ""),
    }
    del record["partitions"]
    (out / "config.json").write_text(json.dumps(record))
    manifest = learn(shards, out, resume=True, keep_checkpoints=1, grad_cache_chunks=2, **options)
    assert [record.message for record in caplog.records if "order" in record.message] == [
        "the run was started by an earlier version, which read samples in another order: if it was stopped within an "
        "epoch, the rest of this epoch repeats some samples and leaves out others"
    ]
    assert manifest.num_steps == 6 and len(RunDirectory(out).checkpoints()) == 1
    assert manifest.config == EARLIER_OPTIONS | {
        "accumulate": 2,
        "crit": 0.0,
        "learning_rate": "auto",
        "partitions": 0,
        "pseudo_start": "prompts",
        "sampling": "uniform",
        "shard_weights": [],
    }
    assert TrainConfig.from_record(EARLIER_OPTIONS | {"unknown": 1}) == {
        **{name: value for name, value in EARLIER_OPTIONS.items() if name not in TrainConfig.OLD_NAMES},
        "drop_loss": ["cm"],
        "grad_cache_chunks": 1,
        "val_fraction": 0.2,
    }


def test_run_resumes_with_another_number_of_workers(shards, stopped):
    manifest = learn(shards, stopped, resume=True, batch_size=4)
    assert manifest.world_size == 1 and manifest.world_sizes == ((0, 2), (4, 1)) and manifest.num_steps == 8
    assert RunManifest.read(stopped / "manifest.json") == manifest
    record = json.loads((stopped / "config.json").read_text())
    # The order of the samples stays that of the first start.
    assert record["world_sizes"] == [[0, 2], [4, 1]] and record["partitions"] == 2


def test_other_batch_size_is_refused_with_a_hint(shards, stopped):
    message = r"takes 4 samples a step, and this one would take 5 \(1 x 5\); choose .* whose product is 4"
    with pytest.raises(UsageError, match=message):
        learn(shards, stopped, resume=True, batch_size=5)
    with pytest.raises(UsageError, match="other options"):
        learn(shards, stopped, resume=True, seed=1)
    with pytest.raises(UsageError, match="other options"):
        learn(shards, stopped, batch_size=5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 2), ({"partitions": 1}, 1), ({"partitions": 6}, 6), ({"sampling": "balanced"}, 1)],
)
def test_each_worker_has_a_partition_unless_an_option_says_otherwise(shards, tmp_path, options, expected):
    given = config(shards, tmp_path / "run", num_workers=2, **options)
    assert prepare(given, in_process=False)[2].partitions == expected


def test_more_partitions_than_samples_in_a_step_are_refused(shards, tmp_path):
    with pytest.raises(UsageError, match=r"^partitions 9: more than the 8 samples in a step"):
        prepare(config(shards, tmp_path, num_workers=2, batch_size=4, partitions=9), in_process=False)


def test_other_partitions_of_a_resumed_run_are_not_ignored_silently(shards, stopped, caplog):
    caplog.set_level(logging.WARNING)
    learn(shards, stopped, resume=True, batch_size=4, partitions=3)
    assert "partitions: the run has 2 since its start and keeps them" in caplog.text
    assert json.loads((stopped / "config.json").read_text())["partitions"] == 2


def test_cache_folder_is_checked_before_anything_is_written(shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^cache_dir .*file: is not a folder that can be written"):
        learn(shards, tmp_path / "run", cache_dir=tmp_path / "file")
    assert not (tmp_path / "run").exists()


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
        # The second start wrote no checkpoint.
        ([[0, 1], [4, 2]], 4, 1, ((0, 1),)),
        ([[0, 1]], 0, 2, ((0, 2),)),
        (None, 0, 2, ((0, 2),)),
        # Written before this list existed.
        ("absent", 4, 1, ((0, 3), (4, 1))),
    ],
)
def test_world_sizes_record_each_change_with_its_step(tmp_path, earlier, step, asked, expected):
    directory = RunDirectory(tmp_path)
    if earlier:
        record = {"fingerprint": "f", "train": TRAIN | {"num_workers": 3}, "recipe": RECIPE}
        record |= {} if earlier == "absent" else {"world_sizes": earlier}
        directory.config_path.write_text(json.dumps(record))
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
    message = f"^out {tmp_path}: holds files that are not of a run; name a new or empty directory$"
    with pytest.raises(UsageError, match=message):
        learn(shards, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == content


def test_folder_named_config_json_is_refused(shards, tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UsageError, match="not of a run"):
        learn(shards, tmp_path)
