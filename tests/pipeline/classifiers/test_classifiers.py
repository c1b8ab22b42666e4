"""The classifiers: predictions with known answers, probabilities, and which samples they are fitted on."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from smile_pipe.pipeline.classifiers import knn as neighbours
from smile_pipe.pipeline.classifiers import probe
from smile_pipe.pipeline.classifiers.knn import NEIGHBOUR_TEMPERATURE, knn, unit_vectors
from smile_pipe.pipeline.classifiers.probe import LinearProbe, fit_probe, read_probe
from smile_pipe.pipeline.classifiers.zero_shot import zero_shot
from smile_pipe.pipeline.evaluate.protocols import out_of_fold_predict
from smile_pipe.shards.errors import UsageError

SCALE = 1 / 0.07


def predicted_classes(probabilities):
    """The predicted classes; checks that the rows are probabilities."""
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
    def test_lengths_of_embeddings_do_not_count(self):
        prompts = {"AN": np.array([[1.0, 0.0]]), "HA": np.array([[0.0, 100.0]])}
        faces = np.array([[5.0, 1.0], [0.1, 0.2], [-1.0, -0.5]])
        assert predicted_classes(zero_shot(faces, prompts, SCALE)).tolist() == [0, 1, 1]

    def test_lengths_of_prompts_do_not_count(self):
        # The mean direction of the unit vectors is 45 degrees; of the raw ones it would be that of the first.
        ensemble = np.array([[1000.0, 0.0], [0.0, 1.0]])
        prompts = {"AN": ensemble, "HA": np.array([[1.0, 0.2]])}
        assert predicted_classes(zero_shot(np.array([[1.0, 0.7]]), prompts, SCALE)).tolist() == [0]

    def test_mean_of_prompts_is_normalised_again(self):
        scattered = np.array([[1.0, 1.0], [1.0, -1.0]])
        prompts = {"AN": scattered, "HA": np.array([[0.7, 0.7]])}
        assert predicted_classes(zero_shot(np.array([[1.0, 0.3]]), prompts, SCALE)).tolist() == [0]

    def test_zero_embedding_gives_no_warning(self):
        with np.errstate(all="raise"):
            zero_shot(np.zeros((1, 2)), {"AN": np.ones((1, 2)), "HA": np.zeros((1, 2))}, SCALE)

    def test_probabilities_are_the_softmax_of_scaled_cosines(self):
        prompts = {"AN": np.array([[2.0, 0.0]]), "HA": np.array([[0.0, 1.0]]), "NE": np.array([[-1.0, 0.0]])}
        expected = np.exp([3 * 0.6, 3 * 0.8, 3 * -0.6])
        assert zero_shot(np.array([[0.3, 0.4]]), prompts, 3.0) == pytest.approx(expected[None] / expected.sum())

    def test_large_scale_is_numerically_stable(self):
        prompts = {"AN": np.array([[1.0, 0.0]]), "HA": np.array([[0.0, 1.0]])}
        assert predicted_classes(zero_shot(np.array([[5.0, 0.0], [0.0, 5.0]]), prompts, 1e4)).tolist() == [0, 1]


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
        assert (predicted_classes(knn(x, y, test_x, 3, k)) == reference.predict(test_x)).all()

    def test_one_near_neighbour_outvotes_two_far_ones(self):
        x = np.array([[1.0, 0.0], [0.3, 1.0], [0.3, -1.0]])
        assert predicted_classes(knn(x, np.array([0, 1, 1]), np.array([[1.0, 0.0]]), 2, k=3)).tolist() == [0]

    def test_fewer_training_samples_than_neighbours_all_vote(self):
        assert predicted_classes(knn(np.eye(2), np.array([0, 2]), np.eye(2), 4, k=20)).tolist() == [0, 2]

    def test_no_training_samples_raise(self):
        with pytest.raises(UsageError, match="no training samples"):
            knn(np.zeros((0, 2)), np.zeros(0, int), np.eye(2), 2)


def linear_probe(train_x, train_y, test_x, num_classes, seed, subjects):
    return fit_probe(train_x, train_y, subjects, seed).probabilities(test_x, num_classes)


class TestLinearProbe:
    def test_linearly_separable_classes_are_separated_at_any_scale(self):
        x, y, subjects = clusters(8)
        # Small features that differ between classes, large features of noise.
        scale = np.array([1e-3, 1e-3, 1e-3, 1e3, 1e3, 1e3, 1e3, 1e3])
        test_x, test_y, _ = clusters(4, seed=1)
        assert (predicted_classes(linear_probe(x * scale, y, test_x * scale, 3, 0, subjects)) == test_y).mean() > 0.95

    def test_strength_is_selected_on_subjects_outside_of_the_fit(self, monkeypatch):
        x, y, subjects = clusters(8)
        owner = {row.tobytes(): subject for row, subject in zip(x, subjects, strict=True)}
        test_x = clusters(3, seed=1)[0]
        calls = []
        real = probe._fit

        class Spy(LinearProbe):
            def probabilities(self, x, num_classes):
                calls[-1] += (x,)
                return super().probabilities(x, num_classes)

        def spy(train_x, train_y, strength):
            calls.append((strength, {owner[row.tobytes()] for row in train_x}))
            return Spy(**vars(real(train_x, train_y, strength)))

        monkeypatch.setattr(probe, "_fit", spy)
        linear_probe(x, y, test_x, 3, 0, subjects)
        *choices, (_, fitted, predicted) = calls
        assert [strength for strength, _, _ in choices] == list(probe.PROBE_STRENGTHS)
        for _, fitted_on, validation_x in choices:
            validation_subjects = {owner[row.tobytes()] for row in validation_x}
            assert validation_subjects and fitted_on and not validation_subjects & fitted_on
        assert fitted == set(subjects) and (predicted == test_x).all()

    def test_strength_with_the_best_validation_accuracy_is_used(self, monkeypatch):
        x, y, subjects = clusters(8)
        used, real = [], probe._fit

        def only_c_of_a_tenth_is_right(train_x, train_y, strength):
            used.append(strength)
            found = real(train_x, train_y, 1.0)
            # Rotating the classes makes every prediction wrong.
            return found if strength == 0.1 else LinearProbe(np.roll(found.classes, 1), found.weight, found.bias)

        monkeypatch.setattr(probe, "_fit", only_c_of_a_tenth_is_right)
        # Two of the five classes have no training samples.
        linear_probe(x, np.array([0, 2, 4])[y], x[:5], 5, 0, subjects)
        assert used[-1] == 0.1

    @pytest.mark.parametrize("num_classes", [2, 3])
    def test_is_logistic_regression_of_standardised_embeddings(self, num_classes):
        x, y, _ = clusters(4, num_classes=num_classes, noise=2.0)
        x = 100 * x + np.arange(8)
        expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(x, y)
        assert probe._fit(x, y, 0.1).probabilities(x, num_classes) == pytest.approx(expected.predict_proba(x))

    def test_file_round_trips_with_class_names(self):
        x, y, subjects = clusters(4)
        fitted = fit_probe(x, y, subjects, 0)
        again, names, run = read_probe(fitted.to_bytes(("AN", "HA", "NE"), "0123"))
        assert names == ("AN", "HA", "NE") and run == "0123"
        assert (again.probabilities(x, 3) == fitted.probabilities(x, 3)).all()

    def test_file_is_deterministic(self):
        x, y, subjects = clusters(4)
        fitted = fit_probe(x, y, subjects, 0)
        assert len({fitted.to_bytes(("AN", "HA", "NE"), "0123") for _ in range(40)}) == 1

    @pytest.mark.parametrize("change", ["cut", "weight", "names"])
    def test_invalid_file_raises(self, change):
        x, y, subjects = clusters(4)
        fitted = fit_probe(x, y, subjects, 0)
        if change == "weight":
            fitted = LinearProbe(fitted.classes, fitted.weight[:2], fitted.bias)
        content = fitted.to_bytes(("AN", "HA") if change == "names" else ("AN", "HA", "NE"), "0123")
        with pytest.raises(ValueError, match="linear probe"):
            read_probe(content[:-9] if change == "cut" else content)

    def test_class_without_training_samples_has_probability_0(self):
        x, y, subjects = clusters(6)
        known = y != 1
        probabilities = linear_probe(x[known], y[known], x, 4, 0, subjects[known])
        predicted = predicted_classes(probabilities)
        assert set(predicted) == {0, 2} and (probabilities[:, [1, 3]] == 0).all()
        assert (predicted[known] == y[known]).all()

    def test_one_class_or_one_subject_is_enough(self):
        x, y, subjects = clusters(1)
        assert (predicted_classes(linear_probe(x, y, x, 3, 0, subjects)) == y).all()
        only = y == 2
        assert set(predicted_classes(linear_probe(x[only], y[only], x, 3, 0, subjects[only]))) == {2}

    def test_confidence_grows_with_distance_from_the_boundary(self):
        x, y, subjects = clusters(8)
        near, far = linear_probe(x, y, np.array([1.2, 3.0])[:, None] * np.eye(8)[0], 3, 0, subjects)
        assert 1 / 3 < near[0] < far[0] < 1

    def test_same_seed_gives_same_result(self):
        x, y, subjects = clusters(6, noise=3.0)
        first, again = (linear_probe(x, y, x + 0.5, 3, 3, subjects) for _ in range(2))
        assert (first == again).all()


class TestOutOfFoldPredict:
    @pytest.mark.parametrize("num_subjects", [2, 3, 12])
    def test_each_sample_is_predicted_once_by_a_model_of_other_subjects(self, num_subjects):
        subjects = [f"S{i % num_subjects}" for i in range(60)]
        times = np.zeros(60, int)

        def fit_predict(train, test):
            assert not {subjects[i] for i in train} & {subjects[i] for i in test}
            assert sorted([*train, *test]) == list(range(60))
            times[test] += 1
            return np.stack([test * 10.0, test + 0.5], axis=1)

        expected = np.stack([np.arange(60) * 10.0, np.arange(60) + 0.5], axis=1)
        assert (out_of_fold_predict(fit_predict, subjects) == expected).all()
        assert (times == 1).all()

    def test_number_of_folds_is_as_requested(self):
        fits = []
        out_of_fold_predict(lambda train, test: fits.append(1) or test, [f"S{i}" for i in range(20)], folds=4)
        assert len(fits) == 4

    def test_single_subject_raises(self):
        with pytest.raises(UsageError, match="at least two subjects"):
            out_of_fold_predict(lambda train, test: test, ["F0001"] * 9)

    def test_knn_in_folds_predicts_expressions_instead_of_subjects(self):
        x, y, subjects = clusters(6)
        # Samples cluster by subject more than by expression.
        subject_offsets = np.random.default_rng(0).normal(size=(6, 8)) * 0.2
        x = x + subject_offsets[np.unique(subjects, return_inverse=True)[1]]
        predicted = out_of_fold_predict(lambda train, test: knn(x[train], y[train], x[test], 3), list(subjects))
        assert (predicted_classes(predicted) == y).mean() > 0.9


def test_unit_vectors_keep_zero_vectors():
    assert unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]
