"""Cross-validation on a real Ray: what it leaves, what it tells, and that it goes on where it stopped."""

import csv
import itertools
import json
import os
import shlex
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from botocore.exceptions import EndpointConnectionError
from sklearn import metrics
from typer.testing import CliRunner

from helpers.processes import wait_until, workers
from helpers.samples import write_shard_set
from smile_pipe.cli.commands.crossval import _table
from smile_pipe.cli.main import app
from smile_pipe.pipeline.common.directory_lock import NAME as LOCK_NAME
from smile_pipe.pipeline.common.directory_lock import STALE_AFTER
from smile_pipe.pipeline.crossval import stage as crossval
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.crossval.folds import Fold, FoldError
from smile_pipe.pipeline.crossval.stage import run
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.status import status
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.splits import split_subjects
from smile_pipe.shards.storage import StoragePath


def config(shards, out, **options) -> CrossvalConfig:
    given = {"shards": str(shards), "out": out, "protocol": "kfold:2", "epochs": 1, "batch_size": 8}
    return CrossvalConfig(**given | options)


@pytest.fixture(scope="module")
def whole(shards_dir, ray_cluster, tmp_path_factory):
    """Two folds of one short epoch."""
    out = tmp_path_factory.mktemp("crossval") / "cv"
    run(config(shards_dir, out))
    return out


def weights(out, fold):
    return RunDirectory(out / "folds" / fold).checkpoints()[-1].load_model()


def stamps(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_each_fold_is_a_run_with_its_evaluation(whole):
    assert {path.name for path in whole.iterdir()} == {
        "config.json",
        "manifest.json",
        "scores.csv",
        "report.html",
        "folds",
    }
    assert {path.name for path in (whole / "folds").iterdir()} == {"00", "01"}
    for fold in ("00", "01"):
        run_manifest = RunManifest.read(whole / "folds" / fold / "manifest.json")
        found = EvaluationManifest.read(whole / "folds" / fold / "evaluation" / "manifest.json")
        assert found.run_fingerprint == run_manifest.fingerprint


def test_each_subject_is_tested_on_once_and_never_by_who_has_seen_it(whole, shards_dir):
    manifest, everyone = CrossvalManifest.read(whole / "manifest.json"), ShardSet.open(str(shards_dir)).subjects
    tested = [subject for fold in manifest.folds for subject in fold.subjects]
    assert sorted(tested) == sorted(everyone)
    assert sum(fold.num_samples for fold in manifest.folds) == 35
    for number, fold in enumerate(manifest.folds):
        learned = RunManifest.read(whole / fold.folder / "manifest.json").train_subjects
        assert not set(learned) & set(fold.subjects)
        assert fold.subjects == split_subjects(f"kfold:2:{number}", everyone).test


def test_the_folds_are_told_together(whole):
    manifest = CrossvalManifest.read(whole / "manifest.json")
    folds = [EvaluationManifest.read(whole / f"folds/0{n}/evaluation/manifest.json").protocols for n in (0, 1)]
    assert set(manifest.scores) == {"zero-shot", "knn", "probe"}
    for name, score in manifest.scores.items():
        first, second = folds[0][name], folds[1][name]
        assert score.accuracy.mean == pytest.approx((first.accuracy + second.accuracy) / 2)
        assert score.accuracy.deviation == pytest.approx(abs(first.accuracy - second.accuracy) / 2**0.5)
        assert score.macro_f1.mean == pytest.approx((first.macro_f1 + second.macro_f1) / 2)
        # Each sample shows one expression, so over all of them this is what scikit-learn calls macro F1.
        rows = [
            row for n in (0, 1) for row in csv.DictReader((whole / f"folds/0{n}/evaluation/predictions.csv").open())
        ]
        truth, named = [row["truth"] for row in rows], [row[name] for row in rows]
        assert score.labels.macro_uf1 == pytest.approx(metrics.f1_score(truth, named, average="macro"))
        assert score.labels.uar == pytest.approx(metrics.recall_score(truth, named, average="macro"))
        assert np.array_equal(score.confusion, np.array(first.confusion) + np.array(second.confusion))
        own = np.array(score.confusion)
        assert score.per_class == pytest.approx(
            dict(zip(manifest.classes, own.diagonal() / own.sum(axis=1), strict=True))
        )


def test_the_table_holds_what_the_manifest_does(whole):
    manifest = CrossvalManifest.read(whole / "manifest.json")
    rows = list(csv.DictReader((whole / "scores.csv").open()))
    told = {(row["protocol"], row["measure"], row["of"]): row for row in rows}
    assert len(told) == len(rows)
    for name, score in manifest.scores.items():
        assert float(told[name, "accuracy", "all"]["value"]) == score.accuracy.mean
        assert float(told[name, "macro_f1", "all"]["deviation"]) == score.macro_f1.deviation
        assert float(told[name, "accuracy", "kfold:2:1"]["value"]) == manifest.folds[1].accuracy[name]
        assert float(told[name, "macro_uf1", "all"]["value"]) == score.labels.macro_uf1
        assert float(told[name, "uar", "all"]["value"]) == score.labels.uar
        assert float(told[name, "label_f1", "HA"]["value"]) == score.labels.f1["HA"]
        assert float(told[name, "recall", "HA"]["value"]) == score.per_class["HA"]
        assert float(told[name, "accuracy", "level 4"]["value"]) == score.per_level["4"].mean


def test_what_is_finished_is_not_made_again(whole, shards_dir):
    before, told = stamps(whole), []
    manifest = run(config(shards_dir, whole), lambda *row: told.append(row))
    assert manifest == CrossvalManifest.read(whole / "manifest.json")
    assert (stamps(whole), told) == (before, [])


def test_a_stopped_one_goes_on_with_what_is_missing(whole, shards_dir, ray_cluster, tmp_path):
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    (out / "manifest.json").unlink()
    (out / "folds" / "01" / "manifest.json").unlink()
    shutil.rmtree(out / "folds" / "01" / "checkpoints")
    before, told = stamps(out / "folds" / "00"), []
    assert run(config(shards_dir, out), lambda *row: told.append(row)) == CrossvalManifest.read(whole / "manifest.json")
    assert stamps(out / "folds" / "00") == before
    assert told[-1] == (5, 5, "2 of 2 folds")
    expected, found = weights(whole, "01"), weights(out, "01")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_another_protocol_of_scoring_trains_nothing_again(whole, shards_dir, ray_cluster, tmp_path):
    shutil.copytree(whole, tmp_path / "cv")
    trained = stamps(tmp_path / "cv" / "folds" / "00" / "checkpoints")
    manifest = run(config(shards_dir, tmp_path / "cv", score=("knn",)))
    assert set(manifest.scores) == {"knn"}
    assert manifest.scores["knn"] == CrossvalManifest.read(whole / "manifest.json").scores["knn"]
    assert stamps(tmp_path / "cv" / "folds" / "00" / "checkpoints") == trained


def test_a_fold_that_lost_its_scores_is_scored_again(whole, shards_dir, ray_cluster, tmp_path):
    shutil.copytree(whole, tmp_path / "cv")
    scores = tmp_path / "cv" / "folds" / "01" / "evaluation" / "manifest.json"
    content = scores.read_bytes()
    scores.unlink()
    assert run(config(shards_dir, tmp_path / "cv")) == CrossvalManifest.read(whole / "manifest.json")
    assert scores.read_bytes() == content


def test_the_command_tells_where_the_report_is_in_one_line(whole, shards_dir, tmp_path):
    out = tmp_path / ("a long name " * 10) / "cv"
    shutil.copytree(whole, out)
    options = ["--shards", str(shards_dir), "--protocol", "kfold:2", "--epochs", "1", "--batch-size", "8"]
    result = CliRunner().invoke(app, ["crossval", "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    assert {f"Nothing to do: {out} is finished", f"{out}/report.html"} <= set(result.stdout.splitlines())


@pytest.mark.parametrize("options", [{"epochs": 2}, {"recipe": "clip"}, {"protocol": "kfold:3"}, {"seed": 1}])
def test_other_options_need_another_folder(whole, shards_dir, options):
    before = stamps(whole)
    with pytest.raises(UsageError, match="name another"):
        run(config(shards_dir, whole, **options))
    assert stamps(whole) == before


def test_a_folder_with_other_things_is_left_alone(shards_dir, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="name another"):
        run(config(shards_dir, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"model_type": "bert"}',
        '{"fingerprint": 1, "crossval": {}}',
        # Of a run.
        '{"fingerprint": "f", "train": {"num_workers": 1, "batch_size": 4}}',
    ],
)
def test_a_folder_whose_config_json_is_of_something_else_is_left_alone(shards_dir, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match="holds files that are not of a cross-validation"):
        run(config(shards_dir, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"recipe": "smile"}, "smile-vlm"),
        ({"protocol": "loso", "subset": "I"}, "--subset"),
        ({"text": "geometry"}, "--text geometry"),
        ({"where": "level > 4"}, "no sample matches"),
        ({"protocol": "bu3dfe"}, "10 folds"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_written(shards_dir, tmp_path, options, told):
    with pytest.raises(UsageError, match=told):
        run(config(shards_dir, tmp_path / "cv", **options))
    assert not (tmp_path / "cv").exists()


def test_more_cores_than_a_node_has_are_refused(shards_dir, ray_cluster, tmp_path):
    with pytest.raises(UsageError, match="--cores-per-fold 999: no node has more than"):
        run(config(shards_dir, tmp_path / "cv", cores_per_fold=999))


def test_a_damaged_shard_is_told_as_such(shards_dir, ray_cluster, tmp_path):
    shutil.copytree(shards_dir, tmp_path / "shards")
    tar = next((tmp_path / "shards" / "shards").iterdir())
    content = bytearray(tar.read_bytes())
    content[2000:9000] = bytes(7000)
    tar.write_bytes(content)
    with pytest.raises(BadSampleError, match=tar.name):
        run(config(tmp_path / "shards", tmp_path / "cv"))


def test_a_fold_goes_on_where_its_worker_died(shards_dir, ray_cluster, whole, tmp_path):
    out, killed = tmp_path / "cv", threading.Event()

    def kill_one():
        wait_until(lambda: bool(RunDirectory(out / "folds" / "00").checkpoints()), 120)
        for pid in workers("ray::run_fold"):
            os.kill(pid, signal.SIGKILL)
        killed.set()

    killer = threading.Thread(target=kill_one)
    killer.start()
    run(config(shards_dir, out, epochs=3))
    killer.join()
    assert killed.is_set()
    run(config(shards_dir, tmp_path / "quiet", epochs=3))
    for fold in ("00", "01"):
        expected, found = weights(tmp_path / "quiet", fold), weights(out, fold)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


class TestAcross:
    """One dataset is learned from, and another one scored."""

    @pytest.fixture(scope="class")
    def other(self, tmp_path_factory):
        """Another dataset: other people, one expression that the first has not, and six that it has."""
        root = tmp_path_factory.mktemp("other") / "shards"
        write_shard_set(root, num_subjects=3, expressions=("AN", "DI", "FE", "HA", "SA", "SU", "wink"), size=48)
        return root

    def across(self, shards_dir, other, out, **options):
        fields = {"train_on": str(shards_dir), "test_on": str(other), "out": out, "epochs": 1, "batch_size": 8}
        return CrossvalConfig(**fields | options)

    def test_all_of_one_is_learned_from_and_all_of_the_other_scored(self, shards_dir, other, ray_cluster, tmp_path):
        given = self.across(shards_dir, other, tmp_path / "cv", score=("knn", "probe"))
        manifest = run(given)
        learned, scored = (ShardSet.open(str(root)) for root in (shards_dir, other))
        assert (manifest.shards_fingerprint, manifest.scored_on) == (
            learned.manifest.fingerprint,
            scored.manifest.fingerprint,
        )
        (fold,) = manifest.folds
        assert (fold.num_samples, fold.subjects) == (21, tuple(scored.subjects))
        assert (manifest.protocol, fold.split) == ("across", "all")
        trained = RunManifest.read(tmp_path / "cv" / fold.folder / "manifest.json")
        assert trained.train_subjects == tuple(learned.subjects)
        found = EvaluationManifest.read(tmp_path / "cv" / fold.folder / "evaluation" / "manifest.json")
        assert (found.fitted_on, found.split) == (learned.manifest.fingerprint, "all")
        # Nobody who votes has ever winked.
        wink = manifest.classes.index("wink")
        assert all(row[wink] == 0 for score in manifest.scores.values() for row in score.confusion)
        assert manifest.scores["knn"].accuracy.deviation is None
        assert _table(manifest).title == "percent, 21 samples of 3 subjects, text: label"
        assert "One dataset was learned from" in (tmp_path / "cv" / "report.html").read_text()
        assert run(given, lambda *row: pytest.fail("did it again")) == manifest
        (row,) = (row for row in status(tmp_path).rows if row.kind == "crossval")
        assert row.state == "finished"
        (tmp_path / "cv" / "manifest.json").unlink()
        (row,) = (row for row in status(tmp_path).rows if row.kind == "crossval")
        assert f"--test-on {other}" in row.next

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"test_on": None}, "give both"),
            ({"train_on": None}, "give both"),
            ({"shards": "x"}, "give --shards, or"),
            ({"protocol": "loso"}, "no folds"),
            ({"num_subjects": 3}, "no folds"),
        ],
    )
    def test_what_is_not_clear_is_refused(self, shards_dir, other, tmp_path, options, told):
        with pytest.raises(UsageError, match=told):
            run(self.across(shards_dir, other, tmp_path / "cv", **options))
        assert not (tmp_path / "cv").exists()


def test_in_memory_it_runs_in_this_process(tmp_path):
    write_shard_set(tmp_path / "shards", num_subjects=4)
    target = StoragePath("memory://crossval-of-a-test/cv")
    manifest = run(config(tmp_path / "shards", target, score=("knn",), batch_size=2))
    assert [fold.num_samples for fold in manifest.folds] == [6, 6]
    assert json.loads((target / "manifest.json").read_text())["stage"] == "crossval"


def test_a_fold_goes_on_where_its_worker_died_on_another_machine_and_left_its_lock(tmp_path):
    write_shard_set(tmp_path / "shards", num_subjects=4)
    given = config(tmp_path / "shards", StoragePath(f"memory://{tmp_path.name}/cv"), score=("knn",), batch_size=2)
    whole, fold = run(given), given.out / "folds" / "01"
    (given.out / "manifest.json").unlink()
    (fold / "manifest.json").unlink()
    # It counts as one of the living for a moment more.
    holder = {"pid": 1, "host": "elsewhere", "since": "noon", "renewed": time.time() - STALE_AFTER + 3}
    (fold / LOCK_NAME).write_bytes(json.dumps(holder).encode())
    assert run(given) == whole
    assert not (fold / LOCK_NAME).exists()


def test_a_fold_that_another_version_has_scored_is_told_as_such(tmp_path, monkeypatch):
    write_shard_set(tmp_path / "shards", num_subjects=2, size=8)
    given = config(tmp_path / "shards", StoragePath(f"memory://{tmp_path.name}/cv"), score=("knn",), batch_size=2)
    make = crossval.run_fold

    def make_with_another_version(fold: Fold, **options) -> None:
        make(fold, **options)
        found = json.loads(fold.evaluation_path.read_text())
        fold.evaluation_path.write_text(json.dumps(found | {"schema_version": found["schema_version"] + 1}))

    monkeypatch.setattr(crossval, "run_fold", make_with_another_version)
    with pytest.raises(FoldError, match=r"00: was made, .* is the same version of smile-pipe installed"):
        run(given)


@pytest.mark.parametrize("error", [PermissionError("not now"), EndpointConnectionError(endpoint_url="-")])
def test_a_storage_that_fails_while_progress_is_told_is_asked_again(tmp_path, monkeypatch, error):
    write_shard_set(tmp_path / "shards", num_subjects=4, size=8)
    given = config(tmp_path / "shards", StoragePath(f"memory://{tmp_path.name}/cv"), score=("knn",), batch_size=2)
    progress, failures, told = RunDirectory.progress, [error], []

    def fail_at_first(self) -> tuple[int, int]:
        if failures:
            raise failures.pop()
        return progress(self)

    monkeypatch.setattr(RunDirectory, "progress", fail_at_first)
    run(given, lambda *row: told.append(row))
    # A row for each fold: of the first nothing could be told.
    assert [done for done, _, _ in told] == [0, 6]


class TestStatus:
    """`smile-pipe status` on a folder with shards and a cross-validation."""

    @pytest.fixture
    def folder(self, whole, shards_dir, tmp_path):
        shutil.copytree(shards_dir, tmp_path / "shards")
        shutil.copytree(whole, tmp_path / "cv")
        about = json.loads((tmp_path / "cv" / "config.json").read_text())
        (tmp_path / "cv" / "config.json").write_text(
            json.dumps(about | {"shards": "../shards", "scored_on": "../shards"})
        )
        return tmp_path

    def row(self, folder):
        (found,) = (row for row in status(folder).rows if row.kind == "crossval")
        return found

    def test_a_finished_one_is_one_row_and_its_folds_are_none(self, folder):
        assert [row.kind for row in status(folder).rows] == ["shards", "crossval"]
        row = self.row(folder)
        assert (row.path, row.state, row.build_samples, row.counts, row.next) == (
            "cv",
            "finished",
            "shards",
            {"folds": 2},
            "",
        )

    def test_an_unfinished_one_is_gone_on_with_by_what_is_told(self, folder):
        (folder / "cv" / "manifest.json").unlink()
        (folder / "cv" / "folds" / "01" / "evaluation" / "manifest.json").unlink()
        row = self.row(folder)
        assert (row.state, row.counts) == ("unfinished", {"folds": 1})
        words = shlex.split(row.next)
        assert words[:2] == ["smile-pipe", "crossval"]
        given = {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}
        assert given == {
            "--out": str(folder / "cv"),
            "--shards": str(folder / "shards"),
            "--protocol": "kfold:2",
            "--epochs": "1",
            "--batch-size": "8",
        }

    def test_one_on_shards_that_changed_since_is_stale(self, folder):
        manifest = ShardManifest.read(folder / "shards" / "manifest.json")
        manifest.model_copy(update={"fingerprint": "0" * 32}).write(folder / "shards" / "manifest.json")
        row = self.row(folder)
        assert row.state == "stale" and "--out NEW_CROSSVAL" in row.next
