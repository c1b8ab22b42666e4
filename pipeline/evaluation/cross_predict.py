"""Predictions where everyone is scored: by models of other subjects.

Goes in: what fits on some samples and predicts others. Comes out: predictions of all samples. Promised: nothing is
fitted on a subject that it predicts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.heads.neighbours import Classes, Probabilities
from shards.errors import UsageError
from shards.splits import split_subjects
from shards.words import counted


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
            f"{counted(len(whose), 'sample')} of {counted(num_subjects, 'subject')} cannot be scored by knn or probe: "
            "these fit on some subjects and predict others, so give shards with at least two subjects"
        )
    folds = min(folds, num_subjects)
    held = [np.isin(whose, split_subjects(f"kfold:{folds}:{fold}", subjects).test) for fold in range(folds)]
    parts = [fit_predict(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in held]
    predicted = np.empty((len(whose), *parts[0].shape[1:]), parts[0].dtype)
    for mask, part in zip(held, parts, strict=True):
        predicted[mask] = part
    return predicted
