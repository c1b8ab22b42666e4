"""Sequences in the stages: shards of sequences and scans, a run on them, its evaluation, and what each records."""

import json
from pathlib import Path

import pytest
import torch

from helpers.samples import make_timeline, write_shard_set
from smile_pipe.cli.commands.evaluate import _table
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run as evaluate
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.stage import run as train
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet

# Happiness as a scan, sadness and neutral as sequences of two and of five frames.
TIMELINES = (None, make_timeline(2, "both"), make_timeline(5, "both"))


def config(shards: Path, out: Path, **options: object) -> TrainConfig:
    given = {"shards": str(shards), "out": out, "epochs": 1, "batch_size": 4, "split": "kfold:4:0", "channel": "rgb"}
    return TrainConfig.model_validate(given | options)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of four subjects with a scan and two sequences each, which store frames and dynamic images."""
    root = tmp_path_factory.mktemp("mixed") / "shards"
    write_shard_set(root, num_subjects=4, timelines=TIMELINES, channels=("rgb", "normal"))
    return root


@pytest.fixture(scope="module")
def run_of_mixed(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on three of the subjects, with four frames of each sequence at most."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(config(mixed, out, max_frames=4), in_process=True)
    return out


@pytest.fixture(scope="module")
def evaluation(mixed: Path, run_of_mixed: Path) -> EvaluationManifest:
    return evaluate(EvaluateConfig(run=run_of_mixed, shards=str(mixed)))


def test_manifest_records_what_was_read_of_sequences(run_of_mixed):
    manifest = RunManifest.read(run_of_mixed / "manifest.json")
    assert (manifest.temporal, manifest.max_frames, manifest.text_source) == ("frames", 4, "label")
    assert (manifest.num_train_samples, manifest.num_train_sequences) == (9, 6)
    whom = "3 scans and 6 sequences of 3 subjects"
    assert manifest.training_data_summary() == f"{whom}; frames of each sequence, at most 4 frames"


def test_temporal_pooling_is_trained(run_of_mixed):
    weights = RunDirectory(run_of_mixed).checkpoints()[-1].load_model()
    for name in ("temporal.score.weight", "temporal.gain.weight"):
        assert weights[name].abs().max() > 0


def test_evaluation_reads_sequences_like_the_run(evaluation):
    assert (evaluation.temporal, evaluation.max_frames) == ("frames", 4)
    # One subject: a scan, and sequences of two and five frames, of which four are read.
    assert (evaluation.num_scans, evaluation.num_sequences, evaluation.num_frames) == (1, 2, 6)
    assert evaluation.protocols.keys() == {"zero-shot", "knn", "probe"} and evaluation.notes == ()
    assert all(score.num_samples == 3 for score in evaluation.protocols.values())


def test_report_describes_sequences(evaluation, run_of_mixed):
    page = (run_of_mixed / "evaluation" / "report.html").read_text()
    assert "1 scan and 2 sequences of 1 subject" in page
    assert "frames of each sequence, at most 4 frames (6 frames in all)" in page
    assert "3 scans and 6 sequences of 3 subjects; frames" in page


def test_the_command_line_counts_scans_and_sequences(evaluation):
    assert "1 scan and 2 sequences of 1 subject," in str(_table(evaluation).title)
    scans = evaluation.model_copy(update={"num_scans": 3, "num_sequences": 0})
    assert "3 scans of 1 subject," in str(_table(scans).title)


def test_two_workers_train_on_scans_sequences_and_dynamic_images(mixed, ray_cluster, tmp_path):
    manifest = train(config(mixed, tmp_path / "run", temporal="both", num_workers=2, batch_size=3))
    assert manifest.temporal == "both" and manifest.world_size == 2
    assert evaluate(EvaluateConfig(run=tmp_path / "run", shards=str(mixed))).temporal == "both"


def test_a_run_on_scans_leaves_pooling_as_it_began_and_scores_sequences_by_their_mean(mixed, run_of_mixed, tmp_path):
    run = train(config(mixed, tmp_path / "run", where="expression == 'HA'", batch_size=2), in_process=True)
    assert (run.temporal, run.num_train_samples, run.num_train_sequences) == ("none", 3, 0)
    assert run.training_data_summary() == "3 scans of 3 subjects"
    other = RunManifest.read(run_of_mixed / "manifest.json")
    assert run.where == "expression == 'HA'" and run.fingerprint != other.fingerprint
    # Who is tested on does not depend on the condition.
    assert run.test_subjects == other.test_subjects
    weights = RunDirectory(tmp_path / "run").checkpoints()[-1].load_model()
    torch.manual_seed(0)
    began = build_model(config(mixed, tmp_path / "run").recipe_config()).temporal.state_dict()
    assert began and all(torch.equal(weights[f"temporal.{name}"], weight) for name, weight in began.items())
    found = evaluate(EvaluateConfig(run=tmp_path / "run", shards=str(mixed)))
    assert (found.temporal, found.num_sequences) == ("frames", 2)


def test_shards_that_store_other_moments_than_the_run_read_are_refused(run_of_mixed, tmp_path):
    write_shard_set(tmp_path / "shards", timelines=(make_timeline(3, "dynamic"),), channels=("rgb",))
    with pytest.raises(UsageError, match="they store dynamic of sequences, and the run was trained on frames"):
        evaluate(EvaluateConfig(run=run_of_mixed, shards=str(tmp_path / "shards"), split="all"))


def test_shards_of_dynamic_images_alone_are_learned_from_as_they_are(tmp_path):
    timelines = (make_timeline(4, "dynamic"),)
    write_shard_set(
        tmp_path / "shards", num_subjects=4, timelines=timelines, channels=("normal",), text_source="geometry"
    )
    run = train(config(tmp_path / "shards", tmp_path / "run", channel="auto"), in_process=True)
    assert (run.temporal, run.channel, run.text_source) == ("dynamic", "normal", "geometry")
    found = evaluate(EvaluateConfig(run=tmp_path / "run", shards=str(tmp_path / "shards")))
    assert (found.temporal, found.num_frames, found.text_source) == ("dynamic", 0, "geometry")


class TestZeroShot:
    @pytest.fixture
    def without_prompts(self, mixed: Path, tmp_path: Path) -> str:
        """The same shards, whose manifest has no prompts for one of the expressions."""
        (tmp_path / "shards").symlink_to(mixed / "shards")
        (tmp_path / "index.parquet").symlink_to(mixed / "index.parquet")
        manifest = json.loads((mixed / "manifest.json").read_text())
        del manifest["prompts"]["SA"]
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        return str(tmp_path)

    def test_it_is_left_out_with_a_note_where_a_class_has_no_prompts(self, run_of_mixed, without_prompts):
        found = evaluate(EvaluateConfig(run=run_of_mixed, shards=without_prompts))
        assert found.protocols.keys() == {"knn", "probe"}
        assert found.notes == ("zero-shot was left out: the shards carry no prompts for SA",)
        assert "no prompts for SA" in (run_of_mixed / "evaluation" / "report.html").read_text()

    def test_nothing_is_noted_where_it_was_not_asked_for(self, run_of_mixed, without_prompts):
        assert evaluate(EvaluateConfig(run=run_of_mixed, shards=without_prompts, protocol=("knn",))).notes == ()

    def test_alone_it_is_refused(self, run_of_mixed, without_prompts):
        with pytest.raises(UsageError, match="protocol zero-shot: the shards carry no prompts for SA"):
            evaluate(EvaluateConfig(run=run_of_mixed, shards=without_prompts, protocol=("zero-shot",)))


class TestWhere:
    def test_only_samples_for_which_it_holds_are_scored(self, mixed, run_of_mixed):
        found = evaluate(EvaluateConfig(run=run_of_mixed, shards=str(mixed), where="expression != 'HA'"))
        assert (found.num_scans, found.num_sequences, found.where) == (0, 2, "expression != 'HA'")
        everything = evaluate(EvaluateConfig(run=run_of_mixed, shards=str(mixed)))
        assert everything.fingerprint != found.fingerprint and everything.where is None

    def test_a_condition_that_nothing_meets_is_refused_and_nothing_is_written(self, mixed, tmp_path):
        with pytest.raises(UsageError, match="level > 9"):
            train(config(mixed, tmp_path / "run", where="level > 9"))
        assert not (tmp_path / "run").exists()


def test_frames_of_scans_are_refused_and_nothing_is_written(tmp_path):
    write_shard_set(tmp_path / "shards", num_subjects=4)
    with pytest.raises(UsageError, match="temporal frames: all training samples are scans"):
        train(config(tmp_path / "shards", tmp_path / "run", temporal="frames"))
    assert not (tmp_path / "run").exists()


def test_what_is_read_is_found_out_without_reading_a_test_sample(mixed, tmp_path, monkeypatch):
    read, plain = [], ShardSet.read_bytes
    monkeypatch.setattr(ShardSet, "read_bytes", lambda self, row: read.append(row.subject) or plain(self, row))
    # The samples of the first subject come first in the index.
    _, split, job = prepare(config(mixed, tmp_path / "run", split="loso:F0001"), in_process=False)
    assert job.temporal == "frames" and read and set(read) <= set(split.train)
