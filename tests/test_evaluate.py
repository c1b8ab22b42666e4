"""The evaluation stage: scores of a real run on real shards, and the files that it leaves."""

import json
import shutil

import pytest

from pipeline.evaluate import run
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.manifest import EvaluationManifest
from pipeline.train import run as train
from pipeline.training.config import TrainConfig
from shards.errors import UsageError


@pytest.fixture(scope="module")
def evaluation(run_dir, shards_dir) -> EvaluationManifest:
    return run(EvaluateConfig(run=run_dir, shards=str(shards_dir)))


def test_the_manifest_has_every_score_of_every_protocol(evaluation, run_dir):
    written = json.loads((run_dir / "evaluation" / "manifest.json").read_text())
    assert written["protocols"].keys() == {"zero-shot", "knn", "probe"}
    for score in written["protocols"].values():
        assert {"accuracy", "macro_f1", "per_class", "per_level", "confusion"} <= score.keys()
        assert sum(map(sum, score["confusion"])) == 7 == score["num_samples"]
        right = sum(score["confusion"][i][i] for i in range(7))
        assert score["accuracy"] == pytest.approx(right / 7)


def test_only_subjects_that_training_never_saw_are_scored(evaluation, run_dir):
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert evaluation.num_subjects == len(manifest["test_subjects"]) == 1


def test_the_report_stands_alone_and_tells_the_figures(evaluation, run_dir):
    page = (run_dir / "evaluation" / "report.html").read_text()
    assert 'src="http' not in page and 'href="http' not in page and "<script" not in page
    assert "data:image/png;base64," in page and page.count("<svg") + page.count("data:image/svg") >= 4
    assert f"{100 * evaluation.protocols['probe'].accuracy:.1f}" in page


def test_all_scores_every_sample_each_by_models_of_other_subjects(run_dir, shards_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    manifest = run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir), split="all"))
    assert {score.num_samples for score in manifest.protocols.values()} == {35}
    assert manifest.num_subjects == 5


def test_the_same_run_gives_the_same_scores(evaluation, run_dir, shards_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    assert run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir))) == evaluation


def test_a_split_that_would_test_on_training_subjects_is_refused(run_dir, shards_dir):
    with pytest.raises(UsageError, match="has learned from"):
        run(EvaluateConfig(run=run_dir, shards=str(shards_dir), split="kfold:5:1"))


def test_without_text_there_is_no_zero_shot(shards_dir, ray_cluster, tmp_path):
    options = {"epochs": 1, "batch_size": 8, "split": "kfold:5:0", "text": "none"}
    train(TrainConfig(shards=str(shards_dir), out=tmp_path / "run", **options))
    manifest = run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir)))
    assert manifest.protocols.keys() == {"knn", "probe"}
    with pytest.raises(UsageError, match="without text"):
        run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir), protocol=("zero-shot",)))


def test_other_shards_need_to_be_told_whom_to_score(run_dir, shards_dir, tmp_path):
    shutil.copytree(shards_dir, tmp_path / "shards")
    path = tmp_path / "shards" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "another"}))
    with pytest.raises(UsageError, match="--split"):
        run(EvaluateConfig(run=run_dir, shards=str(tmp_path / "shards")))


@pytest.mark.parametrize("missing", ["manifest.json", "checkpoints"])
def test_an_unfinished_run_is_refused(run_dir, shards_dir, tmp_path, missing):
    shutil.copytree(run_dir, tmp_path / "run")
    target = tmp_path / "run" / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(UsageError, match=r"manifest\.json|checkpoint"):
        run(EvaluateConfig(run=tmp_path / "run", shards=str(shards_dir)))
