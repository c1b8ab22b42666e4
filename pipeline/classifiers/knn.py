"""Nearest neighbours in the joint space: the votes by which training and evaluation name faces.

Goes in: embeddings float [N, D] and classes int [N] (indices). Comes out: shares of votes, float64 [M, K].
"""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.shards.errors import UsageError

Classes = NDArray[np.int64]
Features = NDArray[np.floating]
Probabilities = NDArray[np.float64]

# The vote of a neighbour is exp(cosine / 0.07): Wu et al., "Unsupervised feature learning via non-parametric instance
# discrimination", CVPR 2018, section 3.4.
NEIGHBOUR_TEMPERATURE = 0.07
# Rows of the cosine table that are held at a time.
_BLOCK = 1024


def knn(train_x: Features, train_y: Classes, test_x: Features, num_classes: int, k: int = 20) -> Probabilities:
    """Shares of the votes of each test embedding's `k` nearest training embeddings, or of all where there are fewer.

    Nearness is the cosine, and a vote weighs exp(cosine / `NEIGHBOUR_TEMPERATURE`).

    Raises:
        UsageError: there are no training embeddings.
    """
    check_training(train_y)
    train_unit, k = unit(train_x), min(k, len(train_x))
    one_hot = np.eye(num_classes)[train_y]
    shares = np.empty((len(test_x), num_classes))
    for start in range(0, len(test_x), _BLOCK):
        cosine = unit(test_x[start : start + _BLOCK]) @ train_unit.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(cosine, nearest, axis=1) / NEIGHBOUR_TEMPERATURE)
        votes = np.einsum("nk,nkc->nc", weights, one_hot[nearest])
        shares[start : start + _BLOCK] = votes / weights.sum(axis=1, keepdims=True)
    return shares


def unit(x: Features) -> NDArray[np.float64]:
    """Vectors [..., D] at length one."""
    x64 = np.asarray(x, np.float64)
    # An all-zero embedding keeps its zero, and is equally far from everything, rather than becoming NaN.
    return x64 / np.maximum(np.linalg.norm(x64, axis=-1, keepdims=True), 1e-12)


def check_training(train_y: Classes) -> None:
    """Raise UsageError where there is nothing to fit on."""
    if len(train_y) == 0:
        raise UsageError("there are no training samples to fit on: the training part of the split is empty")
