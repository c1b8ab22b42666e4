"""Several shard sets as one training set: what is learned from, how often, and on what the run may be scored."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from helpers.samples import write_shard_set
from helpers.small_runs import ARCH, config, learn, register, same, timeless, weights
from smile_pipe.cli.main import app
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.crossval.stage import _folds
from smile_pipe.pipeline.crossval.stage import run as crossval
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run as evaluate
from smile_pipe.pipeline.runs.run_directory import RunDirectory, open_run
from smile_pipe.pipeline.runs.selection import SampleSelection, select_rows_cross_dataset
from smile_pipe.pipeline.runs.status import status
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.loop import train
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.joined import open_sets
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sets, of eight and of four subjects of the same names, and a run on both."""
    root = tmp_path_factory.mktemp("joined")
    register(root)
    write_shard_set(root / "a", 8, size=32, channels=("normal",))
    write_shard_set(root / "b", 4, ("HA", "SU"), size=32, channels=("normal", "depth"))
    learn(f"{root / 'a'}::{root / 'b'}", root / "run", split="kfold:2:0")
    return root


def both(root: Path) -> str:
    return f"{root / 'a'}::{root / 'b'}"


def keys_by_epoch(root: Path, out: Path, **options: object) -> list[list[str]]:
    """Train; returns the keys of each epoch."""
    job = prepare(config(both(root), out, epochs=3, cache_mb=0, **options), in_process=False)[2]
    job.config.out.mkdir(exist_ok=True)
    epochs: list[list[str]] = [[], [], []]
    step = TrainStep.step

    def watched(self, batch, epoch, *rest):
        epochs[epoch] += batch.keys
        return step(self, batch, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "step", watched)
        train(job, Worker(0, 1, torch.device("cpu")))
    return epochs


def test_each_sample_of_both_is_read_once_per_epoch(root, tmp_path):
    shards = open_sets(both(root))
    expected = sorted(row.key for row in shards.rows)
    assert {key[:2] for key in expected} == {"1:", "2:"}
    for keys in keys_by_epoch(root, tmp_path / "run", split="all"):
        assert sorted(keys) == expected


def test_weights_decide_how_often_each_set_is_read(root, tmp_path):
    # 24 and 8 samples: with weights 1 and 3, half of the 32 are of the second set.
    for keys in keys_by_epoch(root, tmp_path / "run", split="all", shard_weights=(1, 3)):
        counts = Counter(key[:2] for key in keys)
        assert abs(counts["1:"] - 16) <= 1 and sum(counts.values()) == 32


def test_balanced_classes_keep_the_weights_within_each(root, tmp_path):
    options = {"split": "all", "shard_weights": (1, 4), "sampling": "balanced"}
    for keys in keys_by_epoch(root, tmp_path / "run", **options):
        classes = Counter(key.partition("_")[2][:2] for key in keys)
        assert all(abs(classes[name] - 8) <= 1 for name in ("HA", "SA", "NE", "SU"))
        happy = Counter(key[:2] for key in keys if "_HA" in key)
        # 8 samples of weight 1 and 4 of weight 4: a third and two thirds of 8 draws.
        assert abs(happy["2:"] - 16 / 3) <= 1.5


def test_weights_read_all_samples_as_one_part_by_default(root, tmp_path):
    options = {"split": "all", "num_workers": 2}
    parts = [
        prepare(config(both(root), tmp_path / "run", shard_weights=given, **options), in_process=False)[2].partitions
        for given in ((), (1, 3))
    ]
    assert parts == [2, 1]


def test_weights_make_another_run(root, tmp_path):
    configs = [config(both(root), tmp_path / "run", shard_weights=given) for given in ((1, 2), (1, 3))]
    assert configs[0].for_fingerprint() != configs[1].for_fingerprint()


def test_relative_names_are_those_of_the_folder_of_the_user(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    assert prepare(config("a::b", tmp_path / "run"), in_process=False)[2].config.shards == both(root)
    folds = CrossvalConfig.model_validate({"shards": ["a", "b"], "out": tmp_path / "cv", "split_protocol": "kfold:2"})
    shards = open_sets("a::b")
    assert {fold.train.shards for fold in _folds(folds, shards, shards)} == {both(root)}


def test_equal_names_are_on_one_side_of_the_split(root):
    manifest = RunDirectory(root / "run").manifest()
    assert manifest is not None
    assert len(manifest.train_subjects) == len(manifest.test_subjects) == 4
    assert manifest.num_train_samples == sum(
        row.subject in manifest.train_subjects for row in open_sets(both(root)).rows
    )


class TestScores:
    @pytest.mark.parametrize("names", [("a",), ("b",), ("a", "b")])
    def test_only_test_subjects_are_scored_on_one_set_and_on_both(self, root, names):
        spec = "::".join(str(root / name) for name in names)
        run = RunDirectory(root / "run").manifest()
        report = evaluate(EvaluateConfig(run=root / "run", shards=spec, protocol=("knn",)))
        expected = [row for row in open_sets(spec).rows if run and row.subject in run.test_subjects]
        assert report.num_scans == len(expected) > 0
        each = tuple(open_sets(str(root / name)).manifest.fingerprint for name in names)
        assert report.joined_fingerprints == (each if len(names) > 1 else ())

    def test_training_subjects_are_not_scored_by_another_split(self, root):
        with pytest.raises(UsageError, match=r"subjects? that the run was trained or validated on"):
            evaluate(EvaluateConfig(run=root / "run", shards=str(root / "a"), split="kfold:2:1", protocol=("knn",)))

    def test_a_set_of_the_training_is_no_other_dataset(self, root):
        options = {"run": root / "run", "protocol": ("knn",)}
        with pytest.raises(UsageError, match="or those of the run"):
            evaluate(EvaluateConfig(shards=str(root / "b"), fit_on=str(root / "a"), **options))

    def test_protocols_are_fitted_on_training_subjects_of_one_set(self, root, tmp_path):
        write_shard_set(tmp_path / "c", 3, size=32, channels=("normal",))
        run, shards = open_run(root / "run")[0], ShardSet.open(str(tmp_path / "c"))
        fit_on = ShardSet.open(str(root / "a"))
        selection = SampleSelection(shards.spec, None, None, "fail", fit_on.spec)
        fitted, scored = select_rows_cross_dataset(selection, run, fit_on, shards)
        assert set(fitted.distinct("subject")) == set(run.train_subjects) and len(scored) == 9


class TestOverlaps:
    """Sets that share a part with what is scored, fitted on or learned from."""

    @pytest.fixture(scope="class")
    def third(self, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder with another set and a run on the first one alone."""
        folder = Path(shutil.copytree(root, tmp_path_factory.mktemp("overlaps") / "joined"))
        write_shard_set(folder / "c", 3, size=32, channels=("normal",))
        learn(folder / "a", folder / "run_a", split="all")
        return folder

    def score(self, root: Path, run: str, shards: str, fit_on: str) -> None:
        spec, other = ("::".join(str(root / name) for name in names) for names in (shards, fit_on))
        evaluate(EvaluateConfig(run=root / run, shards=spec, fit_on=other, protocol=("knn",)))

    @pytest.mark.parametrize(
        ("run", "shards", "fit_on"),
        [
            ("run_a", "ab", "a"),
            ("run_a", "b", "bc"),
            ("run_a", "cb", "b"),
            ("run", "ba", "c"),
            ("run", "ac", "c"),
            ("run", "ca", "b"),
        ],
    )
    def test_what_was_seen_is_no_other_dataset(self, third, run, shards, fit_on):
        with pytest.raises(UsageError, match="contain the same shards, or those of the run"):
            self.score(third, run, shards, fit_on)

    def test_sets_in_another_order_are_those_of_the_run(self, root):
        spec = f"{root / 'b'}::{root / 'a'}"
        run = open_run(root / "run")[0]
        report = evaluate(EvaluateConfig(run=root / "run", shards=spec, protocol=("knn",)))
        assert report.num_scans == sum(row.subject in run.test_subjects for row in open_sets(spec).rows)

    def test_cross_validation_refuses_them_before_training(self, third, tmp_path):
        options = {
            "train_on": [third / "a", third / "b"],
            "test_on": str(third / "b"),
            "out": tmp_path / "cv",
            "arch": ARCH,
        }
        given = CrossvalConfig.model_validate(options)
        with pytest.raises(UsageError, match="contains shards of `train_on`"):
            crossval(given)
        assert not (tmp_path / "cv").exists()


def test_finished_run_is_found_and_stopped_one_continues(root, tmp_path):
    out = tmp_path / "run"
    options = {"split": "kfold:2:0"}
    assert learn(both(root), root / "run", **options) == RunDirectory(root / "run").manifest()
    learn(both(root), out, **options)
    (out / "manifest.json").unlink()
    newest = RunDirectory(out).checkpoints()[-1].path
    for file in list(newest.iterdir()):
        file.unlink()
    newest.rmdir()
    learn(both(root), out, resume=True, **options)
    assert same(weights(out), weights(root / "run")) and timeless(out) == timeless(root / "run")


@pytest.mark.parametrize(
    ("shards", "given", "message"),
    [
        ("both", (1, 2, 3), "needs a number for each of 2 shard sets"),
        ("a", (2,), None),
        ("a", (1, 2), "needs a number for each of 1 shard set$"),
    ],
)
def test_weights_are_one_for_each_set(root, tmp_path, shards, given, message):
    spec = both(root) if shards == "both" else str(root / shards)
    options = config(spec, tmp_path / "run", shard_weights=given)
    if message is None:
        prepare(options, in_process=True)
        return
    with pytest.raises(UsageError, match=message):
        prepare(options, in_process=True)


@pytest.mark.parametrize("given", ["0,1", "-1,1", "inf,1", "x,1"])
def test_weights_are_positive_numbers(given):
    with pytest.raises(ValueError, match="shard_weights"):
        config("a::b", "run", shard_weights=given)


def test_option_is_repeated_or_joined(root, tmp_path):
    parts = [str(root / "a"), str(root / "b")]
    assert TrainConfig.model_validate({"shards": parts, "out": tmp_path / "run"}).shards == both(root)
    done = CliRunner().invoke(
        app, ["evaluate", str(root / "run"), "--shards", parts[0], "--shards", parts[1], "--protocol", "knn", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert f'"shards_fingerprint": "{open_sets(both(root)).manifest.fingerprint}"' in done.output


class TestStatus:
    def test_run_is_made_from_both_sets(self, root):
        (row,) = [row for row in status(StoragePath(root)).rows if row.kind == "run"]
        assert (row.state, row.made_from) == ("finished", "a::b")

    def test_sets_that_were_used_need_no_training(self, root):
        assert [row.next for row in status(StoragePath(root)).rows if row.kind == "shards"] == [None, None]

    def test_run_is_stale_when_one_set_changed(self, root, tmp_path):
        for name in ("a", "b", "run"):
            shutil.copytree(root / name, tmp_path / name)
        shutil.rmtree(tmp_path / "b")
        write_shard_set(tmp_path / "b", 3, size=32, channels=("normal",))
        (row,) = [row for row in status(StoragePath(tmp_path)).rows if row.kind == "run"]
        assert row.state == "stale" and row.next is not None
        assert row.next.options["shards"] == f"{tmp_path / 'a'}::{tmp_path / 'b'}"
