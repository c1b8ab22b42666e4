"""Validation: held-out subjects, their accuracy, and that training never uses them."""

import shutil

import numpy as np
import pytest
import torch

from helpers import small_runs
from helpers.samples import make_timeline, spoil, write_shard_set
from helpers.small_runs import learn, same, timeless, weights
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.selection import split_validation
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run as evaluate
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import RunDirectory, open_run
from smile_pipe.pipeline.train import validation
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.embedding import embed_rows
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.pipeline.train.validation import Validation
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.splits import split_subjects

SINGLE = Worker(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def validated(shards, tmp_path_factory):
    """A run that holds out two of its five training subjects, and the subjects of its steps."""
    out, seen, step = tmp_path_factory.mktemp("run") / "run", [], TrainStep.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TrainStep, "step", lambda self, batch, *rest: seen.extend(batch.subjects) or step(self, batch, *rest)
        )
        manifest = learn(shards, out, val_fraction=0.4)
    return out, manifest, seen


class TestSplitValidation:
    subjects = tuple(f"F{number:04d}" for number in range(20))

    def test_held_out_subjects_are_those_of_a_holdout_split(self):
        learned, held = split_validation(self.subjects, 0.25)
        split = split_subjects("holdout:0.25", self.subjects)
        assert (learned, held) == (split.train, split.test) and len(held) == 5
        assert split_validation(self.subjects[::-1], 0.25) == (learned, held)

    def test_no_subject_is_held_out_by_default(self):
        assert split_validation(self.subjects, 0.0) == (self.subjects, ())

    @pytest.mark.parametrize(("fraction", "side"), [(0.01, "validation"), (0.99, "training")])
    def test_empty_side_is_refused(self, fraction, side):
        with pytest.raises(UsageError, match=f"val_fraction {fraction}: leaves none of 20 subjects for {side}"):
            split_validation(self.subjects, fraction)


def test_held_out_subjects_are_recorded_and_neither_trained_nor_tested_on(validated, shards):
    _, manifest, seen = validated
    split = split_subjects("kfold:6:0", ShardSet.open(str(shards)).subjects)
    assert (manifest.train_subjects, manifest.validation_subjects) == split_validation(split.train, 0.4)
    assert len(manifest.validation_subjects) == 2 and manifest.test_subjects == split.test
    assert set(seen) == set(manifest.train_subjects) and manifest.num_train_samples == 9


def test_each_epoch_ends_with_a_validation_row(validated):
    out, manifest, _ = validated
    rows = [row for row in RunDirectory(out).metrics() if "validation_knn" in row]
    # Nine samples in batches of four.
    assert [(row["step"], row["epoch"], row["num_steps"]) for row in rows] == [(3, 0, 6), (6, 1, 6)]
    assert all(0 <= row["validation_knn"] <= 1 for row in rows)
    # The final losses are those of the last row that has losses.
    assert manifest.final_losses["loss_total"] > 0


def test_validation_accuracy_equals_evaluation(validated, shards):
    out, manifest, _ = validated
    shard_set, model = ShardSet.open(str(shards)), TrainedModel.load(*open_run(out))
    dataset = FaceDataset(shard_set, DecodeSpec(("rgb",), 8), 0)
    fit, scored = (shard_set.of_subjects(side) for side in (manifest.train_subjects, manifest.validation_subjects))
    x = np.concatenate([*model.embed_faces(dataset, [*fit, *scored], 4)])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    votes = np.exp(unit[len(fit) :] @ unit[: len(fit)].T / 0.07)
    names = np.array([row.expression for row in fit])
    classes = sorted(set(names))
    predicted = [classes[n] for n in np.stack([votes[:, names == c].sum(axis=1) for c in classes]).argmax(axis=0)]
    expected = np.mean([name == row.expression for name, row in zip(predicted, scored, strict=True)])
    assert RunDirectory(out).metrics()[-1]["validation_knn"] == pytest.approx(expected, abs=1e-6)


def test_validation_does_not_change_training(validated, shards, tmp_path, monkeypatch):
    out, _, _ = validated
    monkeypatch.setattr(Validation, "accuracy", lambda *_: 0.5)
    learn(shards, tmp_path / "run", val_fraction=0.4)
    assert same(weights(out), weights(tmp_path / "run"))
    assert [row["validation_knn"] for row in timeless(tmp_path / "run") if "validation_knn" in row] == [0.5, 0.5]


def test_evaluation_does_not_fit_on_held_out_subjects(validated, shards, monkeypatch):
    out, manifest, _ = validated
    read, plain = set(), ShardSet.read_bytes
    monkeypatch.setattr(ShardSet, "read_bytes", lambda self, row: read.add(row.subject) or plain(self, row))
    evaluate(EvaluateConfig(run=out, shards=str(shards), protocol=("knn",)))
    assert read == {*manifest.train_subjects, *manifest.test_subjects}


def test_large_sides_are_thinned_evenly(shards):
    rows = ShardSet.open(str(shards)).rows
    many = list(rows) * 200
    found = Validation.from_rows(many, many)
    assert (len(found.fit), len(found.scored)) == (1024, 512) == (validation.MAX_FIT, validation.MAX_SCORED)
    numbers = np.round(np.linspace(0, len(many) - 1, 512)).astype(int)
    assert found.scored == [many[number] for number in numbers]
    assert Validation.from_rows(rows, rows[:3]).scored == list(rows[:3])


class TestDamage:
    @pytest.fixture
    def dataset(self, shards, monkeypatch):
        """A dataset with some unreadable samples."""
        dataset = FaceDataset(ShardSet.open(str(shards)), DecodeSpec(("rgb",), 8), 0, "skip")
        self.rows = list(dataset.shards.rows)
        return dataset

    def test_skipped_samples_have_no_embedding_and_no_vote(self, dataset, validated):
        model = TrainedModel.load(*open_run(validated[0])).model
        directions, bad = dataset.directions(self.rows), {self.rows[1].key, self.rows[7].key}
        dataset.skipped |= bad
        embedded, is_there = embed_rows(model, dataset, self.rows[:9], directions, SINGLE)
        assert is_there.tolist() == [row.key not in bad for row in self.rows[:9]]
        assert embedded[1].abs().max() == 0 and embedded[2].abs().max() > 0
        found = Validation(self.rows[:6], self.rows[6:9]).accuracy(model, dataset, directions, SINGLE)
        less = Validation([*self.rows[:1], *self.rows[2:6]], [self.rows[6], self.rows[8]])
        assert found == less.accuracy(model, dataset, directions, SINGLE)

    def test_damaged_held_out_sample_is_not_counted_as_skipped(self, shards, validated, tmp_path):
        copied = shutil.copytree(shards, tmp_path / "shards")
        bad = ShardSet.open(str(copied)).of_subjects(validated[1].validation_subjects)[0]
        spoil(copied, [bad])
        manifest = learn(copied, tmp_path / "run", val_fraction=0.4, on_bad_shard="skip")
        assert manifest == validated[1] and not (tmp_path / "run" / "skipped.json").exists()
        assert same(weights(tmp_path / "run"), weights(validated[0]))

    def test_unreadable_side_is_an_error(self, dataset, validated):
        model = TrainedModel.load(*open_run(validated[0])).model
        directions = dataset.directions(self.rows)
        dataset.skipped |= {row.key for row in self.rows[6:9]}
        with pytest.raises(RuntimeError, match="of 9 samples none can be read"):
            Validation(self.rows[:6], self.rows[6:9]).accuracy(model, dataset, directions, SINGLE)


def test_holding_out_all_sequences_is_refused(tmp_path):
    write_shard_set(tmp_path / "shards", 5, channels=("rgb",), timelines=(None, make_timeline(2)))
    (held,) = split_validation([f"F000{number}" for number in range(2, 6)], 0.25)[1]
    # One subject has scans and a sequence, all others scans.
    options = {"split": "loso:F0001", "where": f"expression != 'SA' or subject == '{held}'"}
    with pytest.raises(UsageError, match=r"val_fraction 0\.25: holds out all subjects that have sequences"):
        learn(tmp_path / "shards", tmp_path / "run", val_fraction=0.25, **options)
    assert not (tmp_path / "run").exists()


def test_embed_rows_uses_evaluation_mode_and_restores_training_mode(shards, validated):
    dataset = FaceDataset(ShardSet.open(str(shards)), DecodeSpec(("rgb",), 8), 0)
    model = TrainedModel.load(*open_run(validated[0])).model.train()
    modes: list[bool] = []
    model.towers.clip.visual.register_forward_hook(lambda module, *_: modes.append(module.training))
    embed_rows(model, dataset, dataset.shards.rows[:3], dataset.directions(dataset.shards.rows), SINGLE)
    assert modes == [False] and model.training and model.towers.clip.visual.training
