"""The metrics: they agree with reference implementations, and leave out classes without samples."""

import numpy as np
import pytest
from sklearn import metrics

from smile_pipe.pipeline.classifiers.metrics import (
    NUM_BINS,
    Labels,
    calibration_error,
    count_confusion,
    label_score,
    reliability_bins,
    score,
    subject_intervals,
)
from smile_pipe.shards.errors import UsageError

CLASSES = ("AN", "HA", "NE")
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 3, 90)
PREDICTED = np.where(RNG.random(90) < 0.6, TRUTH, RNG.integers(0, 3, 90))
LEVELS = tuple(None if t == 2 else int(i % 4 + 1) for i, t in enumerate(TRUTH))
SUBJECTS = tuple(f"F{i % 6:04d}" for i in range(90))


def one_hot(predicted, num_classes=3):
    """Probabilities with full confidence."""
    return np.eye(num_classes)[predicted]


def labels_of(y, classes=CLASSES, levels=None, subjects=None, **more):
    y = np.asarray(y, np.int64)
    return Labels(y, classes, levels or [None] * len(y), subjects or ["F0001"] * len(y), **more)


class TestScore:
    def test_agrees_with_scikit_learn(self):
        result = score(labels_of(TRUTH, levels=LEVELS), one_hot(PREDICTED))
        assert result.accuracy == pytest.approx(metrics.accuracy_score(TRUTH, PREDICTED))
        assert result.macro_f1 == pytest.approx(metrics.f1_score(TRUTH, PREDICTED, average="macro"))
        recall = metrics.recall_score(TRUTH, PREDICTED, average=None)
        assert [result.per_class[c] for c in CLASSES] == pytest.approx(recall.tolist())
        assert np.array_equal(result.confusion, metrics.confusion_matrix(TRUTH, PREDICTED))
        assert result.num_samples == 90

    def test_most_probable_class_is_the_prediction(self):
        probabilities = np.array([[0.4, 0.35, 0.25], [0.1, 0.2, 0.7]])
        assert score(labels_of([0, 2]), probabilities).confusion == ((1, 0, 0), (0, 0, 0), (0, 0, 1))

    def test_levels_are_scored_separately(self):
        result = score(labels_of(TRUTH, levels=LEVELS), one_hot(PREDICTED))
        assert list(result.per_level) == ["1", "2", "3", "4"]
        of_two = [i for i, level in enumerate(LEVELS) if level == 2]
        assert result.per_level["2"] == pytest.approx((TRUTH == PREDICTED)[of_two].mean())

    def test_class_without_samples_is_left_out_of_means(self):
        truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
        result = score(labels_of(truth), one_hot(predicted))
        assert result.per_class == {"AN": 0.5, "HA": 1.0}
        assert result.macro_f1 == pytest.approx(metrics.f1_score(truth, predicted, labels=[0, 1], average="macro"))
        assert result.confusion == ((1, 0, 1), (0, 2, 0), (0, 0, 0))
        assert result.per_level == {}

    def test_class_that_is_never_predicted_counts_as_zero(self):
        result = score(labels_of([0, 1], levels=[1, 1]), one_hot([0, 0]))
        assert result.per_class["HA"] == 0 and result.macro_f1 == pytest.approx((2 / 3 + 0) / 2)

    def test_no_samples_raise(self):
        with pytest.raises(UsageError, match="no samples"):
            score(labels_of([]), np.zeros((0, 3)))

    def test_intervals_use_the_seed(self):
        result = score(labels_of(TRUTH, subjects=SUBJECTS), one_hot(PREDICTED), seed=3)
        expected = subject_intervals(TRUTH, PREDICTED, SUBJECTS, 3, 3)
        assert (result.accuracy_interval, result.macro_f1_interval) == expected
        assert expected != subject_intervals(TRUTH, PREDICTED, SUBJECTS, 3, 4)

    def test_single_subject_has_no_interval(self):
        result = score(labels_of(TRUTH), one_hot(PREDICTED))
        assert result.accuracy_interval is None and result.macro_f1_interval is None


class TestIntervals:
    def test_agree_with_explicit_draws_of_subjects(self):
        rng = np.random.default_rng(7)
        # Subjects with different accuracies and numbers of samples.
        subject_of = np.repeat(np.arange(8), [3, 9, 4, 20, 6, 11, 5, 8])
        y = rng.integers(0, 3, len(subject_of))
        predicted = np.where(rng.random(len(subject_of)) < np.linspace(0.1, 0.9, 8)[subject_of], y, (y + 1) % 3)
        accuracies, macro_f1s = [], []
        for _ in range(2000):
            drawn = np.concatenate([np.flatnonzero(subject_of == who) for who in rng.integers(0, 8, 8)])
            accuracies.append((y == predicted)[drawn].mean())
            labels = np.unique(y[drawn])
            macro_f1s.append(metrics.f1_score(y[drawn], predicted[drawn], labels=labels, average="macro"))
        found = subject_intervals(y, predicted, [f"S{who}" for who in subject_of], 3, 0)
        for interval, figures in zip(found, (accuracies, macro_f1s), strict=True):
            assert interval == pytest.approx(tuple(np.quantile(figures, (0.025, 0.975))), abs=0.025)

    def test_two_opposite_subjects_give_the_widest_interval(self):
        y = np.zeros(20, np.int64)
        predicted = np.repeat([0, 1], 10)
        found = subject_intervals(y, predicted, ["A"] * 10 + ["B"] * 10, 2, 0)
        assert found == ((0.0, 1.0), (0.0, 1.0))

    def test_equal_subjects_give_a_point(self):
        # The third class is predicted, but does not occur.
        y, predicted = np.tile([0, 0, 1, 1], 5), np.tile([0, 2, 1, 1], 5)
        accuracy, macro_f1 = subject_intervals(y, predicted, [f"S{i // 4}" for i in range(20)], 3, 0)
        expected = metrics.f1_score(y, predicted, labels=[0, 1], average="macro")
        assert accuracy == (0.75, 0.75) and macro_f1 == pytest.approx((expected, expected))

    def test_are_wider_by_subject_than_by_sample(self):
        y = np.zeros(100, np.int64)
        predicted = np.repeat([0, 0, 0, 1, 1], 20)
        by_subject = subject_intervals(y, predicted, [f"S{i // 20}" for i in range(100)], 2, 0)[0]
        by_sample = subject_intervals(y, predicted, [f"S{i}" for i in range(100)], 2, 0)[0]
        assert by_subject[1] - by_subject[0] > 2 * (by_sample[1] - by_sample[0])

    def test_draws_without_a_class_give_no_warning(self):
        y, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
        with np.errstate(all="raise"):
            assert subject_intervals(y, predicted, ["A", "A", "B", "B"], 3, 0)[1] == (1.0, 1.0)


class TestCalibration:
    def test_agrees_with_the_equation(self):
        rng = np.random.default_rng(1)
        confidence = rng.uniform(0.15, 1, 400)
        hit = rng.random(400) < confidence**2
        expected = 0.0
        for m in range(1, 16):
            inside = ((m - 1) / 15 < confidence) & (confidence <= m / 15)
            if inside.any():
                expected += inside.sum() / 400 * abs(hit[inside].mean() - confidence[inside].mean())
        assert calibration_error(reliability_bins(hit, confidence)) == pytest.approx(expected)
        assert expected > 0.1

    def test_certain_predictions_have_the_error_rate(self):
        result = score(labels_of(TRUTH), one_hot(PREDICTED))
        assert result.calibration_error == pytest.approx(1 - result.accuracy)
        (only,) = result.reliability
        assert (only.num_samples, only.confidence, only.accuracy) == (90, 1.0, pytest.approx(result.accuracy))

    def test_calibrated_predictions_have_error_0(self):
        probabilities = np.tile([[0.75, 0.25, 0.0]], (4, 1))
        assert score(labels_of([0, 0, 0, 1]), probabilities).calibration_error == 0

    def test_bins_include_their_upper_end_and_empty_bins_are_left_out(self):
        found = reliability_bins(np.array([True, False, True]), np.array([0.2, 0.2 + 1e-9, 1.0]))
        assert [part.num_samples for part in found] == [1, 1, 1]
        assert [part.confidence for part in found] == pytest.approx([0.2, 0.2, 1.0])
        assert [part.accuracy for part in found] == [1.0, 0.0, 1.0]
        assert NUM_BINS == 15

    def test_confidences_out_of_range_are_in_the_outer_bins(self):
        found = reliability_bins(np.array([True, True]), np.array([0.0, 1.0 + 1e-7]))
        assert [part.num_samples for part in found] == [1, 1]


class TestLabels:
    classes = ("HA", "SU", "HA;SU", "NE")

    def test_labels_are_the_parts_of_the_class_name(self):
        # Truth:     HA   HA+SU   SU    NE
        # Predicted: HA+SU   HA   SU    SU
        result = label_score(count_confusion(np.array([0, 2, 1, 3]), np.array([2, 0, 1, 1]), 4), self.classes)
        # HA: 2 of 2 found, 0 false positives. SU: 1 of 2 found, 2 false positives. NE: 0 of 1 found.
        assert result.f1 == {"HA": 1.0, "SU": pytest.approx(2 / 5), "NE": 0.0}
        assert result.recall == {"HA": 1.0, "SU": 0.5, "NE": 0.0}
        assert result.macro_uf1 == pytest.approx((1 + 2 / 5) / 3) and result.uar == 0.5

    def test_agree_with_scikit_learn(self):
        rng = np.random.default_rng(2)
        y, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
        yes = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
        result = label_score(count_confusion(y, predicted, 4), self.classes)
        assert result.macro_uf1 == pytest.approx(metrics.f1_score(yes[y], yes[predicted], average="macro"))
        assert result.uar == pytest.approx(metrics.recall_score(yes[y], yes[predicted], average="macro"))

    def test_expression_without_samples_is_left_out_of_means(self):
        result = label_score(count_confusion(np.array([0, 0]), np.array([0, 2]), 4), self.classes)
        assert result.f1 == {"HA": 1.0} and result.macro_uf1 == result.uar == 1.0

    def test_single_label_samples_have_the_scores_of_classes(self):
        labels = score(labels_of(TRUTH, is_multilabel=True), one_hot(PREDICTED)).labels
        result = score(labels_of(TRUTH), one_hot(PREDICTED))
        assert result.labels is None
        assert labels.macro_uf1 == pytest.approx(result.macro_f1) and labels.recall == pytest.approx(result.per_class)
