"""How predictions are scored: pure functions on arrays.

Goes in: the truth, and probabilities of the classes float [N, K], whose largest is the prediction. Comes out:
`ProtocolScore`. Promised: the same input gives the same output; nothing is averaged over classes that do not occur.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.knn import Classes, Probabilities
from smile_pipe.pipeline.common.expressions import expressions_of, order_expressions
from smile_pipe.pipeline.runs.evaluation_manifest import Interval, LabelScore, ProtocolScore, ReliabilityBin
from smile_pipe.shards.errors import UsageError

NUM_BINS = 15
NUM_DRAWS = 1000
# The ends of a 95 % interval.
_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Labels:
    """What the scored samples are.

    Attributes:
        y: int64 [N], indices into `classes`.
        classes: expressions as the shards' manifest names them; "HA;SU" is a class of its own.
        levels: intensities, None where a sample has none.
        subjects: whose samples they are.
        is_multilabel: whether some sample, scored or fitted on, shows several expressions at once.
    """

    y: Classes
    classes: Sequence[str]
    levels: Sequence[int | None]
    subjects: Sequence[str]
    is_multilabel: bool = False


def score(truth: Labels, probabilities: Probabilities, seed: int = 0) -> ProtocolScore:
    """Score predictions; `seed` is that of the intervals (`subject_intervals`).

    Raises:
        UsageError: there are no samples to score.
    """
    y, classes = truth.y, truth.classes
    if len(y) == 0:
        raise UsageError("there are no samples to score: this split of the shards is empty")
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_of(y, predicted, len(classes))
    hit, actual = y == predicted, confusion.sum(axis=1)
    by_level = {
        level: np.array([own == level for own in truth.levels]) for level in {*truth.levels} if level is not None
    }
    intervals = subject_intervals(y, predicted, truth.subjects, len(classes), seed)
    reliability = reliability_bins(hit, probabilities.max(axis=1))
    return ProtocolScore(
        accuracy=float(hit.mean()),
        macro_f1=float(_macro_f1(confusion)),
        accuracy_interval=intervals and intervals[0],
        macro_f1_interval=intervals and intervals[1],
        per_class={classes[c]: float(confusion[c, c] / actual[c]) for c in np.flatnonzero(actual).tolist()},
        per_level={str(level): float(hit[by_level[level]].mean()) for level in sorted(by_level)},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        num_samples=len(y),
        calibration_error=calibration_error(reliability),
        reliability=reliability,
        labels=label_score(confusion, classes) if truth.is_multilabel else None,
    )


def subject_intervals(
    y: Classes, predicted: Classes, subjects: Sequence[str], num_classes: int, seed: int
) -> tuple[Interval, Interval] | None:
    """95 % intervals of accuracy and macro-F1, if other people of the same kind had been scored; None of one subject.

    Subjects, each with all their samples, are drawn with replacement, as many as there are, `NUM_DRAWS` times; the
    interval holds the middle 95 % of the figures (Efron and Tibshirani, "An introduction to the bootstrap", 1993,
    chapter 13). Samples of one person are alike, so that drawing samples would promise too much.
    """
    names, whose = np.unique(np.asarray(subjects), return_inverse=True)
    if len(names) < 2:
        return None
    counts = np.zeros((len(names), num_classes, num_classes))
    np.add.at(counts, (whose, y, predicted), 1)
    # How often each subject is drawn: all that a draw decides.
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), NUM_DRAWS)
    drawn = (times.astype(np.float64) @ counts.reshape(len(names), -1)).reshape(-1, num_classes, num_classes)
    accuracies = np.trace(drawn, axis1=1, axis2=2) / drawn.sum(axis=(1, 2))
    return _middle(accuracies), _middle(_macro_f1(drawn))


def reliability_bins(hit: NDArray[np.bool_], confidence: NDArray[np.floating]) -> tuple[ReliabilityBin, ...]:
    """Predictions by how sure they are, in `NUM_BINS` bins ((m - 1) / M, m / M] of confidence; empty ones left out."""
    numbers = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return tuple(
        ReliabilityBin(
            num_samples=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(hit[inside].mean()),
        )
        for inside in (numbers == number for number in np.unique(numbers))
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean over the samples of |accuracy - confidence| of the bin that they are in.

    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3, with their number of bins.
    """
    weights = [found.num_samples for found in bins]
    return float(np.average([abs(found.accuracy - found.confidence) for found in bins], weights=weights))


def confusion_of(y: Classes, predicted: Classes, num_classes: int) -> NDArray[np.int64]:
    """Counts [K, K]; rows are the truth, columns the prediction."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (y, predicted), 1)
    return confusion


def label_score(confusion: NDArray[np.int64], classes: Sequence[str]) -> LabelScore:
    """Score single expressions as yes and no: a sample has those that its class names, "HA;SU" both HA and SU.

    So has the prediction: a protocol says yes to the expressions that its class names, and no to all others. Macro-UF1
    and UAR are unweighted means over the expressions (See et al., "MEGC 2019 - the second facial micro-expressions
    grand challenge", 2019), here over those that occur in the truth.
    """
    labels = order_expressions(part for name in classes for part in expressions_of(name))
    has = np.array([[label in expressions_of(name) for label in labels] for name in classes], np.int64)
    # For each expression: over the pairs of truth and prediction that both have it.
    right = np.einsum("tp,tl,pl->l", confusion, has, has)
    actual, named = confusion.sum(axis=1) @ has, confusion.sum(axis=0) @ has
    found = np.flatnonzero(actual).tolist()
    f1 = {labels[n]: float(2 * right[n] / (actual[n] + named[n])) for n in found}
    recall = {labels[n]: float(right[n] / actual[n]) for n in found}
    return LabelScore(macro_uf1=_mean(f1), uar=_mean(recall), f1=f1, recall=recall)


def _macro_f1(confusions: NDArray) -> NDArray[np.float64]:
    """Mean F1 of the classes that occur in the truth, of confusion matrices [..., K, K]."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    actual, named = confusions.sum(axis=-1), confusions.sum(axis=-2)
    # F1 = 2 TP / (2 TP + FP + FN), whose denominator is what was so named plus what is so.
    return np.mean(2 * right / np.maximum(actual + named, 1), axis=-1, where=actual > 0)


def _middle(figures: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(figures, _TAILS).tolist()
    return low, high


def _mean(figures: Mapping[str, float]) -> float:
    return sum(figures.values()) / len(figures)
