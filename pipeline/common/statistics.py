"""Statistics of predictions: macro-F1, draws of subjects, and tests of a difference between two systems.

Samples of one subject are similar, so subjects are drawn, and not samples. Deterministic.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The ends of a 95 % interval.
TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class BootstrapDifference:
    """A difference of two accuracies.

    Attributes:
        value: the difference.
        interval: its 95 % interval.
        p: two-sided p-value of the hypothesis that there is no difference.
    """

    value: float
    interval: tuple[float, float]
    p: float


def macro_f1(confusions: NDArray) -> NDArray[np.float64]:
    """Return the mean F1 of the classes that occur in the truth, of confusion matrices [..., K, K]."""
    num_correct = np.diagonal(confusions, axis1=-2, axis2=-1)
    num_actual, num_predicted = confusions.sum(axis=-1), confusions.sum(axis=-2)
    # F1 = 2 TP / (2 TP + FP + FN); the denominator is the number of predicted plus the number of actual samples.
    return np.mean(2 * num_correct / np.maximum(num_actual + num_predicted, 1), axis=-1, where=num_actual > 0)


def draw_with_replacement(size: int, num_units: int, num_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw `size` of some units with replacement, and return how often each unit is in each draw, [draws, units]."""
    return rng.multinomial(size, np.full(num_units, 1 / num_units), num_draws).astype(np.float64)


def bootstrap_difference(
    one: NDArray[np.integer],
    other: NDArray[np.integer],
    num_samples: NDArray[np.integer],
    num_draws: int = 10_000,
    seed: int = 0,
) -> BootstrapDifference:
    """Estimate the accuracy of one system minus that of another one, by a paired bootstrap over subjects.

    A draw has as many subjects as there are, drawn with replacement; both systems are scored on the same draw (Efron
    and Tibshirani, "An introduction to the bootstrap", 1993). Where a system was trained with several seeds, its
    accuracy is the mean over them, and the seeds are drawn too: one fewer than there are, with which the variance of a
    mean is not underestimated (Rao and Wu, "Resampling inference with complex survey data", JASA 1988). With one seed,
    the variation between trainings is not included.

    Args:
        one: number of correctly predicted samples of each subject by one system, [seeds, subjects].
        other: the same of the other system, [seeds, subjects]; its seeds are other trainings.
        num_samples: number of samples of each subject, [subjects].
        num_draws: number of draws.
        seed: random seed of the draws.
    """
    rng = np.random.default_rng(seed)
    subjects = draw_with_replacement(len(num_samples), len(num_samples), num_draws, rng)

    def accuracies(correct: NDArray[np.integer]) -> NDArray[np.float64]:
        num_seeds = len(correct)
        drawn = max(num_seeds - 1, 1)
        weights = draw_with_replacement(drawn, num_seeds, num_draws, rng) / drawn
        return np.einsum("ds,ds->d", subjects @ correct.T, weights) / (subjects @ num_samples)

    differences = accuracies(one) - accuracies(other)
    low, high = np.quantile(differences, TAILS).tolist()
    # Twice the smaller tail; a share of draws cannot show that a p-value is 0.
    tail = 1 + min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    value = (one.sum(axis=1).mean() - other.sum(axis=1).mean()) / num_samples.sum()
    return BootstrapDifference(float(value), (low, high), min(1.0, 2 * tail / (num_draws + 1)))


def corrected_t_test(differences: NDArray[np.floating], test_to_train: float) -> float | None:
    """Return the two-sided p-value of differences between two systems, fold by fold; None where it is not defined.

    Folds share most of their training samples, so a plain t-test finds too many differences. The variance is corrected
    for that (Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003).

    Args:
        differences: one per fold, [folds].
        test_to_train: number of test samples divided by that of training samples, in a fold.
    """
    from scipy import stats

    num_folds = len(differences)
    # Equal differences may differ in the last bit.
    if num_folds < 2 or np.ptp(differences) < 1e-12:
        return None
    variance = np.var(differences, ddof=1)
    t = np.mean(differences) / np.sqrt((1 / num_folds + test_to_train) * variance)
    return float(2 * stats.t.sf(abs(t), num_folds - 1))
