"""Metrics of class probabilities: accuracy, F1, recall, calibration and intervals.

Deterministic. Means over classes include only classes that occur in the truth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.knn import ClassIndices, Probabilities
from smile_pipe.pipeline.common.expressions import expressions_of, order_expressions
from smile_pipe.pipeline.common.statistics import TAILS, draw_with_replacement, macro_f1
from smile_pipe.pipeline.runs.evaluation_manifest import Interval, LabelScore, ProtocolScore, ReliabilityBin
from smile_pipe.shards.errors import UsageError

NUM_BINS = 15
NUM_DRAWS = 1000


@dataclass(frozen=True)
class Labels:
    """Labels of the N scored samples.

    Attributes:
        y: class indices into `classes`, int64 [N].
        classes: expression codes of the candidates, [K]; "HA;SU" is a class of its own.
        levels: intensity level of each sample, None where it has none, [N].
        subjects: subject of each sample, [N].
        is_multilabel: whether a sample, scored or fitted on, shows several expressions at once.
    """

    y: ClassIndices
    classes: Sequence[str]
    levels: Sequence[int | None]
    subjects: Sequence[str]
    is_multilabel: bool = False


def score(labels: Labels, probabilities: Probabilities, seed: int = 0) -> ProtocolScore:
    """Score predictions; the most probable class is the prediction.

    Args:
        labels: labels of the samples.
        probabilities: class probabilities, [N, K].
        seed: random seed of the intervals.

    Raises:
        UsageError: there are no samples.
    """
    y, classes = labels.y, labels.classes
    if len(y) == 0:
        raise UsageError("there are no samples to score: this split of the shards is empty; give another split")
    predicted = probabilities.argmax(axis=1)
    confusion = count_confusion(y, predicted, len(classes))
    is_correct, num_actual = y == predicted, confusion.sum(axis=1)
    level_masks = {
        level: np.array([own == level for own in labels.levels]) for level in {*labels.levels} if level is not None
    }
    intervals = subject_intervals(y, predicted, labels.subjects, len(classes), seed)
    reliability = reliability_bins(is_correct, probabilities.max(axis=1))
    return ProtocolScore(
        accuracy=float(is_correct.mean()),
        macro_f1=float(macro_f1(confusion)),
        accuracy_interval=intervals and intervals[0],
        macro_f1_interval=intervals and intervals[1],
        per_class={classes[c]: float(confusion[c, c] / num_actual[c]) for c in np.flatnonzero(num_actual).tolist()},
        per_level={str(level): float(is_correct[level_masks[level]].mean()) for level in sorted(level_masks)},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        num_samples=len(y),
        calibration_error=calibration_error(reliability),
        reliability=reliability,
        labels=label_score(confusion, classes) if labels.is_multilabel else None,
    )


def subject_intervals(
    y: ClassIndices, predicted: ClassIndices, subjects: Sequence[str], num_classes: int, seed: int
) -> tuple[Interval, Interval] | None:
    """Estimate 95 % intervals over subjects by the percentile bootstrap.

    Subjects, each with all their samples, are drawn with replacement, as many as there are, `NUM_DRAWS` times (Efron
    and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13). Samples of one subject are similar, so that
    drawing samples instead would give too narrow intervals.

    Args:
        y: class indices, [N].
        predicted: predicted class indices, [N].
        subjects: subject of each sample, [N].
        num_classes: number of classes.
        seed: random seed of the draws.

    Returns:
        Intervals of accuracy and macro-F1; None for a single subject.
    """
    names, subject_of = np.unique(np.asarray(subjects), return_inverse=True)
    if len(names) < 2:
        return None
    counts = np.zeros((len(names), num_classes, num_classes))
    np.add.at(counts, (subject_of, y, predicted), 1)
    # A draw is given by the number of times that each subject is in it.
    times = draw_with_replacement(len(names), len(names), NUM_DRAWS, np.random.default_rng(seed))
    drawn = (times @ counts.reshape(len(names), -1)).reshape(-1, num_classes, num_classes)
    accuracies = np.trace(drawn, axis1=1, axis2=2) / drawn.sum(axis=(1, 2))
    return _percentile_interval(accuracies), _percentile_interval(macro_f1(drawn))


def reliability_bins(is_correct: NDArray[np.bool_], confidence: NDArray[np.floating]) -> tuple[ReliabilityBin, ...]:
    """Group predictions by confidence into bins ((m - 1) / M, m / M], with M = `NUM_BINS`; empty bins are left out.

    Args:
        is_correct: whether each prediction is correct, [N].
        confidence: probability of each predicted class, [N].
    """
    numbers = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return tuple(
        ReliabilityBin(
            num_samples=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(is_correct[inside].mean()),
        )
        for inside in (numbers == number for number in np.unique(numbers))
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the expected calibration error: mean over samples of |accuracy - confidence| of their bin.

    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3, with their number of bins.
    """
    weights = [each.num_samples for each in bins]
    return float(np.average([abs(each.accuracy - each.confidence) for each in bins], weights=weights))


def count_confusion(y: ClassIndices, predicted: ClassIndices, num_classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix as counts, [K, K]; rows are the true classes, columns the predicted ones."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (y, predicted), 1)
    return confusion


def label_score(confusion: NDArray[np.int64], classes: Sequence[str]) -> LabelScore:
    """Score single expressions as binary labels; the class "HA;SU" has both labels HA and SU.

    The labels of a prediction are those of the predicted class. Macro-UF1 and UAR are unweighted means over the
    expressions (See et al., "MEGC 2019 - the second facial micro-expressions grand challenge", 2019), here over those
    that occur in the truth.

    Args:
        confusion: counts, [K, K].
        classes: expression codes, [K].
    """
    labels = order_expressions(part for name in classes for part in expressions_of(name))
    has_label = np.array([[label in expressions_of(name) for label in labels] for name in classes], np.int64)
    # For each label: the sum over pairs of a true and a predicted class that both have it.
    num_correct = np.einsum("tp,tl,pl->l", confusion, has_label, has_label)
    num_actual, num_predicted = confusion.sum(axis=1) @ has_label, confusion.sum(axis=0) @ has_label
    occurring = np.flatnonzero(num_actual).tolist()
    f1 = {labels[n]: float(2 * num_correct[n] / (num_actual[n] + num_predicted[n])) for n in occurring}
    recall = {labels[n]: float(num_correct[n] / num_actual[n]) for n in occurring}
    return LabelScore(macro_uf1=_mean(f1), uar=_mean(recall), f1=f1, recall=recall)


def _percentile_interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, TAILS).tolist()
    return low, high


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)
