"""How embeddings are turned into named expressions: pure functions on arrays.

Goes in: embeddings float [N, D], classes int [N] (indices), subjects [N]. Comes out: probabilities of the classes,
float64 [N, K], whose largest is the prediction. Promised: the same input gives the same output, and nothing is fitted
on a subject that it predicts.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.neighbours import Classes, Features, Probabilities, check_training, unit
from shards.errors import UsageError
from shards.splits import split_subjects

# Strongest regularisation first: where two do equally well, the probe takes the simpler one.
PROBE_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
# The C of a probe that has no second subject to choose it on.
PROBE_DEFAULT_STRENGTH = 0.1


def zero_shot(embeddings: Features, prompts: Mapping[str, Features], scale: float) -> Probabilities:
    """softmax(`scale` * cosine) of embeddings [N, D] with the anchors of the classes, in the order of `prompts`.

    `scale` is the inverse of the temperature that the contrast was trained with (Radford et al., "Learning transferable
    visual models from natural language supervision", ICML 2021, figure 3).
    """
    return cosine_softmax(unit(embeddings) @ class_anchors(prompts).T, scale)


def cosine_softmax(cosines: Features, scale: float) -> Probabilities:
    """softmax(`scale` * cosine) over the classes, [N, K]."""
    return softmax(scale * np.asarray(cosines, np.float64), axis=1)


def class_anchors(prompts: Mapping[str, Features]) -> NDArray[np.float64]:
    """One direction a class, [K, D]: the mean of its normalised prompt embeddings [P, D], normalised again.

    Radford et al., section 3.1.4.
    """
    return unit(np.stack([unit(texts).mean(axis=0) for texts in prompts.values()]))


def linear_probe(
    train_x: Features, train_y: Classes, test_x: Features, num_classes: int, seed: int, train_subjects: ArrayLike
) -> Probabilities:
    """Probabilities of each test embedding by logistic regression on standardised training embeddings.

    Its strength C is the one of `PROBE_STRENGTHS` that does best on a quarter of the training subjects when fitted on
    the others, drawn by `seed`. With one training subject there is nothing to choose it on: `PROBE_DEFAULT_STRENGTH`.
    A class that no training sample is of has probability 0.

    Raises:
        UsageError: there are no training embeddings.
    """
    check_training(train_y)
    x, y, subjects = np.asarray(train_x, np.float64), np.asarray(train_y), np.asarray(train_subjects)
    strength = _choose_strength(x, y, subjects, seed)
    known, found = _fit_predict(x, y, np.asarray(test_x, np.float64), strength)
    probabilities = np.zeros((len(test_x), num_classes))
    probabilities[:, known] = found
    return probabilities


def cross_predict(
    fit_predict: Callable[[Classes, Classes], Probabilities], subjects: Sequence[str], folds: int = 5
) -> Probabilities:
    """Predict all samples, each by a model that was fitted on other subjects only.

    Args:
        fit_predict: takes the indices to fit on and the indices to predict; gives a row for each of the latter.
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
    held = [np.isin(whose, split_subjects(f"kfold:{folds}:{fold}", subjects).test) for fold in range(folds)]
    parts = [fit_predict(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in held]
    predicted = np.empty((len(whose), *parts[0].shape[1:]), parts[0].dtype)
    for mask, part in zip(held, parts, strict=True):
        predicted[mask] = part
    return predicted


def _choose_strength(x: Features, y: Classes, subjects: NDArray, seed: int) -> float:
    if len(np.unique(subjects)) < 2:
        return PROBE_DEFAULT_STRENGTH
    splitter = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=seed)
    fit, held = next(splitter.split(x, y, groups=subjects))
    accuracies = []
    for strength in PROBE_STRENGTHS:
        known, found = _fit_predict(x[fit], y[fit], x[held], strength)
        accuracies.append(np.mean(known[found.argmax(axis=1)] == y[held]))
    return PROBE_STRENGTHS[int(np.argmax(accuracies))]


def _fit_predict(
    train_x: Features, train_y: Classes, test_x: Features, strength: float
) -> tuple[Classes, Probabilities]:
    """The classes that occur in training, [C], and their probabilities, [N, C]."""
    if len(np.unique(train_y)) == 1:
        # Logistic regression needs two classes; with one, its answer is known.
        return train_y[:1], np.ones((len(test_x), 1))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    # The fits are small: on a busy machine, threads that wait for each other made them thirty times slower than one.
    with threadpool_limits(1), warnings.catch_warnings():
        # A probe that is stopped early on separable data predicts as well as one that is not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(train_x, train_y).classes_, probe.predict_proba(test_x)
