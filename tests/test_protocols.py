"""The protocols: what they predict where the answer is known, how sure they are, and what they may see."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pipeline import neighbours
from pipeline.evaluation import protocols
from pipeline.evaluation.protocols import cross_predict, linear_probe, zero_shot
from pipeline.neighbours import NEIGHBOUR_TEMPERATURE, knn, unit
from shards.errors import UsageError

SCALE = 1 / 0.07


def named(probabilities):
    """The classes that are predicted; probabilities are ones."""
    assert probabilities.dtype == np.float64 and (probabilities >= 0).all()
    assert probabilities.sum(axis=1) == pytest.approx(1)
    return probabilities.argmax(axis=1)


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
        assert named(zero_shot(faces, prompts, SCALE)).tolist() == [0, 1, 1]

    def test_a_long_prompt_embedding_weighs_no_more_than_a_short_one(self):
        # The mean direction of the unit vectors is 45 degrees; of the raw ones it would be that of the first.
        ensemble = np.array([[1000.0, 0.0], [0.0, 1.0]])
        prompts = {"AN": ensemble, "HA": np.array([[1.0, 0.2]])}
        assert named(zero_shot(np.array([[1.0, 0.7]]), prompts, SCALE)).tolist() == [0]

    def test_an_ensemble_of_scattered_prompts_is_normalised_again(self):
        scattered = np.array([[1.0, 1.0], [1.0, -1.0]])
        prompts = {"AN": scattered, "HA": np.array([[0.7, 0.7]])}
        assert named(zero_shot(np.array([[1.0, 0.3]]), prompts, SCALE)).tolist() == [0]

    def test_an_embedding_of_zeros_is_named_without_a_warning(self):
        with np.errstate(all="raise"):
            zero_shot(np.zeros((1, 2)), {"AN": np.ones((1, 2)), "HA": np.zeros((1, 2))}, SCALE)

    def test_is_as_sure_as_the_softmax_of_the_scaled_cosines(self):
        prompts = {"AN": np.array([[2.0, 0.0]]), "HA": np.array([[0.0, 1.0]]), "NE": np.array([[-1.0, 0.0]])}
        expected = np.exp([3 * 0.6, 3 * 0.8, 3 * -0.6])
        assert zero_shot(np.array([[0.3, 0.4]]), prompts, 3.0) == pytest.approx(expected[None] / expected.sum())

    def test_the_largest_scale_leaves_numbers_and_the_order(self):
        prompts = {"AN": np.array([[1.0, 0.0]]), "HA": np.array([[0.0, 1.0]])}
        assert named(zero_shot(np.array([[5.0, 0.0], [0.0, 5.0]]), prompts, 1e4)).tolist() == [0, 1]


class TestKnn:
    @pytest.mark.parametrize("k", [1, 5, 20])
    def test_agrees_with_scikit_learn(self, k, monkeypatch):
        monkeypatch.setattr(neighbours, "_BLOCK", 7)
        x, y, _ = clusters(10, noise=2.0)
        test_x = clusters(5, noise=2.0, seed=1)[0]
        reference = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / NEIGHBOUR_TEMPERATURE)
        )
        shares = reference.fit(x, y).predict_proba(test_x)
        assert knn(x, y, test_x, 3, k) == pytest.approx(shares)
        assert (named(knn(x, y, test_x, 3, k)) == reference.predict(test_x)).all()

    def test_one_close_neighbour_outvotes_two_far_ones(self):
        x = np.array([[1.0, 0.0], [0.3, 1.0], [0.3, -1.0]])
        assert named(knn(x, np.array([0, 1, 1]), np.array([[1.0, 0.0]]), 2, k=3)).tolist() == [0]

    def test_fewer_training_samples_than_neighbours_are_all_asked(self):
        assert named(knn(np.eye(2), np.array([0, 2]), np.eye(2), 4, k=20)).tolist() == [0, 2]

    def test_no_training_samples_are_refused(self):
        with pytest.raises(UsageError, match="no training samples"):
            knn(np.zeros((0, 2)), np.zeros(0, int), np.eye(2), 2)


class TestLinearProbe:
    def test_separates_what_a_line_separates_at_any_scale(self):
        x, y, subjects = clusters(8)
        # Tiny where the classes differ, huge where there is only noise.
        scale = np.array([1e-3, 1e-3, 1e-3, 1e3, 1e3, 1e3, 1e3, 1e3])
        test_x, test_y, _ = clusters(4, seed=1)
        assert (named(linear_probe(x * scale, y, test_x * scale, 3, 0, subjects)) == test_y).mean() > 0.95

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
        linear_probe(x, y, test_x, 3, 0, subjects)
        *choices, (fitted, predicted, _) = calls
        assert [strength for _, _, strength in choices] == list(protocols.PROBE_STRENGTHS)
        for fitted_on, held_x, _ in choices:
            held = {owner[row.tobytes()] for row in held_x}
            assert held and fitted_on and not held & fitted_on
        assert fitted == set(subjects) and (predicted == test_x).all()

    def test_takes_the_strength_that_does_best_on_held_subjects(self, monkeypatch):
        x, y, subjects = clusters(8)
        # Training lacks two of the five classes.
        known = np.array([0, 2, 4])
        used = []

        def only_c_of_a_tenth_is_right(train_x, train_y, held_x, strength):
            used.append(strength)
            truth = y[[np.flatnonzero((x == row).all(axis=1))[0] for row in held_x]]
            return known, np.eye(3)[truth if strength == 0.1 else (truth + 1) % 3]

        monkeypatch.setattr(protocols, "_fit_predict", only_c_of_a_tenth_is_right)
        linear_probe(x, known[y], x[:5], 5, 0, subjects)
        assert used[-1] == 0.1

    def test_a_class_that_training_lacks_is_never_predicted_and_indices_are_kept(self):
        x, y, subjects = clusters(6)
        known = y != 1
        probabilities = linear_probe(x[known], y[known], x, 4, 0, subjects[known])
        predicted = named(probabilities)
        assert set(predicted) == {0, 2} and (probabilities[:, [1, 3]] == 0).all()
        assert (predicted[known] == y[known]).all()

    def test_one_training_class_or_one_training_subject_is_enough(self):
        x, y, subjects = clusters(1)
        assert (named(linear_probe(x, y, x, 3, 0, subjects)) == y).all()
        only = y == 2
        assert set(named(linear_probe(x[only], y[only], x, 3, 0, subjects[only]))) == {2}

    def test_is_surer_of_what_lies_farther_on_its_side(self):
        x, y, subjects = clusters(8)
        near, far = linear_probe(x, y, np.array([1.2, 3.0])[:, None] * np.eye(8)[0], 3, 0, subjects)
        assert 1 / 3 < near[0] < far[0] < 1

    def test_the_same_seed_gives_the_same_answer(self):
        x, y, subjects = clusters(6, noise=3.0)
        first, again = (linear_probe(x, y, x + 0.5, 3, 3, subjects) for _ in range(2))
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
            return np.stack([test * 10.0, test + 0.5], axis=1)

        expected = np.stack([np.arange(60) * 10.0, np.arange(60) + 0.5], axis=1)
        assert (cross_predict(fit_predict, subjects) == expected).all()
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
        predicted = cross_predict(lambda train, test: knn(x[train], y[train], x[test], 3), list(subjects))
        assert (named(predicted) == y).mean() > 0.9


def test_vectors_are_brought_to_length_one_and_nothing_stays_nothing():
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]
