"""Fine-tuning: what is trained, what is not changed, and that no test sample is used for training."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from helpers import tiny_arch
from helpers.samples import make_timeline, spoil, write_shard_set
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.recipes import build_model
from smile_pipe.model.towers import build_tokenizer
from smile_pipe.pipeline.classifiers.probe import PROBE_DEFAULT_STRENGTH
from smile_pipe.pipeline.common import finite_steps
from smile_pipe.pipeline.common.finite_steps import DivergedError
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset, FaceSample
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.evaluate import finetune as module
from smile_pipe.pipeline.evaluate.finetune import LinearHead, finetune, learning_rate
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sampler import Sampler

NUM_CLASSES = 7


def random_model(arch: str = "smile-tiny", recipe: str = "smile-vlm") -> TrainedModel:
    """An untrained model; its tokenizer is not used."""
    torch.manual_seed(0)
    model = build_model(RecipeConfig(name=recipe, arch=arch)).eval()
    return TrainedModel(model, build_tokenizer("smile-tiny"), torch.device("cpu"))


def run_finetune(
    model: TrainedModel, reader: FaceDataset, train: Sequence[IndexRow], test: Sequence[IndexRow], **given: Any
):
    """Fine-tune on the expressions of the rows."""
    options = {"num_classes": NUM_CLASSES, "seed": 0, "epochs": 2, "on_progress": lambda step, total: None} | given
    return finetune(model, reader, train, test, y_train=options.pop("y", classes(reader, train)), **options)


def classes(reader: FaceDataset, rows: Sequence[IndexRow]) -> NDArray[np.int64]:
    return np.array([reader.shards.manifest.expressions.index(row.expression) for row in rows])


def cross_entropy(probabilities: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Mean cross-entropy of the true classes."""
    return float(-np.log(probabilities[np.arange(len(y)), y]).mean())


@pytest.fixture(scope="module")
def face_dataset(shards_dir: Path) -> FaceDataset:
    """Seven rendered expressions of each of five subjects."""
    return FaceDataset(ShardSet.open(str(shards_dir)), DecodeSpec(("normal",), 96), 1 << 30)


@pytest.fixture(scope="module")
def split_rows(face_dataset: FaceDataset) -> tuple[list[IndexRow], list[IndexRow]]:
    """Rows of four subjects to train on, and of the fifth to predict."""
    *train, test = face_dataset.shards.subjects
    return face_dataset.shards.of_subjects(train), face_dataset.shards.of_subjects([test])


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """Collects the copies that are fine-tuned."""
    made: list[torch.nn.Module] = []
    monkeypatch.setattr(module, "deepcopy", lambda model: made.append(deepcopy(model)) or made[-1])
    return made


@pytest.fixture
def dataset(tmp_path: Path) -> FaceDataset:
    """Three expressions of six subjects as noise of three grey values, in the image size of `tiny`."""
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
    return FaceDataset(ShardSet.open(str(tmp_path / "shards")), DecodeSpec(("rgb",), tiny_arch.IMAGE_SIZE), 0, "skip")


@pytest.fixture
def tiny(tmp_path: Path) -> TrainedModel:
    """A model without BatchNorm, in which faces do not depend on each other."""
    return random_model(tiny_arch.register(tmp_path))


@pytest.fixture
def tune(dataset, tiny):
    """Fine-tune the tiny model on twelve samples, and predict six others."""
    return partial(run_finetune, tiny, dataset, dataset.shards.rows[:12], dataset.shards.rows[12:])


@pytest.fixture
def tune_faces(face_dataset, split_rows):
    """Fine-tune a model on four subjects, and predict the fifth."""
    train, test = split_rows
    return lambda model, reader=face_dataset, **given: run_finetune(model, reader, train, test, **given)


class TestLearning:
    def test_a_random_model_learns_expressions(self, face_dataset, split_rows):
        train, _ = split_rows
        y, model = classes(face_dataset, train), random_model()
        probed, tuned = (run_finetune(model, face_dataset, train, train, epochs=epochs) for epochs in (0, 20))
        assert (tuned.argmax(axis=1) == y).mean() > 0.9
        # The probe alone is correct for these few samples too, with less confidence.
        assert cross_entropy(tuned, y) < 0.75 * cross_entropy(probed, y)

    def test_one_step_of_a_random_model_keeps_the_loss(self, face_dataset, split_rows):
        train, _ = split_rows
        y, model = classes(face_dataset, train), random_model()
        probed, tuned = (run_finetune(model, face_dataset, train, train, epochs=epochs) for epochs in (0, 1))
        assert cross_entropy(tuned, y) < 1.2 * cross_entropy(probed, y)

    def test_statistics_do_not_depend_on_those_of_the_model(self, tune_faces):
        model, other = random_model(), random_model()
        for norm in other.model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean += 3
                norm.running_var *= 5
                norm.num_batches_tracked += 1000
        found, again = (tune_faces(own, epochs=1) for own in (model, other))
        assert np.array_equal(found, again)

    def test_final_statistics_are_those_of_the_last_weights(self, tune_faces, copies):
        model = random_model()
        tune_faces(model, epochs=1)
        tune_faces(replace(model, model=copies[0]), epochs=0)
        tuned, recomputed = (dict(copied.named_buffers()) for copied in copies)
        assert all(torch.equal(tuned[name], recomputed[name]) for name in tuned)

    def test_statistics_use_batches_of_one_size_and_mixed_subjects(self, tune_faces, split_rows, monkeypatch):
        train, _ = split_rows
        taken: list[tuple[list[str], int]] = []
        real = TrainedModel.embed_faces

        def recording(self: TrainedModel, reader: FaceDataset, rows: Sequence[IndexRow], batch_size: int) -> Iterator:
            taken.append(([row.subject for row in rows], batch_size))
            return real(self, reader, rows, batch_size)

        monkeypatch.setattr(module, "BATCH_SIZE", 13)
        monkeypatch.setattr(TrainedModel, "embed_faces", recording)
        tune_faces(random_model(), epochs=0)
        subjects, batch_size = taken[0]
        # 28 samples as 10, 10 and 8 instead of 13, 13 and 2.
        assert batch_size == 10 and sorted(subjects) == [row.subject for row in train]
        assert all(len(set(subjects[start : start + 10])) > 2 for start in (0, 10, 20))

    def test_only_normalisation_is_in_training_mode(self, tune_faces, copies, monkeypatch):
        real, kinds = module.augment, []

        def recording(*given: Any) -> Tensor:
            kinds.append({type(part) for part in copies[0].modules() if part.training})
            return real(*given)

        monkeypatch.setattr(module, "augment", recording)
        tune_faces(random_model(), epochs=1)
        assert kinds == [{torch.nn.BatchNorm2d}]

    def test_gradients_are_reset_before_each_step(self, tune, monkeypatch, copies):
        monkeypatch.setattr(module, "learning_rate", lambda arch: 0.0)
        monkeypatch.setattr(module, "augment", lambda views, *given: views)
        for epochs in (1, 3):
            tune(epochs=epochs)
        first, third = (copied.project_image[0].weight.grad for copied in copies)
        assert first.abs().max() > 0
        torch.testing.assert_close(third, first, rtol=0, atol=0.1 * first.abs().max().item())

    def test_head_is_trained(self, tune, monkeypatch):
        heads: list[LinearHead] = []
        monkeypatch.setattr(module, "LinearHead", lambda *given: heads.append(LinearHead(*given)) or heads[-1])
        for epochs in (0, 1):
            tune(epochs=epochs)
        probe, tuned = heads
        assert not torch.equal(probe.weight, tuned.weight) and not torch.equal(probe.bias, tuned.bias)

    def test_only_the_face_encoder_is_trained(self, tune_faces, copies):
        model = random_model(recipe="facet-vlm")
        tune_faces(model, epochs=1)
        assert changed_parts(model, copies[0]) == {"towers.clip.visual", "project_image", "fusion", "aggregation"}

    def test_temporal_pooling_is_trained_with_sequences(self, tmp_path, tiny, copies):
        write_shard_set(tmp_path / "4d", timelines=(None, make_timeline(3, "frames")), channels=("rgb",))
        reader = FaceDataset(
            ShardSet.open(str(tmp_path / "4d")), DecodeSpec(("rgb",), tiny_arch.IMAGE_SIZE, "frames"), 0
        )
        rows = reader.shards.rows
        assert run_finetune(tiny, reader, rows[:6], rows[6:]).shape == (3, NUM_CLASSES)
        assert changed_parts(tiny, copies[0]) == {"towers.clip.visual", "project_image", "fusion", "temporal"}

    def test_without_epochs_it_is_logistic_regression_on_standardised_embeddings(self, dataset, tiny):
        train, test = dataset.shards.rows[:12], dataset.shards.rows[12:]
        x, x_test = (np.concatenate([*tiny.embed_faces(dataset, rows, 32)]) for rows in (train, test))
        scaler = StandardScaler().fit(x)
        probe = LogisticRegression(C=PROBE_DEFAULT_STRENGTH, tol=1e-8, max_iter=1000)
        expected = probe.fit(scaler.transform(x), classes(dataset, train)).predict_proba(scaler.transform(x_test))
        np.testing.assert_allclose(
            run_finetune(tiny, dataset, train, test, epochs=0)[:, probe.classes_], expected, atol=1e-3
        )

    def test_large_towers_have_a_tenth_of_the_learning_rate(self):
        for small in ("smile-nano", "smile-tiny"):
            assert learning_rate("ViT-B-32") == pytest.approx(learning_rate(small) / 10)

    @pytest.mark.parametrize(
        ("place", "name", "value"),
        [(finite_steps, "MAX_GRADIENT_NORM", 0.0), (module, "cosine_schedule", lambda *given: 0.0)],
    )
    def test_gradient_clipping_and_schedule_are_applied(self, tune, tiny, monkeypatch, copies, place, name, value):
        monkeypatch.setattr(place, name, value)
        tune()
        assert changed_parts(tiny, copies[0]) == set()

    def test_steps_that_are_not_finite_are_skipped(self, tune_faces, monkeypatch, copies):
        real, steps = module.augment, []

        def poisoned(*given: Any) -> Tensor:
            steps.append(deepcopy(copies[-1].state_dict()))
            return real(*given) * (torch.nan if len(steps) == 2 else 1.0)

        monkeypatch.setattr(module, "augment", poisoned)
        assert np.isfinite(tune_faces(random_model(), epochs=4)).all()
        before, skipped, taken = steps[1], steps[2], steps[3]
        assert all(torch.equal(before[name], skipped[name]) for name in before)
        assert not all(torch.equal(skipped[name], taken[name]) for name in before)

    def test_many_steps_in_a_row_that_are_not_finite_end_it(self, tune, monkeypatch):
        real = module.augment
        monkeypatch.setattr(module, "augment", lambda *given: real(*given) * torch.nan)
        with pytest.raises(DivergedError, match="the loss ce is not finite at step 10, and 10 steps in a row"):
            tune(epochs=12)

    def test_each_step_is_augmented_as_in_training(self, tune, monkeypatch):
        real, seen = module.augment, []
        monkeypatch.setattr(module, "augment", lambda *given: seen.append(given) or real(*given))
        tune(epochs=3)
        assert len(seen) == 3
        for views, channel, order, _, moments in seen:
            # Mirroring a face swaps the left and the right view.
            assert (channel, order) == (("rgb",), [0, 2, 1]) and moments.counts.tolist() == [1] * 12
            assert len(views) == 12 and views.dtype == torch.uint8 and views.min() < views.max()

    def test_order_and_augmentation_differ_by_epoch_and_seed(self, tune, monkeypatch):
        orders: list[tuple[int, int]] = []
        states: list[bytes] = []

        class RecordingSampler(Sampler):
            def batches(self, epoch: int, start_step: int = 0) -> Iterator[list[int]]:
                orders.append((self.seed, epoch))
                return super().batches(epoch, start_step)

        def augment(
            views: Tensor, channels: Sequence[str], order: object, generator: torch.Generator, moments: object
        ) -> Tensor:
            states.append(generator.get_state().numpy().tobytes())
            return views / 255

        monkeypatch.setattr(module, "BATCH_SIZE", 5)
        monkeypatch.setattr(module, "Sampler", RecordingSampler)
        monkeypatch.setattr(module, "augment", augment)
        for seed in (0, 4):
            tune(seed=seed)
        assert orders == [(0, 0), (0, 1), (4, 0), (4, 1)]
        assert len(states) == len(set(states)) == 2 * 2 * 3


class TestIsolation:
    def test_model_of_the_run_is_not_changed(self, tune_faces, run_dir):
        model = TrainedModel.load(*open_run(run_dir))
        before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
        tune_faces(model, epochs=1)
        after = model.model.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        assert not any(part.training for part in model.model.modules())
        assert all(parameter.grad is None for parameter in model.model.parameters())

    def test_test_samples_are_read_after_the_last_step(self, dataset, tiny, monkeypatch):
        rows, events = dataset.shards.rows, []
        real = FaceDataset._read
        monkeypatch.setattr(
            FaceDataset, "_read", lambda self, rows, bad: events.extend(r.key for r in rows) or real(self, rows, bad)
        )
        run_finetune(tiny, dataset, rows[:12], rows[12:], on_progress=lambda step, total: events.append(step))
        tested = [event for event in events[events.index(2) :] if event in {row.key for row in rows[12:]}]
        assert not {row.key for row in rows[12:]} & set(events[: events.index(2)])
        assert tested == [row.key for row in rows[12:]]

    def test_prediction_depends_on_its_own_images_only(self, tune_faces, face_dataset, split_rows):
        _, test = split_rows

        class Negative(FaceDataset):
            def _read(self, *given: Any) -> list[FaceSample]:
                faces = super()._read(*given)
                return [replace(f, views=255 - f.views) if f.key == test[2].key else f for f in faces]

        model, other = random_model(), Negative(face_dataset.shards, face_dataset.decode_spec, 1 << 30)
        found, again = (tune_faces(model, reader, epochs=1) for reader in (face_dataset, other))
        assert (found != again).any(axis=1).tolist() == [number == 2 for number in range(7)]

    def test_results_are_deterministic_by_seed(self, tune_faces):
        model = random_model()
        first = tune_faces(model, epochs=2, seed=3)
        torch.manual_seed(99)
        assert np.array_equal(first, tune_faces(model, epochs=2, seed=3))
        assert not np.array_equal(first, tune_faces(model, epochs=2, seed=4))


class TestRowsAndClasses:
    def test_probabilities_are_in_the_columns_of_their_classes(self, dataset, tiny):
        train, test = dataset.shards.rows[:12], dataset.shards.rows[12:]
        y = np.array([{"HA": 5, "NE": 1, "SA": 3}[row.expression] for row in train])
        found = run_finetune(tiny, dataset, train, test, y=y)
        assert found.dtype == np.float32 and found.shape == (6, NUM_CLASSES)
        assert (found > 0).tolist() == [[n in (1, 3, 5) for n in range(NUM_CLASSES)]] * 6
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)

    def test_single_class_has_probability_1(self, dataset, tiny):
        found = run_finetune(tiny, dataset, dataset.shards.rows[:4], dataset.shards.rows[4:6], y=np.full(4, 2))
        assert found.tolist() == [[0, 0, 1, 0, 0, 0, 0]] * 2

    def test_a_single_sample_is_enough(self, face_dataset, split_rows):
        train, test = split_rows
        found = run_finetune(random_model(), face_dataset, train[:1], test)
        assert (found[:, classes(face_dataset, train[:1])] == 1).all()

    def test_damaged_samples_are_left_out(self, dataset, tiny):
        rows = dataset.shards.rows
        train, test, bad = rows[:12], rows[12:], (rows[1], rows[7], rows[14])
        good = [[row for row in side if row not in bad] for side in (train, test)]
        expected = run_finetune(tiny, dataset, *good)
        spoil(Path(dataset.shards.root), bad)
        found = run_finetune(tiny, dataset, train, test)
        assert dataset.skipped == {row.key for row in bad}
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_damaged_sample_raises_without_skip(self, dataset, tiny):
        rows = dataset.shards.rows
        spoil(Path(dataset.shards.root), rows[13:14])
        reader = FaceDataset(dataset.shards, dataset.decode_spec, 0, "fail")
        with pytest.raises(BadSampleError, match=rows[13].key):
            run_finetune(tiny, reader, rows[:12], rows[12:])

    @pytest.mark.parametrize("side", [slice(12), slice(12, None)])
    def test_no_readable_sample_raises(self, dataset, tiny, side):
        rows = dataset.shards.rows
        spoil(Path(dataset.shards.root), rows[side])
        with pytest.raises(BadSampleError, match="none can be read"):
            run_finetune(tiny, dataset, rows[:12], rows[12:])

    def test_no_training_rows_raise(self, dataset, tiny):
        with pytest.raises(UsageError, match="no training samples"):
            run_finetune(tiny, dataset, [], dataset.shards.rows)

    def test_missing_labels_raise(self, dataset, tiny):
        with pytest.raises(ValueError, match="shorter"):
            run_finetune(tiny, dataset, dataset.shards.rows[:4], dataset.shards.rows[4:], y=np.zeros(3, np.int64))

    def test_progress_reports_each_step_and_their_total(self, tune, monkeypatch):
        monkeypatch.setattr(module, "BATCH_SIZE", 5)
        reports: list[tuple[int, int]] = []
        tune(on_progress=lambda *given: reports.append(given))
        assert reports == [(step, 6) for step in range(1, 7)]


class TestHead:
    x = 100 + torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 1, 1, 1, 1e3])
    y = (x[:, 0] > 100).long()

    def test_features_of_any_scale_count(self):
        head = LinearHead(self.x, self.y, 2)
        assert (head(self.x).argmax(dim=1) == self.y).double().mean() > 0.9

    def test_common_shift_is_ignored_in_training(self):
        head = LinearHead(self.x, self.y, 2)
        assert not torch.allclose(head(self.x + 7), head(self.x), atol=0.1)
        head.train()
        torch.testing.assert_close(head(self.x + 7), head(self.x), atol=0.01, rtol=0)

    def test_set_statistics_adapts_to_scaled_embeddings(self):
        head = LinearHead(self.x, self.y, 2)
        before = head(self.x)
        head.set_statistics(3 * self.x - 50)
        torch.testing.assert_close(head(3 * self.x - 50), before, atol=0.01, rtol=0)

    def test_constant_feature_is_not_amplified(self):
        rounded = torch.tensor([0.1, 0.1 + 1e-8])[self.y][:, None]
        head = LinearHead(torch.cat([self.x[:, 1:3], rounded], dim=1), self.y, 2)
        with_another = [torch.cat([self.x[:, 1:3], rounded + shift], dim=1) for shift in (0.0, 1e-3)]
        torch.testing.assert_close(head(with_another[1]), head(with_another[0]), atol=1e-3, rtol=0)


def changed_parts(model: TrainedModel, copy: torch.nn.Module) -> set[str]:
    """The parts of a model with parameters that differ from those of its copy."""
    parts = ("towers.clip.visual", "towers.clip", "project_image", "project_text", "fusion", "temporal", "aggregation")
    before = dict(model.model.named_parameters())
    names = [name for name, now in copy.named_parameters() if not torch.equal(before[name], now)]
    return {next((part for part in parts if name.startswith(f"{part}.")), name) for name in names}
