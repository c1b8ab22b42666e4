"""Predictions where everyone is scored: by models of other subjects.

Goes in: what fits on some samples and predicts others. Comes out: predictions of all samples. Promised: nothing is
fitted on a subject that it predicts.

Predictions of the scored samples, by any protocol that needs no more than embeddings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smile_pipe.pipeline.classifiers.knn import Classes, Features, Probabilities, knn
from smile_pipe.pipeline.classifiers.probe import LinearProbe, fit_probe
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax, zero_shot
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.splits import split_subjects


def out_of_fold_predict(
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
            f"{pluralize(len(whose), 'sample')} of {pluralize(num_subjects, 'subject')} cannot be scored by knn or "
            "probe: these fit on some subjects and predict others, so give shards with at least two subjects"
        )
    folds = min(folds, num_subjects)
    held = [np.isin(whose, split_subjects(f"kfold:{folds}:{fold}", subjects).test) for fold in range(folds)]
    parts = [fit_predict(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in held]
    predicted = np.empty((len(whose), *parts[0].shape[1:]), parts[0].dtype)
    for mask, part in zip(held, parts, strict=True):
        predicted[mask] = part
    return predicted


@dataclass(frozen=True)
class ProtocolPredictor:
    """What predictions are made with.

    Attributes:
        data: samples to fit on and to score.
        prompts: embeddings of each class's prompts, for `zero-shot`.
        anchored: the classes that a classifier numbers its anchors by, for `classifier`.
        seed: of the probe.
    """

    model: TrainedModel
    data: EmbeddingSet
    prompts: Mapping[str, Features]
    anchored: tuple[str, ...]
    seed: int

    def probabilities(self, protocol: Protocol, x: Features) -> Probabilities:
        """Of the classes, for the scored samples, [M, K]; `x` [N, D] are fused embeddings of all samples of `data`.

        Raises:
            UsageError: there is nothing, or no other subject, to fit on.
            ValueError: `finetune`, which needs images.
        """
        data = self.data
        if protocol == "zero-shot":
            return zero_shot(x[data.num_train :], self.prompts, self.model.scale)
        if protocol == "classifier":
            return self._classify(x[data.num_train :])
        if protocol == "finetune":
            raise ValueError("finetune learns from images, not from embeddings")

        if protocol == "probe" and self.probe and x is data.x:
            return self.probe.probabilities(x[data.num_train :], len(data.classes))

        def fit_predict(fit: Classes, predict: Classes) -> Probabilities:
            if protocol == "knn":
                return knn(x[fit], data.y[fit], x[predict], len(data.classes))
            return self._fit_probe(x, fit).probabilities(x[predict], len(data.classes))

        if data.num_train == 0:
            return out_of_fold_predict(fit_predict, data.subjects.tolist())
        return fit_predict(np.arange(data.num_train), np.arange(data.num_train, len(data.y)))

    @cached_property
    def probe(self) -> LinearProbe | None:
        """The probe of all samples to fit on; None where everyone is scored, each by a probe of others."""
        return self._fit_probe(self.data.x, np.arange(self.data.num_train)) if self.data.num_train else None

    def _fit_probe(self, x: Features, fit: Classes) -> LinearProbe:
        return fit_probe(x[fit], self.data.y[fit], self.data.subjects[fit], self.seed)

    def _classify(self, x: Features) -> Probabilities:
        # Only among the classes that can be right.
        known = [number for number, name in enumerate(self.anchored) if name in self.data.classes]
        numbers = [self.data.classes.index(self.anchored[number]) for number in known]
        probabilities = np.zeros((len(x), len(self.data.classes)))
        cosines = self.model.classify(np.asarray(x, np.float32))[:, known]
        probabilities[:, numbers] = cosine_softmax(cosines, self.model.scale)
        return probabilities
