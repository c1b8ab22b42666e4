"""Few labels, few shots and missing views, from embeddings that know everything or nothing."""

from types import SimpleNamespace

import numpy as np
import pytest

from smile_pipe.model.objectives import Supervised
from smile_pipe.pipeline.classifiers.examples import example_anchors, subtract_neutral
from smile_pipe.pipeline.evaluate import few_labels as labels_module
from smile_pipe.pipeline.evaluate import missing_views as views_module
from smile_pipe.pipeline.evaluate.answers import mean_interval
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet
from smile_pipe.pipeline.evaluate.few_labels import few_labels, label_counts, labelled, predict_few
from smile_pipe.pipeline.evaluate.fewshot import WAYS, draw_examples, fewshot, fewshot_tasks
from smile_pipe.pipeline.evaluate.missing_views import all_subsets, missing_views
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.splits import split_subjects

CLASSES = ("AN", "HA", "SU", "NE")


def make_data(num_train: int = 20, num_test: int = 10, seed: int | None = None, classes=CLASSES) -> EmbeddingSet:
    """Two samples of each class per subject; one-hot classes plus a part of the subject, or noise."""
    num_subjects = num_train + num_test
    y = np.tile(np.repeat(np.arange(len(classes)), 2), num_subjects)
    subjects = np.repeat([f"F{n:04d}" for n in range(num_subjects)], 2 * len(classes))
    person = np.random.default_rng(9).normal(0, 0.1, (num_subjects, 16)).repeat(2 * len(classes), axis=0)
    x = np.eye(len(classes), 16)[y] + person
    if seed is not None:
        x = np.random.default_rng(seed).normal(size=x.shape)
    count = num_train * 2 * len(classes)
    return EmbeddingSet(
        views=np.stack([x, x, x], axis=1).astype(np.float32),
        directions=np.eye(3, dtype=np.float32),
        x=x.astype(np.float32),
        y=y,
        subjects=subjects,
        classes=classes,
        train_rows=[None] * count,
        test_rows=[None] * (len(y) - count),
        num_skipped=0,
    )


def prompts_of(classes=CLASSES) -> dict[str, np.ndarray]:
    return {name: np.eye(len(classes), 16)[[n, n]] for n, name in enumerate(classes)}


def accuracies(answers) -> dict[tuple[str, str], float]:
    return {(part.group, part.name): part.accuracy for part in answers.score.parts}


class TestFewLabels:
    @pytest.mark.parametrize("num_train", [20, 0])
    def test_oracle_needs_one_subject(self, num_train):
        scores = accuracies(few_labels(make_data(num_train), 0))
        assert len(scores) >= 2 and set(scores.values()) == {1}

    def test_random_embeddings_are_at_chance(self):
        for part in few_labels(make_data(40, 60, seed=1), 0).score.parts:
            assert part.accuracy == pytest.approx(part.chance, abs=0.1) and part.chance == 0.25
            assert part.interval is not None and part.interval[0] < part.accuracy < part.interval[1]

    def test_labels_are_of_the_drawn_subjects_only(self):
        tuned = []

        def finetune(fit: np.ndarray) -> np.ndarray:
            tuned.append(fit)
            return np.eye(4)[data.y[data.num_train :]]

        data = make_data(40, 5)
        answers = few_labels(data, 0, finetune)
        assert [len(set(data.subjects[fit])) for fit in tuned] == [1, 2, 4, 40]
        for fit in tuned:
            assert fit.max() < data.num_train
            assert len(fit) == sum(data.subjects[: data.num_train].tolist().count(s) for s in set(data.subjects[fit]))
        assert {part.group for part in answers.score.parts} == {"probe", "fine-tuning"}

    def test_more_labels_help(self):
        data = make_data(40, 20)
        noisy = data.x + np.random.default_rng(2).normal(0, 0.7, data.x.shape).astype(np.float32)
        object.__setattr__(data, "x", noisy)
        values = [part.accuracy for part in few_labels(data, 0).score.parts]
        assert values[0] < values[-1] - 0.1

    @pytest.mark.parametrize("num_train", [40, 0])
    def test_parts_are_those_of_a_plain_loop(self, num_train):
        data = make_data(num_train, 25, seed=1)
        answers = few_labels(data, 3)
        scored = data.y[data.num_train :], data.subjects[data.num_train :]
        for part in answers.score.parts:
            percent = int(part.position)
            draws = range(1 if percent == 100 else 5)
            hits = [predict_few(data, percent, 3, draw).argmax(axis=1) == scored[0] for draw in draws]
            assert part.accuracy == pytest.approx(np.mean(hits))
            assert part.interval == mean_interval(np.mean(hits, axis=0), scored[1], 3)
            assert part.num_questions == len(scored[0])

    def test_every_fold_has_labels_of_as_many_subjects_as_named(self, monkeypatch):
        fits, real = [], labels_module.fit_probe
        monkeypatch.setattr(
            labels_module,
            "fit_probe",
            lambda x, y, names, seed: fits.append(len(set(names))) or real(x, y, names, seed),
        )
        parts = few_labels(make_data(0, 50), 0).score.parts
        assert [part.name.partition("(")[2] for part in parts] == ["1 of 40)", "2 of 40)", "4 of 40)", "40 of 40)"]
        assert fits == [1] * 25 + [2] * 25 + [4] * 25 + [40] * 5

    def test_a_single_subject_is_refused(self):
        with pytest.raises(UsageError, match="at least two subjects"):
            few_labels(make_data(0, 1), 0)

    def test_a_class_may_be_alone(self):
        scores = accuracies(few_labels(make_data(2, 2, classes=("HA",)), 0))
        assert set(scores.values()) == {1}

    def test_equal_numbers_of_subjects_are_left_out(self):
        assert label_counts(100) == {1: 1, 5: 5, 10: 10, 100: 100}
        assert label_counts(20) == {1: 1, 10: 2, 100: 20}
        assert label_counts(30) == {1: 1, 5: 2, 10: 3, 100: 30}
        assert label_counts(1) == {100: 1}

    def test_draws_differ(self):
        subjects = np.repeat([f"F{n}" for n in range(50)], 2)
        drawn = [labelled(subjects, 10, 0, draw).tolist() for draw in range(5)]
        assert len({tuple(each) for each in drawn}) > 1
        assert labelled(subjects, 10, 0, 0).tolist() == drawn[0] and len(drawn[0]) == 10


class TestFewshot:
    @pytest.mark.parametrize("num_train", [20, 0])
    def test_oracle_answers_everything(self, num_train):
        scores = accuracies(fewshot(make_data(num_train), prompts_of(), 2, 0))
        assert {group for group, _ in scores} == {
            "all classes",
            "all but neutral",
            "all but neutral, neutral scan subtracted",
        }
        assert len(scores) == 9 and set(scores.values()) == {1}

    def test_random_embeddings_are_at_chance(self):
        for part in fewshot(make_data(20, 60, seed=1), prompts_of(), 3, 0).score.parts:
            assert part.accuracy == pytest.approx(part.chance, abs=0.1)
        assert part.chance == pytest.approx(1 / 3)

    def test_without_text_there_are_examples_only(self):
        scores = accuracies(fewshot(make_data(), {}, 2, 0))
        assert {way for _, way in scores} == {"examples"}

    def test_without_neutral_scans_nothing_is_subtracted(self):
        classes = CLASSES[:3]
        scores = accuracies(fewshot(make_data(classes=classes), prompts_of(classes), 2, 0))
        assert {group for group, _ in scores} == {"all classes"}

    def test_examples_of_scored_subjects_are_not_used(self):
        # Embeddings know the person and the class only together: examples of other people do not help.
        data = make_data(0, 12)
        codes = np.arange(len(data.y)) // 2
        object.__setattr__(data, "x", np.eye(codes.max() + 1, dtype=np.float32)[codes] + 1e-3)
        for part in fewshot(data, {}, 1, 0).score.parts[:1]:
            assert part.accuracy < 0.5

    def test_where_neutral_is_subtracted_subjects_without_one_are_no_examples(self):
        data = make_data(20)
        # All but the last subject to learn from lack a neutral scan, and lie about their expressions.
        is_neutral, others = data.y == 3, data.subjects < "F0019"
        y, x = np.where(is_neutral & others, 0, data.y), data.x.copy()
        x[others & ~is_neutral] = 0
        object.__setattr__(data, "y", y)
        object.__setattr__(data, "x", x)
        scores = accuracies(fewshot(data, {}, 5, 0))
        assert scores["all but neutral, neutral scan subtracted", "examples"] == 1

    def test_examples_are_of_different_subjects_first(self):
        data = make_data(4, 1)
        fit = np.arange(data.num_train)
        for count, distinct in ((4, 4), (6, 4), (3, 3), (50, 4)):
            drawn = draw_examples(data, fit, range(4), count, (0, 1))
            for c, numbers in drawn.items():
                assert len(numbers) == min(count, 8) and set(data.y[numbers]) == {c}
                assert len(set(data.subjects[numbers])) == distinct
        assert (
            draw_examples(data, fit, [0], 2, (0, 1))[0].tolist() == draw_examples(data, fit, [0], 2, (0, 1))[0].tolist()
        )

    @pytest.mark.parametrize("num_train", [5, 0])
    def test_parts_are_those_of_a_plain_loop(self, num_train):
        data = make_data(num_train, 6, seed=1)
        # Prompts with much in common, so that it matters what is subtracted, and others than the examples.
        prompts = {name: np.random.default_rng(n).normal(1, 1, (3, 16)) for n, name in enumerate(CLASSES)}
        parts = {(part.group, part.name): part for part in fewshot(data, prompts, 2, 3).score.parts}
        assert parts.keys() == {(task.name, way) for task in fewshot_tasks(data, prompts) for way in WAYS}
        for task in fewshot_tasks(data, prompts):
            rows = [n for n in range(data.num_train, len(data.y)) if task.name == "all classes" or data.y[n] != 3]
            for way in WAYS:
                draws = range(1 if way == "word" else 5)
                hits = [
                    [predict_plainly(data, prompts, task, way, draw, n) == data.y[n] for n in rows] for draw in draws
                ]
                part = parts[task.name, way]
                assert part.accuracy == pytest.approx(np.mean(hits)) and part.num_questions == len(rows)
                assert part.interval == mean_interval(np.mean(hits, axis=0), data.subjects[rows], 3)
                assert part.chance == 1 / (4 if task.name == "all classes" else 3)

    def test_anchor_is_that_of_a_plain_loop(self):
        rng = np.random.default_rng(0)
        words, faces = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))

        def unit(v: np.ndarray) -> np.ndarray:
            return v / np.sqrt(sum(v * v))

        mean_word = unit(sum(unit(v) for v in words) / 3)
        mean_face = unit(sum(unit(v) for v in faces) / 2)
        (both,) = example_anchors([words], [faces], 0.25)
        assert both == pytest.approx(unit(0.25 * mean_word + 0.75 * mean_face))
        alone = example_anchors([words, None], [None, faces])
        assert alone == pytest.approx(np.stack([mean_word, mean_face]))
        with pytest.raises(ValueError, match="neither"):
            example_anchors([None], [None])
        assert subtract_neutral(faces, words) == pytest.approx(
            np.stack([unit(unit(v) - unit(sum(unit(w) for w in words) / 3)) for v in faces])
        )


def predict_plainly(data, prompts, task, way: str, draw: int, number: int) -> int:
    """The class of one sample, step by step: the class whose anchor is nearest."""

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.sqrt(sum(v * v))

    def mean(rows) -> np.ndarray:
        return unit(sum(map(unit, rows)) / len(rows))

    def face(n: int) -> np.ndarray:
        z = unit(data.x[n].astype(float))
        own = [m for m in range(len(data.y)) if data.subjects[m] == data.subjects[n] and data.y[m] == 3]
        return unit(z - mean(data.x[own].astype(float))) if task.name.endswith("subtracted") else z

    def word(name: str) -> np.ndarray:
        rows = prompts[name]
        return mean([unit(v) - mean(prompts["NE"]) for v in rows] if task.name.endswith("subtracted") else rows)

    classes = range(4 if task.name == "all classes" else 3)
    fit = np.arange(data.num_train)
    if not data.num_train:
        folds = [split_subjects(f"kfold:5:{fold}", data.subjects.tolist()).train for fold in range(5)]
        (names,) = [names for names in folds if data.subjects[number] not in names]
        fit = np.flatnonzero(np.isin(data.subjects, names))
    fit = np.array([n for n in fit if data.y[n] in classes])
    drawn = draw_examples(data, fit, classes, 2, (3, draw))
    cosines = []
    for c in classes:
        examples = mean([face(n) for n in drawn[c]])
        anchors = {"word": word(CLASSES[c]), "examples": examples}
        anchor = anchors.get(way, unit(word(CLASSES[c]) + examples))
        cosines.append(sum(anchor * face(number)))
    return int(np.argmax(cosines))


class TestMissingViews:
    @staticmethod
    def predictor(data: EmbeddingSet) -> SimpleNamespace:
        """Stands for `ProtocolPredictor`: fusion is the mean, and zero-shot the nearest prompt."""
        prompts = prompts_of()

        def probabilities(protocol: str, x: np.ndarray) -> np.ndarray:
            assert protocol == "zero-shot"
            return x[data.num_train :] @ np.stack([prompts[name][0] for name in data.classes]).T

        model = SimpleNamespace(fuse=lambda views, directions: views.mean(axis=1), model=None)
        return SimpleNamespace(data=data, model=model, prompts=prompts, probabilities=probabilities, probe=None, seed=0)

    def test_views_that_are_missing_are_not_seen(self, monkeypatch):
        monkeypatch.setattr(views_module, "fit_probe", lambda x, y, subjects, seed: Nearest(x, y))
        data = make_data(0, 12)
        # The second and third view are noise.
        views = np.random.default_rng(0).normal(size=data.views.shape).astype(np.float32)
        views[:, 0] = data.x
        object.__setattr__(data, "views", views)
        scores = accuracies(missing_views(self.predictor(data), ("front", "left", "right"), 0))
        for protocol in ("zero-shot", "probe"):
            assert scores[protocol, "front"] == scores[protocol, "front + left + right"] == 1
            assert scores[protocol, "left"] == pytest.approx(0.25, abs=0.2)
            alone = [scores[protocol, name] for name in ("front", "left", "right")]
            assert scores[protocol, "mean of 1 of 3 views"] == pytest.approx(np.mean(alone))
            pairs = [scores[protocol, name] for name in ("front + left", "front + right", "left + right")]
            assert scores[protocol, "mean of 2 of 3 views"] == pytest.approx(np.mean(pairs))

    def test_the_probe_is_fitted_on_all_views(self, monkeypatch):
        monkeypatch.setattr(views_module, "fit_probe", lambda x, y, subjects, seed: Nearest(x, y))
        data = make_data(0, 12)
        views = data.views.copy()
        # A probe that is fitted on the left view would know that its classes are exchanged.
        views[:, 1, :4] = views[:, 1, [1, 0, 3, 2]]
        object.__setattr__(data, "views", views)
        scores = accuracies(missing_views(self.predictor(data), ("front", "left", "right"), 0))
        assert scores["probe", "left"] == 0 and scores["probe", "right"] == 1

    @pytest.mark.parametrize("num_train", [8, 0])
    def test_parts_are_those_of_a_plain_loop(self, num_train):
        data = make_data(num_train, 12, seed=1)
        object.__setattr__(data, "views", np.random.default_rng(2).normal(size=data.views.shape).astype(np.float32))
        predictor, fused = self.predictor(data), []

        def fuse(views: np.ndarray, directions: np.ndarray) -> np.ndarray:
            fused.append(directions)
            assert views.shape[1] == len(directions)
            return views.mean(axis=1)

        predictor.model.fuse = fuse
        if num_train:
            predictor.probe = Nearest(data.x[: data.num_train], data.y[: data.num_train])
        parts = {
            (part.group, part.name): part
            for part in missing_views(predictor, ("front", "left", "right"), 5).score.parts
        }
        assert [directions.argmax(axis=1).tolist() for directions in fused] == [[0], [1], [2], [0, 1], [0, 2], [1, 2]]
        truth, subjects = data.y[data.num_train :], data.subjects[data.num_train :]
        for name, views in {"left": [1], "front + right": [0, 2], "front + left + right": None}.items():
            x = (data.x if views is None else data.views[:, views].mean(axis=1))[data.num_train :]
            hits = (
                predictor.probabilities("zero-shot", np.concatenate([data.x[: data.num_train], x])).argmax(axis=1)
                == truth
            )
            part = parts["zero-shot", name]
            assert part.accuracy == hits.mean() and part.interval == mean_interval(hits.astype(float), subjects, 5)
            assert part.chance == 0.25
            if num_train:
                hits = predictor.probe.probabilities(x, 4).argmax(axis=1) == truth
                assert parts["probe", name].accuracy == hits.mean()
        # The plot has the means of each number of views, and all of them.
        positions = {part.name: part.position for part in parts.values() if part.position is not None}
        assert positions == {"mean of 1 of 3 views": 1, "mean of 2 of 3 views": 2, "front + left + right": 3}

    def test_oracle_answers_everything_and_random_embeddings_are_at_chance(self):
        names = ("front", "left", "right")
        assert set(accuracies(missing_views(self.predictor(make_data(0, 12)), names, 0)).values()) == {1}
        for part in missing_views(self.predictor(make_data(0, 60, seed=1)), names, 0).score.parts:
            assert part.accuracy == pytest.approx(part.chance, abs=0.1)

    def test_a_run_without_text_has_its_classifier_or_the_probe_only(self):
        predictor, names = self.predictor(make_data(0, 12)), ("front", "left", "right")
        predictor.prompts = {}
        assert {part.group for part in missing_views(predictor, names, 0).score.parts} == {"probe"}
        predictor.model.model = object.__new__(Supervised)
        predictor.probabilities = lambda protocol, x: np.eye(4)[predictor.data.y[predictor.data.num_train :]]
        assert {part.group for part in missing_views(predictor, names, 0).score.parts} == {"classifier", "probe"}

    def test_all_subsets_of_few_views(self):
        assert len(all_subsets(4)) == 15 and len(set(all_subsets(6))) == 63
        assert len(all_subsets(9)) == 19
        assert [len(subset) for subset in all_subsets(3)] == [1, 1, 1, 2, 2, 2, 3]


class Nearest:
    """Stands for the probe: the nearest mean."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.means = np.stack([x[y == c].mean(axis=0) for c in range(4)])

    def probabilities(self, x: np.ndarray, num_classes: int) -> np.ndarray:
        return -((x[:, None] - self.means) ** 2).sum(axis=2)
