"""The cross-validation stage on a real Ray: outputs, scores, and resuming after stops and crashes."""

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

from helpers import small_runs
from helpers.processes import wait_until, workers
from helpers.samples import write_shard_set
from smile_pipe.cli.main import app
from smile_pipe.cli.next_command import next_command
from smile_pipe.pipeline.classifiers.metrics import subject_intervals
from smile_pipe.pipeline.common.directory_lock import NAME as LOCK_NAME
from smile_pipe.pipeline.common.directory_lock import STALE_AFTER
from smile_pipe.pipeline.crossval import stage as crossval
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.crossval.folds import Fold, FoldError
from smile_pipe.pipeline.crossval.protocols import SIX_EXPRESSIONS
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
    given = {"shards": str(shards), "out": out, "split_protocol": "kfold:2", "epochs": 1, "batch_size": 8}
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
        evaluation = EvaluationManifest.read(whole / "folds" / fold / "evaluation" / "manifest.json")
        assert evaluation.run_fingerprint == run_manifest.fingerprint


def test_each_subject_is_tested_once_by_a_model_that_has_not_seen_it(whole, shards_dir):
    manifest, all_subjects = CrossvalManifest.read(whole / "manifest.json"), ShardSet.open(str(shards_dir)).subjects
    tested = [subject for fold in manifest.folds for subject in fold.subjects]
    assert sorted(tested) == sorted(all_subjects)
    assert sum(fold.num_samples for fold in manifest.folds) == 35
    for number, fold in enumerate(manifest.folds):
        learned = RunManifest.read(whole / fold.folder / "manifest.json").train_subjects
        assert not set(learned) & set(fold.subjects)
        assert fold.subjects == split_subjects(f"kfold:2:{number}", all_subjects).test


def test_scores_of_folds_are_aggregated(whole):
    manifest = CrossvalManifest.read(whole / "manifest.json")
    folds = [EvaluationManifest.read(whole / f"folds/0{n}/evaluation/manifest.json").protocols for n in (0, 1)]
    assert set(manifest.scores) == {"zero-shot", "knn", "probe"}
    for name, score in manifest.scores.items():
        first, second = folds[0][name], folds[1][name]
        assert score.accuracy.mean == pytest.approx((first.accuracy + second.accuracy) / 2)
        assert score.accuracy.deviation == pytest.approx(abs(first.accuracy - second.accuracy) / 2**0.5)
        # Each sample shows one expression, so this is the macro F1 of scikit-learn over all samples.
        rows = [
            row for n in (0, 1) for row in csv.DictReader((whole / f"folds/0{n}/evaluation/predictions.csv").open())
        ]
        truth, named = [row["truth"] for row in rows], [row[name] for row in rows]
        assert score.pooled.macro_f1 == pytest.approx(metrics.f1_score(truth, named, average="macro"))
        assert score.pooled.accuracy == pytest.approx(metrics.accuracy_score(truth, named))
        numbers = {name: n for n, name in enumerate(manifest.classes)}
        y, predicted = (np.array([numbers[name] for name in names]) for names in (truth, named))
        intervals = subject_intervals(y, predicted, [row["subject"] for row in rows], len(numbers), seed=0)
        assert score.pooled.accuracy_interval == pytest.approx(intervals[0])
        assert score.pooled.macro_f1_interval == pytest.approx(intervals[1])
        assert score.labels.macro_uf1 == pytest.approx(metrics.f1_score(truth, named, average="macro"))
        assert score.labels.uar == pytest.approx(metrics.recall_score(truth, named, average="macro"))
        assert np.array_equal(score.confusion, np.array(first.confusion) + np.array(second.confusion))
        own = np.array(score.confusion)
        assert score.per_class == pytest.approx(
            dict(zip(manifest.classes, own.diagonal() / own.sum(axis=1), strict=True))
        )


def test_scores_csv_has_the_scores_of_the_manifest(whole):
    manifest = CrossvalManifest.read(whole / "manifest.json")
    rows = list(csv.DictReader((whole / "scores.csv").open()))
    rows_by_name = {(row["protocol"], row["measure"], row["of"]): row for row in rows}
    assert len(rows_by_name) == len(rows)
    for name, score in manifest.scores.items():
        assert float(rows_by_name[name, "accuracy", "all"]["value"]) == score.accuracy.mean
        pooled = rows_by_name[name, "macro_f1", "all"]
        assert (float(pooled["value"]), pooled["deviation"]) == (score.pooled.macro_f1, "")
        assert (float(pooled["low"]), float(pooled["high"])) == score.pooled.macro_f1_interval
        assert float(rows_by_name[name, "pooled_accuracy", "all"]["value"]) == score.pooled.accuracy
        assert float(rows_by_name[name, "macro_f1", "kfold:2:1"]["value"]) == manifest.folds[1].macro_f1[name]
        assert float(rows_by_name[name, "accuracy", "kfold:2:1"]["value"]) == manifest.folds[1].accuracy[name]
        assert float(rows_by_name[name, "macro_uf1", "all"]["value"]) == score.labels.macro_uf1
        assert float(rows_by_name[name, "uar", "all"]["value"]) == score.labels.uar
        assert float(rows_by_name[name, "label_f1", "HA"]["value"]) == score.labels.f1["HA"]
        assert float(rows_by_name[name, "recall", "HA"]["value"]) == score.per_class["HA"]
        assert float(rows_by_name[name, "accuracy", "level 4"]["value"]) == score.per_level["4"].mean


def test_finished_cross_validation_is_not_repeated(whole, shards_dir):
    before, reports = stamps(whole), []
    manifest = run(config(shards_dir, whole), lambda *row: reports.append(row))
    assert manifest == CrossvalManifest.read(whole / "manifest.json")
    assert (stamps(whole), reports) == (before, [])


def test_tables_of_an_earlier_release_are_written_again_without_training(whole, shards_dir, ray_cluster, tmp_path):
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    written = json.loads((out / "manifest.json").read_text())
    for score in written["scores"].values():
        del score["pooled"]
        score["macro_f1"] = {"mean": 0.9, "deviation": 0.1}
    (out / "manifest.json").write_text(json.dumps(written | {"schema_version": 1}))
    earlier, expected = CrossvalManifest.read(out / "manifest.json"), CrossvalManifest.read(whole / "manifest.json")
    for name, score in earlier.scores.items():
        without = {"accuracy_interval": None, "macro_f1_interval": None}
        assert score.pooled == expected.scores[name].pooled.model_copy(update=without)
    before = stamps(out / "folds")
    assert run(config(shards_dir, out)) == expected
    assert stamps(out / "folds") == before


def test_stopped_cross_validation_resumes_unfinished_folds(whole, shards_dir, ray_cluster, tmp_path):
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    (out / "manifest.json").unlink()
    (out / "folds" / "01" / "manifest.json").unlink()
    shutil.rmtree(out / "folds" / "01" / "checkpoints")
    before, reports = stamps(out / "folds" / "00"), []
    assert run(config(shards_dir, out), lambda *row: reports.append(row)) == CrossvalManifest.read(
        whole / "manifest.json"
    )
    assert stamps(out / "folds" / "00") == before
    assert reports[-1] == (5, 5, "2 of 2 folds")
    expected, resumed = weights(whole, "01"), weights(out, "01")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_other_evaluation_protocol_does_not_retrain(whole, shards_dir, ray_cluster, tmp_path):
    shutil.copytree(whole, tmp_path / "cv")
    trained = stamps(tmp_path / "cv" / "folds" / "00" / "checkpoints")
    manifest = run(config(shards_dir, tmp_path / "cv", protocol=("knn",)))
    assert set(manifest.scores) == {"knn"}
    assert manifest.scores["knn"] == CrossvalManifest.read(whole / "manifest.json").scores["knn"]
    assert stamps(tmp_path / "cv" / "folds" / "00" / "checkpoints") == trained


def test_questions_are_asked_in_each_fold_without_training_again(whole, shards_dir, ray_cluster, tmp_path):
    shutil.copytree(whole, tmp_path / "cv")
    trained = stamps(tmp_path / "cv" / "folds" / "00" / "checkpoints")
    asked = config(shards_dir, tmp_path / "cv", protocol=("knn", "few-labels"))
    manifest = run(asked)
    assert stamps(tmp_path / "cv" / "folds" / "00" / "checkpoints") == trained
    assert set(manifest.questions) == {"few-labels"} and manifest.questions["few-labels"]
    folds = [tmp_path / "cv" / fold.folder / "evaluation" / "manifest.json" for fold in manifest.folds]
    written = [EvaluationManifest.read(path).questions["few-labels"].parts for path in folds]
    for number, part in enumerate(manifest.questions["few-labels"]):
        assert part.folds == tuple(parts[number].accuracy for parts in written)
        assert part.name == written[0][number].name.split(" (")[0] and part.chance == written[0][number].chance
        assert part.accuracy.mean == pytest.approx(sum(part.folds) / len(part.folds))
    table = (tmp_path / "cv" / "scores.csv").read_text()
    assert f"few-labels,accuracy,{part.group}: {part.name},{part.accuracy.mean}" in table
    assert part.name in (tmp_path / "cv" / "report.html").read_text()
    before = stamps(tmp_path / "cv" / "folds" / "00" / "evaluation")
    assert run(asked) == manifest and stamps(tmp_path / "cv" / "folds" / "00" / "evaluation") == before
    assert run(config(shards_dir, tmp_path / "cv", protocol=("knn",))).questions == {}


def test_fold_without_scores_is_scored_again(whole, shards_dir, ray_cluster, tmp_path):
    shutil.copytree(whole, tmp_path / "cv")
    scores = tmp_path / "cv" / "folds" / "01" / "evaluation" / "manifest.json"
    content = scores.read_bytes()
    scores.unlink()
    assert run(config(shards_dir, tmp_path / "cv")) == CrossvalManifest.read(whole / "manifest.json")
    assert scores.read_bytes() == content


def test_command_prints_the_path_of_the_report_in_one_line(whole, shards_dir, tmp_path):
    out = tmp_path / ("a long name " * 10) / "cv"
    shutil.copytree(whole, out)
    options = ["--shards", str(shards_dir), "--split-protocol", "kfold:2", "--epochs", "1", "--batch-size", "8"]
    result = CliRunner().invoke(app, ["crossval", "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    assert {f"Nothing to do: {out} is finished", f"{out}/report.html"} <= set(result.stdout.splitlines())


@pytest.mark.parametrize("options", [{"epochs": 2}, {"recipe": "clip"}, {"split_protocol": "kfold:3"}, {"seed": 1}])
def test_other_options_need_another_directory(whole, shards_dir, options):
    before = stamps(whole)
    with pytest.raises(UsageError, match="name another"):
        run(config(shards_dir, whole, **options))
    assert stamps(whole) == before


def test_directory_with_other_files_is_not_changed(shards_dir, tmp_path):
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
        # A run.
        '{"fingerprint": "f", "train": {"num_workers": 1, "batch_size": 4}}',
    ],
)
def test_directory_with_foreign_config_json_is_not_changed(shards_dir, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match="holds files that are not of a cross-validation"):
        run(config(shards_dir, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "smile"}, "smile-vlm"),
        ({"split_protocol": "loso", "subset": "I"}, "subset I"),
        ({"text": "geometry"}, "text geometry"),
        ({"where": "level > 4"}, "no sample matches"),
        ({"split_protocol": "bu3dfe"}, "10 folds"),
        ({"protocol": ("knn", "caption-check")}, "trained with text from label"),
    ],
)
def test_invalid_options_raise_before_anything_is_written(shards_dir, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        run(config(shards_dir, tmp_path / "cv", **options))
    assert not (tmp_path / "cv").exists()


def test_questions_alone_are_refused(shards_dir, tmp_path):
    with pytest.raises(ValueError, match="holds questions only; add one of zero-shot, knn"):
        config(shards_dir, tmp_path / "cv", protocol=("analogy", "fewshot:5"))


def test_folds_are_trained_and_scored_through_copies_in_the_given_folder(shards_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"cache_dir": "copies", "cache_gb": 3, "split_protocol": "loso"}
    shards = ShardSet.open(str(shards_dir))
    folds = crossval._folds(CrossvalConfig(shards=str(shards_dir), out=tmp_path / "cv", **options), shards, shards)
    # Workers of a cluster have another working directory.
    for fold in folds:
        for part in (fold.train, fold.evaluate):
            assert (part.cache_dir, part.cache_gb) == (tmp_path / "copies", 3)


def test_more_cores_than_a_node_has_raise(shards_dir, ray_cluster, tmp_path):
    with pytest.raises(UsageError, match="cores_per_fold 999: no node has more than"):
        run(config(shards_dir, tmp_path / "cv", cores_per_fold=999))


def test_damaged_shard_raises_bad_sample_error(shards_dir, ray_cluster, tmp_path):
    shutil.copytree(shards_dir, tmp_path / "shards")
    tar = next((tmp_path / "shards" / "shards").iterdir())
    content = bytearray(tar.read_bytes())
    content[2000:9000] = bytes(7000)
    tar.write_bytes(content)
    with pytest.raises(BadSampleError, match=tar.name):
        run(config(tmp_path / "shards", tmp_path / "cv"))


def test_fold_resumes_after_the_death_of_its_worker(shards_dir, ray_cluster, whole, tmp_path):
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
        expected, resumed = weights(tmp_path / "quiet", fold), weights(out, fold)
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.fixture
def in_memory(tmp_path) -> CrossvalConfig:
    """Two folds of two subjects each, which are run in this process."""
    write_shard_set(tmp_path / "shards", num_subjects=4, size=8)
    return config(tmp_path / "shards", StoragePath(f"memory://{tmp_path.name}/cv"), protocol=("knn",), batch_size=2)


def test_in_memory_storage_runs_in_this_process(in_memory):
    assert [fold.num_samples for fold in run(in_memory).folds] == [6, 6]
    assert json.loads((in_memory.out / "manifest.json").read_text())["stage"] == "crossval"


class TestCandidates:
    """`bu3dfe` selects six expressions, and only these can be answers; the shards have neutral and action units too."""

    @pytest.fixture(scope="class")
    def options(self, tmp_path_factory) -> CrossvalConfig:
        folder = tmp_path_factory.mktemp("bu3dfe")
        small_runs.register(folder)
        expressions = (*SIX_EXPRESSIONS, "NE", "au12")
        write_shard_set(folder / "shards", num_subjects=10, expressions=expressions, channels=("rgb",))
        out = StoragePath(f"memory://{folder.name}/cv")
        options = {"split_protocol": "bu3dfe", "protocol": ("zero-shot", "knn"), "batch_size": 32}
        return config(folder / "shards", out, arch=small_runs.ARCH, **options)

    @pytest.fixture(scope="class")
    def manifest(self, options) -> CrossvalManifest:
        return run(options)

    def test_are_the_expressions_of_the_selected_samples(self, options, manifest):
        assert manifest.classes == SIX_EXPRESSIONS
        for score in manifest.scores.values():
            assert np.array(score.confusion).shape == (6, 6) and np.sum(score.confusion) == 60
        for fold in manifest.folds:
            evaluation = EvaluationManifest.read(options.out / fold.folder / "evaluation" / "manifest.json")
            assert evaluation.classes == SIX_EXPRESSIONS

    @pytest.mark.parametrize("changed", ["classes", "protocols"])
    def test_evaluation_with_other_candidates_or_without_a_protocol_is_repeated(self, changed, options, manifest):
        path = options.out / manifest.folds[3].folder / "evaluation" / "manifest.json"
        written = EvaluationManifest.read(path)
        changes = {
            "classes": {"classes": (*SIX_EXPRESSIONS, "NE", "au12")},
            "protocols": {"protocols": {"zero-shot": written.protocols["zero-shot"]}, "notes": ("1 sample left out",)},
        }
        written.model_copy(update=changes[changed]).write(path)
        assert run(options) == manifest and EvaluationManifest.read(path) == written


@pytest.mark.slow
def test_fold_resumes_after_a_dead_machine_left_its_lock(in_memory):
    whole, fold = run(in_memory), in_memory.out / "folds" / "01"
    (in_memory.out / "manifest.json").unlink()
    (fold / "manifest.json").unlink()
    # The lock expires in three seconds.
    holder = {"pid": 1, "host": "elsewhere", "since": "noon", "renewed": time.time() - STALE_AFTER + 3}
    (fold / LOCK_NAME).write_bytes(json.dumps(holder).encode())
    assert run(in_memory) == whole
    assert not (fold / LOCK_NAME).exists()


def test_scores_of_another_version_raise_fold_error(in_memory, monkeypatch):
    run_fold = crossval.run_fold

    def run_with_another_version(fold: Fold, **options) -> None:
        run_fold(fold, **options)
        evaluation = json.loads(fold.evaluation_path.read_text())
        fold.evaluation_path.write_text(json.dumps(evaluation | {"schema_version": evaluation["schema_version"] + 1}))

    monkeypatch.setattr(crossval, "run_fold", run_with_another_version)
    with pytest.raises(FoldError, match=r"00: the fold has run, .* install the same version of smile-pipe"):
        run(in_memory)


@pytest.mark.parametrize("error", [PermissionError("not now"), EndpointConnectionError(endpoint_url="-")])
def test_failing_storage_does_not_stop_progress_reports(in_memory, monkeypatch, error):
    progress, failures, reports = RunDirectory.progress, [error], []

    def fail_at_first(self) -> tuple[int, int]:
        if failures:
            raise failures.pop()
        return progress(self)

    monkeypatch.setattr(RunDirectory, "progress", fail_at_first)
    run(in_memory, lambda *row: reports.append(row))
    # One report per fold: the state of the first one could not be read.
    assert [done for done, _, _ in reports] == [0, 6]


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
        (row,) = (row for row in status(folder).rows if row.kind == "crossval")
        return row

    def test_finished_cross_validation_is_one_row_without_folds(self, folder):
        assert [row.kind for row in status(folder).rows] == ["shards", "crossval"]
        row = self.row(folder)
        assert (row.path, row.state, row.made_from, row.counts, row.next) == (
            "cv",
            "finished",
            "shards",
            {"folds": 2},
            None,
        )

    def test_unfinished_cross_validation_is_resumed_by_the_next_command(self, folder):
        (folder / "cv" / "manifest.json").unlink()
        (folder / "cv" / "folds" / "01" / "evaluation" / "manifest.json").unlink()
        row = self.row(folder)
        assert (row.state, row.counts) == ("unfinished", {"folds": 1})
        words = shlex.split(next_command(row.next))
        assert words[:2] == ["smile-pipe", "crossval"]
        given = {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}
        assert given == {
            "--out": str(folder / "cv"),
            "--shards": str(folder / "shards"),
            "--split-protocol": "kfold:2",
            "--epochs": "1",
            "--batch-size": "8",
        }

    def test_cross_validation_on_changed_shards_is_stale(self, folder):
        manifest = ShardManifest.read(folder / "shards" / "manifest.json")
        manifest.model_copy(update={"fingerprint": "0" * 32}).write(folder / "shards" / "manifest.json")
        row = self.row(folder)
        assert row.state == "stale" and "--out NEW_CROSSVAL" in next_command(row.next)
