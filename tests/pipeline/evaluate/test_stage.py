"""The evaluation stage: scores of a real run on real shards, and its output files."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.html_text import Page
from helpers.samples import write_shard_set
from smile_pipe.cli.commands.evaluate import _table
from smile_pipe.pipeline.classifiers import metrics
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.evaluate import embeddings
from smile_pipe.pipeline.evaluate import stage as evaluate
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.finetune import finetune
from smile_pipe.pipeline.evaluate.stage import run
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import run as train
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import read_index, write_index
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(scope="module")
def evaluation(run_dir, shards_dir) -> EvaluationManifest:
    return run(EvaluateConfig(run=run_dir, shards=str(shards_dir)))


@pytest.fixture
def copied(run_dir, tmp_path) -> Path:
    """A copy of the run that a test may score again."""
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def test_the_manifest_has_every_score_of_every_protocol(evaluation, run_dir):
    written = json.loads((run_dir / "evaluation" / "manifest.json").read_text())
    assert written["protocols"].keys() == {"zero-shot", "knn", "probe"}
    # Only unseen subjects are scored.
    assert evaluation.num_subjects == len(open_run(run_dir)[0].test_subjects) == 1
    for score in written["protocols"].values():
        assert {"accuracy", "macro_f1", "per_class", "per_level", "confusion"} <= score.keys()
        assert sum(map(sum, score["confusion"])) == 7 == score["num_samples"]
        right = sum(score["confusion"][i][i] for i in range(7))
        assert score["accuracy"] == pytest.approx(right / 7)


def test_shards_are_read_through_copies_in_the_given_folder(evaluation, copied, shards_dir, tmp_path):
    config = EvaluateConfig(run=copied, shards=str(shards_dir), cache_dir=tmp_path / "copies", cache_gb=0.5)
    assert run(config).protocols == evaluation.protocols
    assert [path.stat().st_size for path in (tmp_path / "copies").glob("*.tar")]
    run(config.model_copy(update={"cache_dir": tmp_path / "none", "cache_gb": 0}))
    assert list((tmp_path / "none").iterdir()) == []


def test_other_shards_to_fit_on_are_read_through_copies(copied, shards_dir, tmp_path):
    write_shard_set(tmp_path / "other", expressions=("HA", "SA", "SU"), size=48)
    options = {"shards": str(tmp_path / "other"), "fit_on": str(shards_dir), "protocol": ("knn",)}
    run(EvaluateConfig(run=copied, cache_dir=tmp_path / "copies", **options))
    copies = {path.read_bytes() for path in (tmp_path / "copies").glob("*.tar")}
    assert copies & {path.read_bytes() for path in (shards_dir / "shards").iterdir()}
    assert copies & {path.read_bytes() for path in (tmp_path / "other" / "shards").iterdir()}


def test_cache_folder_is_checked_before_anything_is_written(run_dir, shards_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder that can be written") as error:
        run(EvaluateConfig(run=run_dir, shards=str(shards_dir), cache_dir=tmp_path / "file"))
    assert error.value.field == "cache_dir"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_evaluation_writes_report_tables_and_manifest(evaluation, run_dir):
    assert {path.name for path in (run_dir / "evaluation").iterdir()} == {
        "manifest.json",
        "report.html",
        "scores.csv",
        "predictions.csv",
        "probe.safetensors",
    }


def test_tables_match_scores_and_predictions(evaluation, run_dir, shards_dir):
    scores = table(run_dir / "evaluation" / "scores.csv")
    overall = {
        row["protocol"]: float(row["value"])
        for row in scores
        if row["measure"] == "accuracy" and not row["level"] + row["views"]
    }
    assert overall == {name: score.accuracy for name, score in evaluation.protocols.items()}
    rows = table(run_dir / "evaluation" / "predictions.csv")
    test = ShardSet.open(str(shards_dir)).of_subjects(
        json.loads((run_dir / "manifest.json").read_text())["test_subjects"]
    )
    assert [row["key"] for row in rows] == [row.key for row in test]
    assert [row["truth"] for row in rows] == [row.expression for row in test]
    for name, score in evaluation.protocols.items():
        assert np.mean([row[name] == row["truth"] for row in rows]) == pytest.approx(score.accuracy)
        confidences = [float(row[f"{name} probability"]) for row in rows]
        assert all(1 / 7 <= value <= 1 for value in confidences)
        expected = sum(part.confidence * part.num_samples for part in score.reliability)
        assert sum(confidences) == pytest.approx(expected)


def test_zero_shot_has_view_scores_and_retrieval(evaluation, shards_dir):
    shard_set = ShardSet.open(str(shards_dir))
    cameras = shard_set.read(shard_set.rows[0]).record.cameras
    names = tuple(camera.name for camera in cameras)
    assert names == shard_set.manifest.views
    assert evaluation.view_protocol == "zero-shot" and len(evaluation.view_scores) == 7
    whole = evaluation.view_scores[-1]
    assert (whole.views, whole.accuracy) == (names, evaluation.protocols["zero-shot"].accuracy)
    assert evaluation.retrieval.text_of_faces.num_prompts == sum(map(len, shard_set.manifest.prompts.values()))
    assert evaluation.retrieval.faces_of_text.average_precision.keys() == set(evaluation.classes)
    # Seven faces are scored, so there is no recall at 10.
    assert evaluation.retrieval.faces_of_text.recall_at.keys() == {"1", "5"}


def test_without_zero_shot_views_use_knn_and_there_is_no_retrieval(copied, shards_dir):
    found = run(EvaluateConfig(run=copied, shards=str(shards_dir), protocol=("knn",)))
    assert found.view_protocol == "knn" and found.retrieval is None
    assert found.view_scores[-1].accuracy == found.protocols["knn"].accuracy


def test_several_subjects_have_intervals_by_the_seed(evaluation, copied, shards_dir, monkeypatch):
    assert {score.accuracy_interval for score in evaluation.protocols.values()} == {None}
    options = {"run": copied, "shards": str(shards_dir), "split": "all", "protocol": ("knn",)}
    found = run(EvaluateConfig(**options)).protocols["knn"]
    low, high = found.accuracy_interval
    assert low <= found.accuracy <= high and low < high
    # With many draws of few subjects, two seeds may give the same intervals.
    monkeypatch.setattr(metrics, "NUM_DRAWS", 3)
    one, other = (run(EvaluateConfig(**options, seed=seed)).protocols["knn"] for seed in (0, 1))
    assert one.accuracy == other.accuracy == found.accuracy
    assert one.macro_f1_interval != other.macro_f1_interval


class TestFineTuning:
    def test_finetune_is_scored_with_the_requested_epochs(self, copied, shards_dir):
        options = {"run": copied, "shards": str(shards_dir), "protocol": ("knn", "finetune")}
        steps: list[tuple[int, int]] = []
        once = run(EvaluateConfig(**options, finetune_epochs=1), lambda *step: steps.append(step))
        assert list(once.protocols) == ["knn", "finetune"] and once.finetune_epochs == 1
        assert once.protocols["finetune"].num_samples == 7
        # All samples are embedded, and then there is one epoch with one step for 28 samples.
        assert steps[-2:] == [(35, 35), (1, 1)]
        rows = table(copied / "evaluation" / "predictions.csv")
        right = np.mean([row["finetune"] == row["truth"] for row in rows])
        assert right == pytest.approx(once.protocols["finetune"].accuracy)
        twice = run(EvaluateConfig(**options, finetune_epochs=2))
        assert twice.finetune_epochs == 2 and twice.fingerprint != once.fingerprint
        assert "Fine-tuning" in (copied / "evaluation" / "report.html").read_text()

    def test_learns_from_the_subjects_that_are_not_scored(self, copied, shards_dir):
        manifest, checkpoint = open_run(copied)
        run(EvaluateConfig(run=copied, shards=str(shards_dir), protocol=("finetune",), finetune_epochs=1))
        shard_set, model = ShardSet.open(str(shards_dir)), TrainedModel.load(manifest, checkpoint)
        reader = FaceDataset(shard_set, DecodeSpec(manifest.channels, model.model.towers.image_size), 0)
        train_rows, test_rows = (
            shard_set.of_subjects(subjects) for subjects in (manifest.train_subjects, manifest.test_subjects)
        )
        y = np.array([shard_set.manifest.expressions.index(row.expression) for row in train_rows])
        expected = finetune(model, reader, train_rows, test_rows, y, 7, 0, 1, lambda step, total: None)
        rows = table(copied / "evaluation" / "predictions.csv")
        assert [float(row["finetune probability"]) for row in rows] == pytest.approx(expected.max(axis=1))
        assert [row["finetune"] for row in rows] == [shard_set.manifest.expressions[n] for n in expected.argmax(axis=1)]

    def test_finetune_alone_has_no_view_scores(self, copied, shards_dir):
        options = {"run": copied, "shards": str(shards_dir), "protocol": ("finetune",), "finetune_epochs": 1}
        two = run(EvaluateConfig(**options, where="expression in ['HA', 'SA']"))
        assert (two.protocols["finetune"].num_samples, two.view_protocol, two.view_scores) == (2, None, ())
        rows = table(copied / "evaluation" / "predictions.csv")
        assert {row["finetune"] for row in rows} <= {"HA", "SA"}

    def test_finetune_with_split_all_raises(self, copied, shards_dir):
        with pytest.raises(UsageError, match=r"protocol finetune: .* `split=all` scores all of them"):
            run(EvaluateConfig(run=copied, shards=str(shards_dir), protocol=("finetune",), split="all"))

    def test_finetune_is_not_a_default(self, evaluation):
        assert "finetune" not in evaluation.protocols and evaluation.finetune_epochs is None


class TestCandidates:
    """A condition selects samples, and only the expressions of these can be answers."""

    def test_protocols_choose_among_the_expressions_of_the_selected_samples(self, copied, shards_dir):
        options = {"run": copied, "shards": str(shards_dir), "finetune_epochs": 1}
        every = ("zero-shot", "knn", "probe", "finetune")
        found = run(EvaluateConfig(**options, protocol=every, where="expression in ['HA', 'SA', 'NE']"))
        assert found.classes == ("HA", "SA", "NE")
        assert {len(score.confusion) for score in found.protocols.values()} == {3}
        for row in table(copied / "evaluation" / "predictions.csv"):
            assert {row[name] for name in every} <= {"HA", "SA", "NE"}
            # The highest of three probabilities; of seven it is lower after so short a training.
            assert all(float(row[f"{name} probability"]) >= 1 / 3 for name in every)
        prompts = ShardSet.open(str(shards_dir)).manifest.prompts
        assert found.retrieval.text_of_faces.num_prompts == sum(len(prompts[name]) for name in found.classes)
        text = Page((copied / "evaluation" / "report.html").read_text()).text
        assert "chooses among 3 expressions, those of the selected samples, so chance level is about 33.3 %" in text

    def test_do_not_depend_on_the_labels_of_the_scored_samples(self, copied, shards_dir):
        (scored,) = open_run(copied)[0].test_subjects
        where = f"expression in ['HA', 'SA'] or (expression == 'NE' and subject != '{scored}')"
        found = run(EvaluateConfig(run=copied, shards=str(shards_dir), protocol=("knn",), where=where))
        assert (found.classes, found.protocols["knn"].per_class.keys()) == (("HA", "SA", "NE"), {"HA", "SA"})

    def test_classifier_chooses_among_them(self, shards_dir, tmp_path):
        options = {"epochs": 1, "batch_size": 8, "split": "kfold:5:0", "recipe": "supervised"}
        train(TrainConfig(shards=str(shards_dir), out=tmp_path / "run", **options), in_process=True)
        scored = {"run": tmp_path / "run", "shards": str(shards_dir), "protocol": ("classifier",)}
        assert run(EvaluateConfig(**scored, where="expression in ['HA', 'SA']")).classes == ("HA", "SA")
        for row in table(tmp_path / "run" / "evaluation" / "predictions.csv"):
            assert row["classifier"] in ("HA", "SA") and float(row["classifier probability"]) >= 1 / 2

    def test_zero_shot_needs_the_prompts_of_candidates_only(self, copied, shards_dir, tmp_path):
        shutil.copytree(shards_dir, tmp_path / "shards")
        path = tmp_path / "shards" / "manifest.json"
        written = json.loads(path.read_text())
        path.write_text(json.dumps(written | {"prompts": written["prompts"] | {"NE": []}}))
        options = {"run": copied, "shards": str(tmp_path / "shards"), "protocol": ("zero-shot",)}
        assert "zero-shot" in run(EvaluateConfig(**options, where="expression != 'NE'")).protocols
        with pytest.raises(UsageError, match="no prompts for NE"):
            run(EvaluateConfig(**options))


class TestSeveralExpressionsAtOnce:
    @pytest.fixture
    def shards(self, tmp_path) -> Path:
        """Shards in which sad samples are relabelled as happy and surprised."""
        write_shard_set(tmp_path / "shards", num_subjects=4, channels=("normal",))
        path = tmp_path / "shards" / "manifest.json"
        written = json.loads(path.read_text())
        classes = {"HA": ["happy"], "HA;SU": ["happy and surprised"], "NE": ["neutral"]}
        path.write_text(json.dumps(written | {"expressions": list(classes), "prompts": classes}))
        rows = read_index(tmp_path / "shards" / "index.parquet")
        for row in rows:
            row.expression = row.expression.replace("SA", "HA;SU")
        write_index(tmp_path / "shards" / "index.parquet", rows)
        return tmp_path / "shards"

    def test_are_scored_as_classes_and_as_binary_labels(self, shards, tmp_path):
        options = {"epochs": 1, "batch_size": 4, "split": "kfold:4:0", "text": "none"}
        train(TrainConfig(shards=str(shards), out=tmp_path / "run", **options), in_process=True)
        found = run(EvaluateConfig(run=tmp_path / "run", shards=str(shards)))
        assert found.classes == ("HA", "HA;SU", "NE")
        for score in found.protocols.values():
            assert score.labels.f1.keys() == {"HA", "SU", "NE"} and len(score.confusion) == 3
        single = EvaluateConfig(run=tmp_path / "run", shards=str(shards), where="expression != 'HA;SU'")
        assert {score.labels for score in run(single).protocols.values()} == {None}


def test_old_manifest_is_removed_before_new_tables_are_written(evaluation, copied, shards_dir, monkeypatch):
    monkeypatch.setattr(StoragePath, "write_atomically", lambda path, content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(EvaluateConfig(run=copied, shards=str(shards_dir), protocol=("knn",)))
    assert not (copied / "evaluation" / "manifest.json").exists()


def test_command_prints_intervals(evaluation):
    def cells(manifest: EvaluationManifest) -> list[list[str]]:
        return [list(column.cells) for column in _table(manifest).columns]

    knn = evaluation.protocols["knn"].model_copy(update={"accuracy": 0.5, "macro_f1": 0.25})
    without = cells(evaluation.model_copy(update={"protocols": {"knn": knn}}))
    assert without[:3] == [["knn"], ["50.0"], ["25.0"]] and len(without) == 3 + 7
    knn = knn.model_copy(update={"accuracy_interval": (0.4, 0.6), "macro_f1_interval": (0.125, 1.0)})
    changed = evaluation.model_copy(update={"protocols": {"knn": knn}})
    assert cells(changed)[1:3] == [["50.0\n40.0-60.0"], ["25.0\n12.5-100.0"]]
    assert "95 % interval" in str(_table(changed).caption) and _table(evaluation).caption is None


def test_report_has_all_sections_and_figures(evaluation, run_dir):
    page = Page((run_dir / "evaluation" / "report.html").read_text())
    assert f"{100 * evaluation.protocols['probe'].accuracy:.1f}" in page.text
    for part in ("Accuracy by views", "Retrieval", "Confusion, knn", "Calibration", "Training", "Faces"):
        assert part in page.text
    assert page.links[-1].startswith("data:image/png;base64,") and len(page.links) >= 8


def test_split_all_scores_every_sample(copied, shards_dir):
    manifest = run(EvaluateConfig(run=copied, shards=str(shards_dir), split="all"))
    assert {score.num_samples for score in manifest.protocols.values()} == {35}
    assert manifest.num_subjects == 5


def test_scores_are_deterministic(evaluation, copied, shards_dir):
    assert run(EvaluateConfig(run=copied, shards=str(shards_dir))) == evaluation


def test_split_with_training_subjects_in_the_test_part_raises(run_dir, shards_dir):
    with pytest.raises(UsageError, match="was trained or validated on"):
        run(EvaluateConfig(run=run_dir, shards=str(shards_dir), split="kfold:5:1"))


class TestFitOn:
    """kNN and probe that are fitted on other shards."""

    @pytest.fixture(scope="class")
    def other(self, tmp_path_factory):
        root = tmp_path_factory.mktemp("other") / "shards"
        write_shard_set(root, num_subjects=3, expressions=("HA", "SA"), size=48)
        return root

    def test_knn_uses_training_samples_of_the_run(self, run_dir, copied, shards_dir, other, monkeypatch):
        embedded = []
        keep = lambda *given: embedded.append(embeddings.embed(*given)) or embedded[0]  # noqa: E731 - used once
        monkeypatch.setattr(evaluate, "embed", keep)
        manifest = run(EvaluateConfig(run=copied, shards=str(other), fit_on=str(shards_dir), protocol=("knn",)))
        (data,) = embedded
        learned = open_run(run_dir)[0].train_subjects
        assert {row.subject for row in data.train_rows} == set(learned)
        assert {row.expression for row in data.train_rows} == {"HA", "SA"}
        assert [row.key for row in data.test_rows] == [row.key for row in ShardSet.open(str(other)).rows]
        assert manifest.fitted_on == ShardSet.open(str(shards_dir)).manifest.fingerprint
        assert "Cross-dataset evaluation" in (copied / "evaluation" / "report.html").read_text()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"split": "kfold:3:0"}, "leave `split` out"),
            ({"protocol": ("finetune",)}, "protocol finetune"),
        ],
    )
    def test_impossible_options_raise(self, run_dir, shards_dir, other, options, message):
        with pytest.raises(UsageError, match=message):
            run(EvaluateConfig(**{"run": run_dir, "shards": str(other), "fit_on": str(shards_dir)} | options))

    def test_training_shards_of_the_run_raise(self, run_dir, shards_dir, other):
        with pytest.raises(UsageError, match="contain the same shards, or those of the run"):
            run(EvaluateConfig(run=run_dir, shards=str(shards_dir), fit_on=str(other)))

    def test_shards_without_a_common_expression_raise(self, run_dir, other, tmp_path):
        write_shard_set(tmp_path / "shards", num_subjects=2, expressions=("wink",), size=48)
        with pytest.raises(UsageError, match="none of the expressions"):
            run(EvaluateConfig(run=run_dir, shards=str(other), fit_on=str(tmp_path / "shards")))


def test_without_text_there_is_no_zero_shot(shards_dir, tmp_path):
    options = {"epochs": 1, "batch_size": 8, "split": "kfold:5:0", "text": "none"}
    train(TrainConfig(shards=str(shards_dir), out=tmp_path / "run", **options), in_process=True)
    manifest = run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir)))
    assert manifest.protocols.keys() == {"knn", "probe"}
    with pytest.raises(UsageError, match="without text"):
        run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir), protocol=("zero-shot",)))


def test_other_shards_need_a_split(run_dir, shards_dir, tmp_path):
    shutil.copytree(shards_dir, tmp_path / "shards")
    path = tmp_path / "shards" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "another"}))
    with pytest.raises(UsageError, match="`split`"):
        run(EvaluateConfig(run=run_dir, shards=str(tmp_path / "shards")))


@pytest.mark.parametrize("missing", ["manifest.json", "checkpoints"])
def test_unfinished_run_raises(copied, shards_dir, missing):
    target = copied / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(UsageError, match=r"manifest\.json|checkpoint"):
        run(EvaluateConfig(run=copied, shards=str(shards_dir)))
