"""The caption vote in the stages: training stores captions, evaluate and predict name faces with them."""

import csv
import json
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from smile_pipe.cli.main import app
from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.app.stage import PAGE
from smile_pipe.pipeline.captions.knowledge import load_knowledge
from smile_pipe.pipeline.captions.naming import ExpressionNamer, activity_of
from smile_pipe.pipeline.crossval import stage as crossval
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.evaluate import stage as evaluate
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.training_captions import TrainingCaptions
from smile_pipe.pipeline.train import stage as train
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(scope="module")
def shards(faces_dir, tmp_path_factory) -> Path:
    """Shards with captions measured on landmarks."""
    out = tmp_path_factory.mktemp("captioned") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_in_process", lambda config: True)
        render.run(RenderConfig(data_dir=faces_dir, out=out, size=48, samples_per_shard=8, text="geometry"))
    return out


def learn(shards: Path, out: Path, **options) -> RunManifest:
    defaults = {"shards": str(shards), "out": out, "epochs": 1, "batch_size": 8, "split": "kfold:5:0"}
    return train.run(TrainConfig.model_validate(defaults | options), in_process=True)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    learn(shards, out, text="knowledge")
    return out


@pytest.fixture
def own_knowledge(tmp_path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("sources: {ME: mine}\nexpressions: {big grin: {ME: [6+12]}, pain: {ME: [4+6+9]}, HA: {ME: [43]}}\n")
    return path


def test_a_run_stores_the_captions_of_its_training_samples(run, shards):
    shard_set, manifest = ShardSet.open(str(shards)), RunDirectory(run).manifest()
    samples = [shard_set.read(row) for row in shard_set.of_subjects(manifest.train_subjects)]
    captions = TrainingCaptions.read(StoragePath(run))
    assert captions.captions.keys() == {sample.text for sample in samples}
    for text, activities in captions.captions.items():
        expected = [activity_of(sample.record.caption) for sample in samples if sample.text == text]
        assert sorted(activities, key=str) == sorted(expected, key=str)
    votes = captions.votes(manifest.classes)
    namer = ExpressionNamer(captions.knowledge, manifest.classes, "geometry")
    for text, row in zip(captions.captions, votes, strict=True):
        names = [namer.name(activity_of(sample.record.caption)) for sample in samples if sample.text == text]
        assert row.tolist() == [names.count(k) for k in range(len(row))]


def test_captions_alone_name_more_scans_than_chance(shards):
    # The figure of the rule itself, without a model. Partly circular: synth mixes similar action units.
    shard_set = ShardSet.open(str(shards))
    samples = [shard_set.read(row) for row in shard_set.rows]
    classes = shard_set.manifest.expressions
    namer = ExpressionNamer(load_knowledge(), classes, "geometry")
    names = [classes[namer.name(activity_of(sample.record.caption))] for sample in samples]
    correct = [name == sample.record.expression for name, sample in zip(names, samples, strict=True)]
    assert sum(correct) / len(correct) > 0.7


def test_predictions_without_shards_equal_those_of_the_evaluation(run, shards, faces_dir):
    result = evaluate.run(EvaluateConfig(run=run, shards=str(shards), protocol=("caption-vote", "knn")))
    assert list(result.protocols) == ["caption-vote", "knn"]
    assert "partly circular" in result.notes[0]
    page = (run / "evaluation" / "report.html").read_text()
    assert "partly circular" in page and "Some names" in page
    assert evaluate.run(EvaluateConfig(run=run, shards=str(shards), protocol="knn")).notes == ()
    evaluate.run(EvaluateConfig(run=run, shards=str(shards), protocol=("caption-vote", "knn")))
    with (run / "evaluation" / "predictions.csv").open(newline="") as file:
        expected = {row["key"]: row for row in csv.DictReader(file)}
    scans = sorted(path for key in expected for path in faces_dir.rglob(f"{key}*") if path.suffix in (".wrl", ".ply"))
    reply = CliRunner().invoke(app, ["predict", str(run), *map(str, scans), "--head", "captions", "--json"])
    answer = json.loads(reply.stdout)
    assert answer["head"] == "captions" and len(answer["predictions"]) == len(expected) == 7
    for prediction in answer["predictions"]:
        row = expected[next(key for key in expected if prediction["key"].startswith(key))]
        assert prediction["expression"] == row["caption-vote"]
        assert max(prediction["probabilities"].values()) == pytest.approx(float(row["caption-vote probability"]))
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)


def test_expressions_of_the_user_become_classes(run, faces_dir, own_knowledge):
    scan = next(path for path in sorted(faces_dir.rglob("*SU04*")) if path.suffix in (".wrl", ".ply"))
    command = ["predict", str(run), str(scan), "--knowledge", str(own_knowledge), "--json"]
    reply = CliRunner().invoke(app, [*command, "--head", "captions"])
    # Pain is in the built-in knowledge too, and the user asks for it.
    assert json.loads(reply.stdout)["classes"][-2:] == ["big grin", "pain"]
    assert json.loads(reply.stdout)["predictions"][0]["probabilities"]["big grin"] > 0
    reply = CliRunner().invoke(app, command)
    assert reply.exit_code == 2 and "needs --head captions" in " ".join(reply.stderr.split())


def test_protocol_and_knowledge_are_refused_where_they_have_no_effect(run, shards, shards_dir, run_dir, own_knowledge):
    with pytest.raises(UsageError, match="text from label, not with captions"):
        evaluate.run(EvaluateConfig(run=run_dir, shards=str(shards_dir), protocol="caption-vote"))
    with pytest.raises(UsageError, match="needs `protocol=caption-vote`"):
        evaluate.run(EvaluateConfig(run=run, shards=str(shards), protocol="knn", knowledge=own_knowledge))


def test_a_run_of_an_earlier_release_has_no_captions(shards, tmp_path):
    learn(shards, tmp_path / "run")
    RunDirectory(tmp_path / "run").captions_path.unlink()
    with pytest.raises(UsageError, match="has no captions; train on shards with captions"):
        evaluate.run(EvaluateConfig(run=tmp_path / "run", shards=str(shards), protocol="caption-vote"))
    RunDirectory(tmp_path / "run").captions_path.write_atomically(b"{}")
    with pytest.raises(UsageError, match="not captions of a run"):
        evaluate.run(EvaluateConfig(run=tmp_path / "run", shards=str(shards), protocol="caption-vote"))


def test_other_knowledge_is_another_evaluation(run, shards, own_knowledge):
    options = {"run": run, "shards": str(shards), "protocol": "caption-vote"}
    plain = evaluate.run(EvaluateConfig(**options))
    other = evaluate.run(EvaluateConfig(**options, knowledge=own_knowledge))
    assert plain.fingerprint != other.fingerprint and plain.classes == other.classes


def test_other_captions_of_the_run_are_another_evaluation(shards, tmp_path):
    learn(shards, tmp_path / "run")
    options = {"run": tmp_path / "run", "shards": str(shards)}
    before = [evaluate.run(EvaluateConfig(**options, protocol=name)).fingerprint for name in ("caption-vote", "knn")]
    captions = TrainingCaptions.read(StoragePath(tmp_path / "run"))
    first = next(iter(captions.captions))
    captions.model_copy(update={"captions": {first: captions.captions[first]}}).write(StoragePath(tmp_path / "run"))
    after = [evaluate.run(EvaluateConfig(**options, protocol=name)).fingerprint for name in ("caption-vote", "knn")]
    assert before[0] != after[0] and before[1] == after[1]


def test_knowledge_is_checked_before_samples_are_read(run, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "embed", None)
    with pytest.raises(UsageError, match="cannot be read"):
        evaluate.run(
            EvaluateConfig(run=run, shards=str(shards), protocol="caption-vote", knowledge=tmp_path / "none.yaml")
        )


def test_another_file_of_knowledge_is_another_training_and_cross_validation(shards, tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"

    def learn_with(text: str) -> tuple[str, str]:
        path.write_text(text)
        stops = []

        def stop(out, fingerprint):
            stops.append(fingerprint)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(train, "load_finished", lambda directory, fingerprint: stop(directory, fingerprint))
            with pytest.raises(KeyboardInterrupt):
                learn(shards, tmp_path / "run", text="knowledge", knowledge=path)
            patch.setattr(crossval, "_holds_other_files", stop)
            config = CrossvalConfig(
                shards=str(shards), out=tmp_path / "cv", split_protocol="kfold:5", text="knowledge", knowledge=path
            )
            with pytest.raises(KeyboardInterrupt):
                crossval.run(config)
        return stops[0], stops[1]

    file = "sources: {ME: mine}\nexpressions: {HA: {ME: [%s]}}\n"
    one, other = learn_with(file % "12"), learn_with(file % "6+12")
    assert one[0] != other[0] and one[1] != other[1]
    assert learn_with(file % "12") == one


def test_folds_read_the_file_from_anywhere(shards, tmp_path, own_knowledge, monkeypatch):
    monkeypatch.chdir(own_knowledge.parent)
    config = CrossvalConfig(shards=str(shards), out=tmp_path / "cv", text="knowledge", knowledge=Path("mine.yaml"))
    fold = config.train_config(str(shards), "kfold:5:0", None, StoragePath(tmp_path / "fold"))
    assert fold.knowledge == own_knowledge
    # The record has no path of this machine.
    assert "knowledge" not in fold.recorded() and "knowledge" not in config.recorded()


def test_captions_of_other_axes_raise(shards, tmp_path):
    learn(shards, tmp_path / "run")
    path = RunDirectory(tmp_path / "run").captions_path
    content = json.loads(path.read_bytes())
    for activities in content["captions"].values():
        for activity in activities:
            activity["strengths"].pop()
    path.write_atomically(json.dumps(content).encode())
    with pytest.raises(UsageError, match="not captions of a run"):
        TrainingCaptions.read(StoragePath(tmp_path / "run"))


def test_report_says_what_captions_are_relative_to(run, shards):
    evaluate.run(EvaluateConfig(run=run, shards=str(shards), protocol="knn"))
    assert "the scan that is labelled neutral" in (run / "evaluation" / "report.html").read_text()


def test_the_page_names_by_captions(run, own_knowledge, monkeypatch):
    config = AppConfig(run=run, head="captions", knowledge=own_knowledge)
    monkeypatch.setattr(sys, "argv", ["page.py", config.model_dump_json()])
    # Streamlit puts the script here; processes that later tests spawn would run it as theirs.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    page = AppTest.from_file(str(PAGE), default_timeout=120).run()
    assert not page.exception and not page.error
    assert any("named by: captions" in caption.value for caption in page.caption)
