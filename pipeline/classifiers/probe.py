"""The linear probe: logistic regression on frozen embeddings, the field's measure of what they hold.

Goes in: embeddings float [N, D], classes int [N] (indices), subjects [N]. Comes out: a `LinearProbe`, a matrix and a
bias, which names embeddings without what it was fitted with, and is kept in a file. Promised: the same input gives the
same probe; reading a file runs no code from it.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from smile_pipe.pipeline.classifiers.knn import Classes, Features, Probabilities, check_training

# Strongest regularisation first: where two do equally well, the probe takes the simpler one.
PROBE_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
# The C of a probe that has no second subject to choose it on.
PROBE_DEFAULT_STRENGTH = 0.1
_ABOUT = "smile_pipe"


@dataclass(frozen=True)
class LinearProbe:
    """softmax(x W^T + b) over the classes that it was fitted on.

    Attributes:
        classes: their indices, int [C].
        weight, bias: float64 [C, D] and [C], of embeddings as they are: standardising them is part of both.
    """

    classes: Classes
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def probabilities(self, x: Features, num_classes: int) -> Probabilities:
        """Of `num_classes` classes, for embeddings [N, D]; of one that it was not fitted on, 0."""
        probabilities = np.zeros((len(x), num_classes))
        probabilities[:, self.classes] = softmax(np.asarray(x, np.float64) @ self.weight.T + self.bias, axis=1)
        return probabilities

    def to_bytes(self, names: Sequence[str], run: str) -> bytes:
        """As a safetensors file, with the names of all classes and the fingerprint of the run that it is of."""
        arrays = {"classes": self.classes, "weight": self.weight, "bias": self.bias}
        # The format takes the memory as it lies, and scikit-learn's lies by columns.
        ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # One entry: of several, safetensors writes now one first and now another, and equal probes differ in bytes.
        return save(ordered, {_ABOUT: json.dumps({"names": list(names), "run": run})})


def read_probe(content: bytes) -> tuple[LinearProbe, tuple[str, ...], str]:
    """A probe from its file, with the names of all classes and the fingerprint of the run that it is of.

    Raises:
        ValueError: it is no such file.
    """
    try:
        arrays = load(content)
        size = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_ABOUT])
        names, run = tuple(about["names"]), str(about["run"])
        probe = LinearProbe(arrays["classes"], arrays["weight"], arrays["bias"])
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"holds no linear probe ({error})") from None
    num = len(probe.classes)
    if (
        probe.weight.shape[:1] != (num,)
        or probe.bias.shape != (num,)
        or not set(probe.classes) <= set(range(len(names)))
    ):
        raise ValueError("holds a linear probe whose parts do not fit each other")
    return probe, names, run


def fit_probe(x: Features, y: Classes, subjects: ArrayLike, seed: int) -> LinearProbe:
    """Logistic regression on standardised embeddings.

    Its strength C is the one of `PROBE_STRENGTHS` that does best on a quarter of the subjects when fitted on the
    others, drawn by `seed`. With one subject there is nothing to choose it on: `PROBE_DEFAULT_STRENGTH`.

    Raises:
        UsageError: there are no embeddings.
    """
    check_training(y)
    x, y = np.asarray(x, np.float64), np.asarray(y)
    return _fit(x, y, _choose_strength(x, y, np.asarray(subjects), seed))


def _choose_strength(x: Features, y: Classes, subjects: NDArray, seed: int) -> float:
    if len(np.unique(subjects)) < 2:
        return PROBE_DEFAULT_STRENGTH
    splitter = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=seed)
    fit, held = next(splitter.split(x, y, groups=subjects))
    num_classes = int(y.max()) + 1
    accuracies = []
    for strength in PROBE_STRENGTHS:
        found = _fit(x[fit], y[fit], strength).probabilities(x[held], num_classes)
        accuracies.append(np.mean(found.argmax(axis=1) == y[held]))
    return PROBE_STRENGTHS[int(np.argmax(accuracies))]


def _fit(x: Features, y: Classes, strength: float) -> LinearProbe:
    classes = np.unique(y)
    if len(classes) == 1:
        # Logistic regression needs two classes; with one, its answer is known.
        return LinearProbe(classes, np.zeros((1, x.shape[1])), np.zeros(1))
    scaler, regression = StandardScaler().fit(x), LogisticRegression(C=strength, max_iter=500)
    # The fits are small: on a busy machine, threads that wait for each other made them thirty times slower than one.
    with threadpool_limits(1), warnings.catch_warnings():
        # A probe that is stopped early on separable data predicts as well as one that is not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scaler.transform(x), y)
    weight, bias = regression.coef_, regression.intercept_
    if len(classes) == 2:
        # Of two classes it tells the log odds of the second.
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    weight = weight / scaler.scale_
    return LinearProbe(classes, weight, bias - weight @ scaler.mean_)
