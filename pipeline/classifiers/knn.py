"""The kNN classifier on embeddings, for evaluation and for validation in training; array types of all classifiers."""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.shards.errors import UsageError

ClassIndices = NDArray[np.int64]
"""Class indices of N samples, [N]."""
Features = NDArray[np.floating]
"""Embeddings of N samples, [N, D]."""
Probabilities = NDArray[np.float64]
"""Probabilities of K classes for N samples, [N, K]."""

# A neighbour's vote has the weight exp(cosine / 0.07): Wu et al., "Unsupervised feature learning via non-parametric
# instance discrimination", CVPR 2018, section 3.4.
NEIGHBOUR_TEMPERATURE = 0.07
# Rows of the cosine matrix that are computed at a time.
_BLOCK = 1024


def knn(train_x: Features, train_y: ClassIndices, test_x: Features, num_classes: int, k: int = 20) -> Probabilities:
    """Classify by a vote of the nearest training embeddings by cosine.

    A vote has the weight exp(cosine / `NEIGHBOUR_TEMPERATURE`).

    Args:
        train_x: training embeddings, [N, D].
        train_y: their class indices, [N].
        test_x: embeddings to classify, [M, D].
        num_classes: number of classes K.
        k: number of neighbours; all training embeddings if there are fewer.

    Returns:
        Shares of the votes, float64 [M, K].

    Raises:
        UsageError: there are no training embeddings.
    """
    require_training_samples(train_y)
    train_unit, k = unit_vectors(train_x), min(k, len(train_x))
    one_hot = np.eye(num_classes)[train_y]
    shares = np.empty((len(test_x), num_classes))
    for start in range(0, len(test_x), _BLOCK):
        cosine = unit_vectors(test_x[start : start + _BLOCK]) @ train_unit.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(cosine, nearest, axis=1) / NEIGHBOUR_TEMPERATURE)
        votes = np.einsum("nk,nkc->nc", weights, one_hot[nearest])
        shares[start : start + _BLOCK] = votes / weights.sum(axis=1, keepdims=True)
    return shares


def unit_vectors(x: Features) -> NDArray[np.float64]:
    """Scale vectors [..., D] to length one, in float64."""
    x64 = np.asarray(x, np.float64)
    # A vector of zeros stays zero, at the same distance from all others, instead of NaN.
    return x64 / np.maximum(np.linalg.norm(x64, axis=-1, keepdims=True), 1e-12)


def require_training_samples(train_y: ClassIndices) -> None:
    """Raise UsageError if there are no training samples."""
    if len(train_y) == 0:
        raise UsageError(
            "there are no training samples to fit on: the training part of the split is empty; give another split"
        )
