"""Fine-tuning: what it learns, what it leaves alone, and that nothing is learned from what it predicts."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
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
from helpers.samples import make_timeline, write_shard_set
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.objectives import build_model
from smile_pipe.model.towers import build_tokenizer
from smile_pipe.pipeline.classifiers.probe import PROBE_DEFAULT_STRENGTH
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
    """A model that nobody trained; its text tower is not needed, so any tokenizer will do."""
    torch.manual_seed(0)
    model = build_model(RecipeConfig(name=recipe, arch=arch)).eval()
    return TrainedModel(model, build_tokenizer("smile-tiny"), torch.device("cpu"))


def tune(model: TrainedModel, reader: FaceDataset, train: Sequence[IndexRow], test: Sequence[IndexRow], **given: Any):
    """Fine-tune on the expressions of the rows."""
    options = {"num_classes": NUM_CLASSES, "seed": 0, "epochs": 2, "on_progress": lambda step, total: None} | given
    return finetune(model, reader, train, test, y_train=options.pop("y", classes(reader, train)), **options)


def classes(reader: FaceDataset, rows: Sequence[IndexRow]) -> NDArray[np.int64]:
    return np.array([reader.shards.manifest.expressions.index(row.expression) for row in rows])


def surprise(probabilities: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Mean cross-entropy of the truth."""
    return float(-np.log(probabilities[np.arange(len(y)), y]).mean())


@pytest.fixture(scope="module")
def faces(shards_dir: Path) -> FaceDataset:
    """Seven rendered expressions of each of five subjects."""
    return FaceDataset(ShardSet.open(str(shards_dir)), DecodeSpec("normal", 96), 1 << 30)


@pytest.fixture(scope="module")
def sides(faces: FaceDataset) -> tuple[list[IndexRow], list[IndexRow]]:
    """Four of the subjects, and the fifth."""
    *train, test = faces.shards.subjects
    return faces.shards.of_subjects(train), faces.shards.of_subjects([test])


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """The copies that are fine-tuned from now on."""
    made: list[torch.nn.Module] = []
    monkeypatch.setattr(module, "deepcopy", lambda model: made.append(deepcopy(model)) or made[-1])
    return made


@pytest.fixture
def small(tmp_path: Path) -> FaceDataset:
    """Three expressions of six subjects as noise of three grey values, in the size of the tower of `tiny`."""
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
    return FaceDataset(ShardSet.open(str(tmp_path / "shards")), DecodeSpec("rgb", tiny_arch.IMAGE_SIZE), 0, "skip")


@pytest.fixture
def tiny(tmp_path: Path) -> TrainedModel:
    """A model without BatchNorm, in which no face depends on others."""
    return random_model(tiny_arch.register(tmp_path))


class TestLearning:
    def test_a_random_model_learns_expressions(self, faces, sides):
        train, _ = sides
        y, model = classes(faces, train), random_model()
        probed, tuned = (tune(model, faces, train, train, epochs=epochs) for epochs in (0, 20))
        assert (tuned.argmax(axis=1) == y).mean() > 0.9
        # The probe alone names these few, and not as surely.
        assert surprise(tuned, y) < 0.75 * surprise(probed, y)

    def test_one_step_of_a_random_model_does_no_harm(self, faces, sides):
        train, _ = sides
        y, model = classes(faces, train), random_model()
        probed, tuned = (tune(model, faces, train, train, epochs=epochs) for epochs in (0, 1))
        assert surprise(tuned, y) < 1.2 * surprise(probed, y)

    def test_statistics_are_those_of_the_samples_whatever_the_model_had(self, faces, sides):
        train, test = sides
        model, other = random_model(), random_model()
        for norm in other.model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean += 3
                norm.running_var *= 5
                norm.num_batches_tracked += 1000
        found, again = (tune(own, faces, train, test, epochs=1) for own in (model, other))
        assert np.array_equal(found, again)

    def test_in_the_end_statistics_are_those_of_the_last_weights(self, faces, sides, copies):
        train, test = sides
        model = random_model()
        tune(model, faces, train, test, epochs=1)
        tune(replace(model, model=copies[0]), faces, train, test, epochs=0)
        tuned, settled_again = (dict(copied.named_buffers()) for copied in copies)
        assert all(torch.equal(tuned[name], settled_again[name]) for name in tuned)

    def test_statistics_are_means_over_batches_of_one_size_and_of_mixed_subjects(self, faces, sides, monkeypatch):
        train, test = sides
        taken: list[tuple[list[str], int]] = []
        real = TrainedModel.embed_faces

        def note(self: TrainedModel, reader: FaceDataset, rows: Sequence[IndexRow], batch_size: int) -> Iterator:
            taken.append(([row.subject for row in rows], batch_size))
            return real(self, reader, rows, batch_size)

        monkeypatch.setattr(module, "BATCH_SIZE", 13)
        monkeypatch.setattr(TrainedModel, "embed_faces", note)
        tune(random_model(), faces, train, test, epochs=0)
        subjects, batch_size = taken[0]
        # 28 samples as 10, 10 and 8, and not as 13, 13 and 2.
        assert batch_size == 10 and sorted(subjects) == [row.subject for row in train]
        assert all(len(set(subjects[start : start + 10])) > 2 for start in (0, 10, 20))

    def test_in_the_steps_normalisation_is_in_training_and_nothing_else(self, faces, sides, copies, monkeypatch):
        train, test = sides
        real, kinds = module.augment, []

        def note(*given: Any) -> Tensor:
            kinds.append({type(part) for part in copies[0].modules() if part.training})
            return real(*given)

        monkeypatch.setattr(module, "augment", note)
        tune(random_model(), faces, train, test, epochs=1)
        assert kinds == [{torch.nn.BatchNorm2d}]

    def test_a_step_follows_the_gradient_of_its_own_batch(self, small, tiny, monkeypatch, copies):
        monkeypatch.setattr(module, "learning_rate", lambda arch: 0.0)
        monkeypatch.setattr(module, "augment", lambda views, *given: views)
        for epochs in (1, 3):
            tune(tiny, small, small.shards.rows[:12], small.shards.rows[12:], epochs=epochs)
        first, third = (copied.project_image[0].weight.grad for copied in copies)
        assert first.abs().max() > 0
        torch.testing.assert_close(third, first, rtol=0, atol=0.1 * first.abs().max().item())

    def test_the_head_moves(self, small, tiny, monkeypatch):
        heads: list[LinearHead] = []
        monkeypatch.setattr(module, "LinearHead", lambda *given: heads.append(LinearHead(*given)) or heads[-1])
        for epochs in (0, 1):
            tune(tiny, small, small.shards.rows[:12], small.shards.rows[12:], epochs=epochs)
        probe, tuned = heads
        assert not torch.equal(probe.weight, tuned.weight) and not torch.equal(probe.bias, tuned.bias)

    def test_all_of_the_face_encoder_moves_and_nothing_else(self, faces, sides, copies):
        train, test = sides
        model = random_model(recipe="facet-vlm")
        tune(model, faces, train, test, epochs=1)
        assert moved(model, copies[0]) == {"towers.clip.visual", "project_image", "fusion", "aggregation"}

    def test_pooling_over_time_moves_where_there_are_sequences(self, tmp_path, tiny, copies):
        write_shard_set(tmp_path / "4d", timelines=(None, make_timeline(3, "frames")), channels=("rgb",))
        reader = FaceDataset(ShardSet.open(str(tmp_path / "4d")), DecodeSpec("rgb", tiny_arch.IMAGE_SIZE, "frames"), 0)
        rows = reader.shards.rows
        assert tune(tiny, reader, rows[:6], rows[6:]).shape == (3, NUM_CLASSES)
        assert moved(tiny, copies[0]) == {"towers.clip.visual", "project_image", "fusion", "temporal"}

    def test_without_epochs_it_is_logistic_regression_on_standardised_embeddings(self, small, tiny):
        train, test = small.shards.rows[:12], small.shards.rows[12:]
        x, x_test = (np.concatenate([*tiny.embed_faces(small, rows, 32)]) for rows in (train, test))
        scaler = StandardScaler().fit(x)
        probe = LogisticRegression(C=PROBE_DEFAULT_STRENGTH, tol=1e-8, max_iter=1000)
        expected = probe.fit(scaler.transform(x), classes(small, train)).predict_proba(scaler.transform(x_test))
        np.testing.assert_allclose(tune(tiny, small, train, test, epochs=0)[:, probe.classes_], expected, atol=1e-3)

    def test_large_towers_move_a_tenth_as_fast(self):
        assert learning_rate("ViT-B-32") == pytest.approx(learning_rate("smile-tiny") / 10)

    @pytest.mark.parametrize(("name", "value"), [("MAX_GRADIENT_NORM", 0.0), ("cosine_schedule", lambda *given: 0.0)])
    def test_gradients_are_clipped_and_the_rate_is_scheduled(self, small, tiny, monkeypatch, copies, name, value):
        monkeypatch.setattr(module, name, value)
        tune(tiny, small, small.shards.rows[:12], small.shards.rows[12:])
        assert moved(tiny, copies[0]) == set()

    def test_each_step_is_augmented_as_in_training(self, small, tiny, monkeypatch):
        real, seen = module.augment, []
        monkeypatch.setattr(module, "augment", lambda *given: seen.append(given) or real(*given))
        tune(tiny, small, small.shards.rows[:12], small.shards.rows[12:], epochs=3)
        assert len(seen) == 3
        for views, channel, order, _, moments in seen:
            # The left view takes the place of the right one where a face is mirrored.
            assert (channel, order) == ("rgb", [0, 2, 1]) and moments.counts.tolist() == [1] * 12
            assert len(views) == 12 and 0 <= views.min() < views.max() <= 1

    def test_order_and_augmentation_are_others_in_each_epoch_and_for_each_seed(self, small, tiny, monkeypatch):
        orders: list[tuple[int, int]] = []
        states: list[bytes] = []

        class Noted(Sampler):
            def batches(self, epoch: int, start_step: int = 0) -> Iterator[list[int]]:
                orders.append((self.seed, epoch))
                return super().batches(epoch, start_step)

        def augment(views: Tensor, channel: str, order: object, generator: torch.Generator, moments: object) -> Tensor:
            states.append(generator.get_state().numpy().tobytes())
            return views

        monkeypatch.setattr(module, "BATCH_SIZE", 5)
        monkeypatch.setattr(module, "Sampler", Noted)
        monkeypatch.setattr(module, "augment", augment)
        for seed in (0, 4):
            tune(tiny, small, small.shards.rows[:12], small.shards.rows[12:], seed=seed)
        assert orders == [(0, 0), (0, 1), (4, 0), (4, 1)]
        assert len(states) == len(set(states)) == 2 * 2 * 3


class TestWhatIsLeftAlone:
    def test_the_model_of_a_run_stays_as_it_is_to_the_bit(self, run_dir, faces, sides):
        train, test = sides
        model = TrainedModel.load(*open_run(run_dir))
        before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
        tune(model, faces, train, test, epochs=1)
        after = model.model.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        assert not any(part.training for part in model.model.modules())
        assert all(parameter.grad is None for parameter in model.model.parameters())

    def test_of_the_test_side_nothing_is_read_before_the_last_step(self, small, tiny, monkeypatch):
        rows, events = small.shards.rows, []
        real = FaceDataset.read
        monkeypatch.setattr(FaceDataset, "read", lambda self, row: events.append(row.key) or real(self, row))
        tune(tiny, small, rows[:12], rows[12:], on_progress=lambda step, total: events.append(step))
        tested = [event for event in events[events.index(2) :] if event in {row.key for row in rows[12:]}]
        assert not {row.key for row in rows[12:]} & set(events[: events.index(2)])
        assert tested == [row.key for row in rows[12:]]

    def test_other_images_of_a_test_sample_change_its_own_prediction_only(self, faces, sides):
        train, test = sides

        class Negative(FaceDataset):
            def read(self, row: IndexRow) -> FaceSample:
                face = super().read(row)
                return replace(face, views=255 - face.views) if row.key == test[2].key else face

        model, other = random_model(), Negative(faces.shards, faces.reading, 1 << 30)
        found, again = (tune(model, reader, train, test, epochs=1) for reader in (faces, other))
        assert (found != again).any(axis=1).tolist() == [number == 2 for number in range(7)]

    def test_the_same_seed_gives_the_same_bits_and_another_seed_others(self, faces, sides):
        train, test = sides
        model = random_model()
        first = tune(model, faces, train, test, epochs=2, seed=3)
        torch.manual_seed(99)
        assert np.array_equal(first, tune(model, faces, train, test, epochs=2, seed=3))
        assert not np.array_equal(first, tune(model, faces, train, test, epochs=2, seed=4))


class TestRowsAndClasses:
    def test_probabilities_are_in_the_columns_of_their_classes_and_sum_to_1(self, small, tiny):
        train, test = small.shards.rows[:12], small.shards.rows[12:]
        y = np.array([{"HA": 5, "NE": 1, "SA": 3}[row.expression] for row in train])
        found = tune(tiny, small, train, test, y=y)
        assert found.dtype == np.float32 and found.shape == (6, NUM_CLASSES)
        assert (found > 0).tolist() == [[n in (1, 3, 5) for n in range(NUM_CLASSES)]] * 6
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)

    def test_a_single_class_is_certain(self, small, tiny):
        found = tune(tiny, small, small.shards.rows[:4], small.shards.rows[4:6], y=np.full(4, 2))
        assert found.tolist() == [[0, 0, 1, 0, 0, 0, 0]] * 2

    def test_a_single_sample_is_enough(self, faces, sides):
        train, test = sides
        found = tune(random_model(), faces, train[:1], test)
        assert (found[:, classes(faces, train[:1])] == 1).all()

    def test_damaged_samples_are_on_neither_side_and_labels_stay_with_theirs(self, small, tiny):
        rows = small.shards.rows
        train, test, bad = rows[:12], rows[12:], (rows[1], rows[7], rows[14])
        good = [[row for row in side if row not in bad] for side in (train, test)]
        expected = tune(tiny, small, *good)
        spoil(small.shards, bad)
        found = tune(tiny, small, train, test)
        assert small.skipped == {row.key for row in bad}
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_where_damage_is_not_skipped_it_is_named(self, small, tiny):
        rows = small.shards.rows
        spoil(small.shards, rows[13:14])
        reader = FaceDataset(small.shards, small.reading, 0, "fail")
        with pytest.raises(BadSampleError, match=rows[13].key):
            tune(tiny, reader, rows[:12], rows[12:])

    @pytest.mark.parametrize("side", [slice(12), slice(12, None)])
    def test_a_side_of_which_nothing_is_left_is_refused(self, small, tiny, side):
        rows = small.shards.rows
        spoil(small.shards, rows[side])
        with pytest.raises(BadSampleError, match="none can be read"):
            tune(tiny, small, rows[:12], rows[12:])

    def test_nothing_to_learn_from_is_refused(self, small, tiny):
        with pytest.raises(UsageError, match="no training samples"):
            tune(tiny, small, [], small.shards.rows)

    def test_a_label_for_each_row_is_needed(self, small, tiny):
        with pytest.raises(ValueError, match="shorter"):
            tune(tiny, small, small.shards.rows[:4], small.shards.rows[4:], y=np.zeros(3, np.int64))

    def test_progress_tells_each_step_and_how_many_there_are(self, small, tiny, monkeypatch):
        monkeypatch.setattr(module, "BATCH_SIZE", 5)
        told: list[tuple[int, int]] = []
        tune(tiny, small, small.shards.rows[:12], small.shards.rows[12:], on_progress=lambda *given: told.append(given))
        assert told == [(step, 6) for step in range(1, 7)]


class TestHead:
    x = 100 + torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 1, 1, 1, 1e3])
    y = (x[:, 0] > 100).long()

    def test_no_scale_of_a_feature_is_too_small_to_count(self):
        head = LinearHead(self.x, self.y, 2)
        assert (head(self.x).argmax(dim=1) == self.y).double().mean() > 0.9

    def test_in_training_a_shift_that_all_share_is_not_seen(self):
        head = LinearHead(self.x, self.y, 2)
        assert not torch.allclose(head(self.x + 7), head(self.x), atol=0.1)
        head.train()
        torch.testing.assert_close(head(self.x + 7), head(self.x), atol=0.01, rtol=0)

    def test_once_settled_it_takes_others_as_it_took_the_first(self):
        head = LinearHead(self.x, self.y, 2)
        before = head(self.x)
        head.set_statistics(3 * self.x - 50)
        torch.testing.assert_close(head(3 * self.x - 50), before, atol=0.01, rtol=0)

    def test_a_feature_that_varies_by_rounding_alone_says_nothing_and_is_not_enlarged(self):
        rounded = torch.tensor([0.1, 0.1 + 1e-8])[self.y][:, None]
        head = LinearHead(torch.cat([self.x[:, 1:3], rounded], dim=1), self.y, 2)
        with_another = [torch.cat([self.x[:, 1:3], rounded + shift], dim=1) for shift in (0.0, 1e-3)]
        torch.testing.assert_close(head(with_another[1]), head(with_another[0]), atol=1e-3, rtol=0)


def moved(model: TrainedModel, copy: torch.nn.Module) -> set[str]:
    """The parts of a model in which a parameter differs from its copy's."""
    parts = ("towers.clip.visual", "towers.clip", "project_image", "project_text", "fusion", "temporal", "aggregation")
    before = dict(model.model.named_parameters())
    names = [name for name, now in copy.named_parameters() if not torch.equal(before[name], now)]
    return {next((part for part in parts if name.startswith(f"{part}.")), name) for name in names}


def spoil(shards: ShardSet, rows: Sequence[IndexRow]) -> None:
    """Change a byte of each sample, in the middle of it."""
    for row in rows:
        path = Path(shards.root) / "shards" / row.shard
        content = bytearray(path.read_bytes())
        content[row.offset + row.bytes // 2] ^= 1
        path.write_bytes(content)
