"""The linear probe: logistic regression on frozen embeddings, the standard measure of their quality.

A fitted probe is a matrix and a bias. It is stored as safetensors, so reading a file runs no code from it. The same
input gives the same probe.
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

from smile_pipe.pipeline.classifiers.knn import ClassIndices, Features, Probabilities, require_training_samples

# Values of C, strongest regularisation first: of equally good ones, the first is taken.
PROBE_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
# The C for a single subject, where none can be selected on another one.
PROBE_DEFAULT_STRENGTH = 0.1
_METADATA_KEY = "smile_pipe"


@dataclass(frozen=True)
class LinearProbe:
    """softmax(x W^T + b) over the C classes that occurred in the fit.

    Attributes:
        classes: indices of these classes, int64 [C].
        weight, bias: float64 [C, D] and [C]; the standardisation of embeddings is folded into both.
    """

    classes: ClassIndices
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def probabilities(self, x: Features, num_classes: int) -> Probabilities:
        """Return probabilities of `num_classes` classes for embeddings [N, D]; 0 for classes outside of the fit."""
        probabilities = np.zeros((len(x), num_classes))
        probabilities[:, self.classes] = softmax(np.asarray(x, np.float64) @ self.weight.T + self.bias, axis=1)
        return probabilities

    def to_bytes(self, names: Sequence[str], run: str) -> bytes:
        """Return a safetensors file.

        Args:
            names: names of all classes, also of those outside of the fit.
            run: fingerprint of the run whose embeddings it was fitted on.
        """
        arrays = {"classes": self.classes, "weight": self.weight, "bias": self.bias}
        # safetensors ignores strides, and arrays of scikit-learn are in column order.
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # A single metadata entry: safetensors writes several in random order, and equal probes would differ in bytes.
        return save(contiguous, {_METADATA_KEY: json.dumps({"names": list(names), "run": run})})


def read_probe(content: bytes) -> tuple[LinearProbe, tuple[str, ...], str]:
    """Read a file of `LinearProbe.to_bytes`.

    Returns:
        The probe, the names of all classes, and the fingerprint of the run.

    Raises:
        ValueError: the file does not contain a linear probe.
    """
    try:
        arrays = load(content)
        header_size = int.from_bytes(content[:8], "little")
        metadata = json.loads(json.loads(content[8 : 8 + header_size])["__metadata__"][_METADATA_KEY])
        names, run = tuple(metadata["names"]), str(metadata["run"])
        probe = LinearProbe(arrays["classes"], arrays["weight"], arrays["bias"])
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"holds no linear probe ({error})") from None
    num_classes = len(probe.classes)
    if (
        probe.weight.shape[:1] != (num_classes,)
        or probe.bias.shape != (num_classes,)
        or not set(probe.classes) <= set(range(len(names)))
    ):
        raise ValueError("holds a linear probe with inconsistent shapes")
    return probe, names, run


def fit_probe(x: Features, y: ClassIndices, subjects: ArrayLike, seed: int) -> LinearProbe:
    """Fit a logistic regression on standardised embeddings.

    Its strength C is the one of `PROBE_STRENGTHS` with the best accuracy on a random quarter of the subjects when
    fitted on the others; for a single subject it is `PROBE_DEFAULT_STRENGTH`.

    Args:
        x: embeddings, [N, D].
        y: class indices, [N].
        subjects: subject of each sample, [N].
        seed: random seed of the selection of C.

    Raises:
        UsageError: there are no embeddings.
    """
    require_training_samples(y)
    x, y = np.asarray(x, np.float64), np.asarray(y)
    return _fit(x, y, _select_strength(x, y, np.asarray(subjects), seed))


def _select_strength(x: Features, y: ClassIndices, subjects: NDArray, seed: int) -> float:
    if len(np.unique(subjects)) < 2:
        return PROBE_DEFAULT_STRENGTH
    splitter = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=seed)
    fit, validation = next(splitter.split(x, y, groups=subjects))
    num_classes = int(y.max()) + 1
    accuracies = []
    for strength in PROBE_STRENGTHS:
        probabilities = _fit(x[fit], y[fit], strength).probabilities(x[validation], num_classes)
        accuracies.append(np.mean(probabilities.argmax(axis=1) == y[validation]))
    return PROBE_STRENGTHS[int(np.argmax(accuracies))]


def _fit(x: Features, y: ClassIndices, strength: float) -> LinearProbe:
    classes = np.unique(y)
    if len(classes) == 1:
        # Logistic regression needs two classes; a single one has probability 1.
        return LinearProbe(classes, np.zeros((1, x.shape[1])), np.zeros(1))
    scaler, regression = StandardScaler().fit(x), LogisticRegression(C=strength, max_iter=500)
    # The fits are small: on a busy machine, synchronisation made several threads thirty times slower than one.
    with threadpool_limits(1), warnings.catch_warnings():
        # On separable data, a fit that is stopped early predicts as well as a converged one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scaler.transform(x), y)
    weight, bias = regression.coef_, regression.intercept_
    if len(classes) == 2:
        # For two classes, scikit-learn returns the log odds of the second one.
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    weight = weight / scaler.scale_
    return LinearProbe(classes, weight, bias - weight @ scaler.mean_)
