"""How embeddings are turned into named expressions, and how that is scored: pure functions on arrays.

Goes in: embeddings float [N, D], classes int [N] (indices), subjects [N]. Comes out: predicted classes int64 [N], and
`ProtocolScore`. Promised: the same input gives the same output, and nothing is fitted on a subject that it predicts.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.evaluation.manifest import ProtocolScore
from shards.errors import UsageError
from shards.splits import split_subjects

Classes = NDArray[np.int64]
Features = NDArray[np.floating]

# The vote of a neighbour is exp(cosine / 0.07): Wu et al., "Unsupervised feature learning via non-parametric instance
# discrimination", CVPR 2018, section 3.4.
NEIGHBOUR_TEMPERATURE = 0.07
# Strongest regularisation first: where two do equally well, the probe takes the simpler one.
PROBE_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
# The C of a probe that has no second subject to choose it on.
PROBE_DEFAULT_STRENGTH = 0.1
# Rows of the cosine table that are held at a time.
_BLOCK = 1024


def zero_shot(embeddings: Features, prompts: Mapping[str, Features]) -> Classes:
    """Name each embedding [N, D] by the class whose prompts [P, D] lie nearest; indices are in the order of `prompts`.

    A class is the mean of its normalised prompt embeddings, normalised again; nearest is the largest cosine (Radford et
    al., "Learning transferable visual models from natural language supervision", ICML 2021, section 3.1.4).
    """
    anchors = _unit(np.stack([_unit(texts).mean(axis=0) for texts in prompts.values()]))
    return (_unit(embeddings) @ anchors.T).argmax(axis=1)


def knn(train_x: Features, train_y: Classes, test_x: Features, k: int = 20) -> Classes:
    """Name each test embedding by a vote of its `k` nearest training embeddings, or of all where there are fewer.

    Nearness is the cosine, and a vote weighs exp(cosine / `NEIGHBOUR_TEMPERATURE`).

    Raises:
        UsageError: there are no training embeddings.
    """
    _check_training(train_y)
    train_unit, k = _unit(train_x), min(k, len(train_x))
    one_hot = np.eye(train_y.max() + 1)[train_y]
    predicted = np.empty(len(test_x), np.int64)
    for start in range(0, len(test_x), _BLOCK):
        cosine = _unit(test_x[start : start + _BLOCK]) @ train_unit.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(cosine, nearest, axis=1) / NEIGHBOUR_TEMPERATURE)
        predicted[start : start + _BLOCK] = np.einsum("nk,nkc->nc", weights, one_hot[nearest]).argmax(axis=1)
    return predicted


def linear_probe(
    train_x: Features, train_y: Classes, test_x: Features, seed: int, train_subjects: ArrayLike
) -> Classes:
    """Name each test embedding by logistic regression on standardised training embeddings.

    Its strength C is the one of `PROBE_STRENGTHS` that does best on a quarter of the training subjects when fitted on
    the others, drawn by `seed`. With one training subject there is nothing to choose it on: `PROBE_DEFAULT_STRENGTH`.

    Raises:
        UsageError: there are no training embeddings.
    """
    _check_training(train_y)
    x, y, subjects = np.asarray(train_x, np.float64), np.asarray(train_y), np.asarray(train_subjects)
    strength = _choose_strength(x, y, subjects, seed)
    return _fit_predict(x, y, np.asarray(test_x, np.float64), strength)


def cross_predict(
    fit_predict: Callable[[Classes, Classes], Classes], subjects: Sequence[str], folds: int = 5
) -> Classes:
    """Predict all samples, each by a model that was fitted on other subjects only.

    Args:
        fit_predict: takes the indices to fit on and the indices to predict; gives a class for each of the latter.
        subjects: [N], whose sample it is.
        folds: groups that the subjects are divided into; at most one a subject.

    Raises:
        UsageError: all samples are of one subject.
    """
    whose, num_subjects = np.asarray(subjects), len(set(subjects))
    if num_subjects < 2:
        raise UsageError(
            f"{len(whose)} samples of {num_subjects} subject cannot be scored by knn or probe: "
            "these fit on some subjects and predict others, so give shards with at least two subjects"
        )
    folds = min(folds, num_subjects)
    predicted = np.empty(len(whose), np.int64)
    for fold in range(folds):
        held = np.isin(whose, split_subjects(f"kfold:{folds}:{fold}", subjects).test)
        predicted[held] = fit_predict(np.flatnonzero(~held), np.flatnonzero(held))
    return predicted


def score(truth: Classes, predicted: Classes, classes: Sequence[str], levels: Sequence[int | None]) -> ProtocolScore:
    """Score predictions [N] against the truth [N]; `levels` [N] are intensities, None where a sample has none.

    Raises:
        UsageError: there are no samples to score.
    """
    if len(truth) == 0:
        raise UsageError("there are no samples to score: this split of the shards is empty")
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    right, actual, named = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = actual > 0
    # F1 = 2 TP / (2 TP + FP + FN), whose denominator is what was so named plus what is so.
    f1 = 2 * right[occurs] / (actual + named)[occurs]
    hit = truth == predicted
    by_level = {level: np.array([own == level for own in levels]) for level in {*levels} if level is not None}
    return ProtocolScore(
        accuracy=float(hit.mean()),
        macro_f1=float(f1.mean()),
        per_class={classes[c]: float(right[c] / actual[c]) for c in np.flatnonzero(occurs).tolist()},
        per_level={str(level): float(hit[by_level[level]].mean()) for level in sorted(by_level)},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        num_samples=len(truth),
    )


def _unit(x: Features) -> NDArray[np.float64]:
    x64 = np.asarray(x, np.float64)
    # An all-zero embedding keeps its zero, and is equally far from everything, rather than becoming NaN.
    return x64 / np.maximum(np.linalg.norm(x64, axis=-1, keepdims=True), 1e-12)


def _check_training(train_y: Classes) -> None:
    if len(train_y) == 0:
        raise UsageError("there are no training samples to fit on: the training part of the split is empty")


def _choose_strength(x: Features, y: Classes, subjects: NDArray, seed: int) -> float:
    if len(np.unique(subjects)) < 2:
        return PROBE_DEFAULT_STRENGTH
    splitter = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=seed)
    fit, held = next(splitter.split(x, y, groups=subjects))
    accuracies = [np.mean(_fit_predict(x[fit], y[fit], x[held], C) == y[held]) for C in PROBE_STRENGTHS]
    return PROBE_STRENGTHS[int(np.argmax(accuracies))]


def _fit_predict(train_x: Features, train_y: Classes, test_x: Features, strength: float) -> Classes:
    if len(np.unique(train_y)) == 1:
        # Logistic regression needs two classes; with one, its answer is known.
        return np.full(len(test_x), train_y[0], np.int64)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    # The fits are small: on a busy machine, threads that wait for each other made them thirty times slower than one.
    with threadpool_limits(1), warnings.catch_warnings():
        # A probe that is stopped early on separable data predicts as well as one that is not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(train_x, train_y).predict(test_x).astype(np.int64)
