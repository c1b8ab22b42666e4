"""The protocols: what they predict where the answer is known, what they may see, and how they are scored."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evaluation import protocols
from pipeline.evaluation.protocols import NEIGHBOUR_TEMPERATURE, cross_predict, knn, linear_probe, score, zero_shot
from shards.errors import UsageError

CLASSES = ("AN", "HA", "NE")


def clusters(num_subjects, per_class=4, num_classes=3, noise=0.3, seed=0):
    """Embeddings [N, 8] around one axis a class, their classes, and their subjects."""
    rng = np.random.default_rng(seed)
    y = np.tile(np.repeat(np.arange(num_classes), per_class), num_subjects)
    subjects = np.repeat([f"F{i:04d}" for i in range(num_subjects)], per_class * num_classes)
    return 3 * np.eye(8)[y] + noise * rng.normal(size=(len(y), 8)), y, subjects


class TestZeroShot:
    def test_names_the_nearest_direction_whatever_the_lengths(self):
        prompts = {"AN": np.array([[1.0, 0.0]]), "HA": np.array([[0.0, 100.0]])}
        faces = np.array([[5.0, 1.0], [0.1, 0.2], [-1.0, -0.5]])
        assert zero_shot(faces, prompts).tolist() == [0, 1, 1]

    def test_a_long_prompt_embedding_weighs_no_more_than_a_short_one(self):
        # The mean direction of the unit vectors is 45 degrees; of the raw ones it would be that of the first.
        ensemble = np.array([[1000.0, 0.0], [0.0, 1.0]])
        prompts = {"AN": ensemble, "HA": np.array([[1.0, 0.2]])}
        assert zero_shot(np.array([[1.0, 0.7]]), prompts).tolist() == [0]

    def test_an_ensemble_of_scattered_prompts_is_normalised_again(self):
        scattered = np.array([[1.0, 1.0], [1.0, -1.0]])
        prompts = {"AN": scattered, "HA": np.array([[0.7, 0.7]])}
        assert zero_shot(np.array([[1.0, 0.3]]), prompts).tolist() == [0]

    def test_an_embedding_of_zeros_is_named_without_a_warning(self):
        with np.errstate(all="raise"):
            zero_shot(np.zeros((1, 2)), {"AN": np.ones((1, 2)), "HA": np.zeros((1, 2))})


class TestKnn:
    @pytest.mark.parametrize("k", [1, 5, 20])
    def test_agrees_with_scikit_learn(self, k, monkeypatch):
        monkeypatch.setattr(protocols, "_BLOCK", 7)
        x, y, _ = clusters(10, noise=2.0)
        test_x = clusters(5, noise=2.0, seed=1)[0]
        reference = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / NEIGHBOUR_TEMPERATURE)
        )
        assert (knn(x, y, test_x, k) == reference.fit(x, y).predict(test_x)).all()

    def test_one_close_neighbour_outvotes_two_far_ones(self):
        x = np.array([[1.0, 0.0], [0.3, 1.0], [0.3, -1.0]])
        assert knn(x, np.array([0, 1, 1]), np.array([[1.0, 0.0]]), k=3).tolist() == [0]

    def test_fewer_training_samples_than_neighbours_are_all_asked(self):
        assert knn(np.eye(2), np.array([0, 2]), np.eye(2), k=20).tolist() == [0, 2]

    def test_no_training_samples_are_refused(self):
        with pytest.raises(UsageError, match="no training samples"):
            knn(np.zeros((0, 2)), np.zeros(0, int), np.eye(2))


class TestLinearProbe:
    def test_separates_what_a_line_separates_at_any_scale(self):
        x, y, subjects = clusters(8)
        # Tiny where the classes differ, huge where there is only noise.
        scale = np.array([1e-3, 1e-3, 1e-3, 1e3, 1e3, 1e3, 1e3, 1e3])
        test_x, test_y, _ = clusters(4, seed=1)
        assert (linear_probe(x * scale, y, test_x * scale, 0, subjects) == test_y).mean() > 0.95

    def test_fits_only_on_training_samples_and_chooses_on_subjects_it_was_not_fitted_on(self, monkeypatch):
        x, y, subjects = clusters(8)
        owner = {row.tobytes(): subject for row, subject in zip(x, subjects, strict=True)}
        test_x = clusters(3, seed=1)[0]
        calls = []
        real = protocols._fit_predict

        def spy(train_x, train_y, held_x, strength):
            calls.append(({owner[row.tobytes()] for row in train_x}, held_x, strength))
            return real(train_x, train_y, held_x, strength)

        monkeypatch.setattr(protocols, "_fit_predict", spy)
        linear_probe(x, y, test_x, 0, subjects)
        *choices, (fitted, predicted, _) = calls
        assert [strength for _, _, strength in choices] == list(protocols.PROBE_STRENGTHS)
        for fitted_on, held_x, _ in choices:
            held = {owner[row.tobytes()] for row in held_x}
            assert held and fitted_on and not held & fitted_on
        assert fitted == set(subjects) and (predicted == test_x).all()

    def test_takes_the_strength_that_does_best_on_held_subjects(self, monkeypatch):
        x, y, subjects = clusters(8)
        used = []

        def only_c_of_a_tenth_is_right(train_x, train_y, held_x, strength):
            used.append(strength)
            truth = y[[np.flatnonzero((x == row).all(axis=1))[0] for row in held_x]]
            return truth if strength == 0.1 else (truth + 1) % 3

        monkeypatch.setattr(protocols, "_fit_predict", only_c_of_a_tenth_is_right)
        linear_probe(x, y, x[:5], 0, subjects)
        assert used[-1] == 0.1

    def test_a_class_that_training_lacks_is_never_predicted_and_indices_are_kept(self):
        x, y, subjects = clusters(6)
        known = y != 1
        predicted = linear_probe(x[known], y[known], x, 0, subjects[known])
        assert set(predicted) == {0, 2}
        assert (predicted[known] == y[known]).all()

    def test_one_training_class_or_one_training_subject_is_enough(self):
        x, y, subjects = clusters(1)
        assert (linear_probe(x, y, x, 0, subjects) == y).all()
        only = y == 2
        assert set(linear_probe(x[only], y[only], x, 0, subjects[only])) == {2}

    def test_the_same_seed_gives_the_same_answer(self):
        x, y, subjects = clusters(6, noise=3.0)
        first, again = (linear_probe(x, y, x + 0.5, 3, subjects) for _ in range(2))
        assert (first == again).all()


class TestCrossPredict:
    @pytest.mark.parametrize("num_subjects", [2, 3, 12])
    def test_every_sample_is_predicted_once_by_a_model_of_other_subjects(self, num_subjects):
        subjects = [f"S{i % num_subjects}" for i in range(60)]
        times = np.zeros(60, int)

        def fit_predict(train, test):
            assert not {subjects[i] for i in train} & {subjects[i] for i in test}
            assert sorted([*train, *test]) == list(range(60))
            times[test] += 1
            return test * 10

        assert (cross_predict(fit_predict, subjects) == np.arange(60) * 10).all()
        assert (times == 1).all()

    def test_uses_as_many_folds_as_asked(self):
        fits = []
        cross_predict(lambda train, test: fits.append(1) or test, [f"S{i}" for i in range(20)], folds=4)
        assert len(fits) == 4

    def test_a_single_subject_is_refused_with_the_reason(self):
        with pytest.raises(UsageError, match="at least two subjects"):
            cross_predict(lambda train, test: test, ["F0001"] * 9)

    def test_knn_by_folds_finds_expressions_not_people(self):
        x, y, subjects = clusters(6)
        # Each subject is a cluster of its own, far more so than each expression.
        people = np.random.default_rng(0).normal(size=(6, 8)) * 0.2
        x = x + people[np.unique(subjects, return_inverse=True)[1]]
        predicted = cross_predict(lambda train, test: knn(x[train], y[train], x[test]), list(subjects))
        assert (predicted == y).mean() > 0.9


class TestScore:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 90)
    predicted = np.where(rng.random(90) < 0.6, truth, rng.integers(0, 3, 90))
    levels = tuple(None if t == 2 else int(i % 4 + 1) for i, t in enumerate(truth))

    def test_agrees_with_scikit_learn(self):
        result = score(self.truth, self.predicted, CLASSES, self.levels)
        assert result.accuracy == pytest.approx(metrics.accuracy_score(self.truth, self.predicted))
        assert result.macro_f1 == pytest.approx(metrics.f1_score(self.truth, self.predicted, average="macro"))
        recall = metrics.recall_score(self.truth, self.predicted, average=None)
        assert [result.per_class[c] for c in CLASSES] == pytest.approx(recall.tolist())
        assert np.array_equal(result.confusion, metrics.confusion_matrix(self.truth, self.predicted))
        assert result.num_samples == 90

    def test_levels_are_counted_apart_and_samples_without_one_are_in_none(self):
        result = score(self.truth, self.predicted, CLASSES, self.levels)
        assert list(result.per_level) == ["1", "2", "3", "4"]
        of_two = [i for i, level in enumerate(self.levels) if level == 2]
        assert result.per_level["2"] == pytest.approx((self.truth == self.predicted)[of_two].mean())

    def test_a_class_that_does_not_occur_has_no_recall_and_is_not_in_the_mean(self):
        truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
        result = score(truth, predicted, CLASSES, [None] * 4)
        assert result.per_class == {"AN": 0.5, "HA": 1.0}
        assert result.macro_f1 == pytest.approx(metrics.f1_score(truth, predicted, labels=[0, 1], average="macro"))
        assert result.confusion == ((1, 0, 1), (0, 2, 0), (0, 0, 0))
        assert result.per_level == {}

    def test_a_class_that_is_never_named_counts_as_zero(self):
        result = score(np.array([0, 1]), np.array([0, 0]), CLASSES, [1, 1])
        assert result.per_class["HA"] == 0 and result.macro_f1 == pytest.approx((2 / 3 + 0) / 2)

    def test_nothing_to_score_is_refused(self):
        with pytest.raises(UsageError, match="no samples"):
            score(np.zeros(0, int), np.zeros(0, int), CLASSES, [])
