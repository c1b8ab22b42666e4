"""Predict the scored samples by each protocol that needs only embeddings.

Protocols with a fit use the samples to fit on; if every sample is scored, they use folds by subject. A subject is never
predicted by a model that was fitted on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smile_pipe.pipeline.classifiers.caption_vote import caption_vote
from smile_pipe.pipeline.classifiers.knn import ClassIndices, Features, Probabilities, knn
from smile_pipe.pipeline.classifiers.probe import LinearProbe, fit_probe
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax, zero_shot
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.splits import split_subjects

NUM_FOLDS = 5
"""Number of folds in which all samples are predicted, if every sample is scored."""


@dataclass(frozen=True)
class ProtocolPredictor:
    """Predicts class probabilities of the scored samples.

    Attributes:
        model: the trained model.
        data: samples to fit on and to score.
        prompts: embeddings [P, D] of each class's prompts, for `zero-shot`.
        anchor_classes: the class of each anchor of the model's classifier, for `classifier`.
        seed: random seed of the probe.
        votes: embeddings [C, D] of the captions of training and their votes [C, K] for the classes, for `caption-vote`.
        voters: texts of these captions.
    """

    model: TrainedModel
    data: EmbeddingSet
    prompts: Mapping[str, Features]
    anchor_classes: tuple[str, ...]
    seed: int
    votes: tuple[Features, Probabilities] | None = None
    voters: Sequence[str] = ()

    def probabilities(self, protocol: Protocol, x: Features) -> Probabilities:
        """Predict the scored samples.

        Args:
            protocol: any but `finetune`.
            x: fused embeddings of all samples of `data`, [N, D], from all views or some.

        Returns:
            Probabilities of the classes of the M scored samples, [M, K].

        Raises:
            UsageError: there is no sample, or no other subject, to fit on.
            ValueError: the protocol is `finetune`, which needs images, or `caption-vote` without `votes`.
        """
        data = self.data
        if protocol == "zero-shot":
            return zero_shot(x[data.num_train :], self.prompts, self.model.scale)
        if protocol == "classifier":
            return self._classify(x[data.num_train :])
        if protocol == "caption-vote":
            if self.votes is None:
                raise ValueError("caption-vote needs the captions of the run")
            return caption_vote(x[data.num_train :], *self.votes, self.model.scale)
        if protocol == "finetune":
            raise ValueError("finetune learns from images, not from embeddings")

        if protocol == "probe" and self.probe and x is data.x:
            return self.probe.probabilities(x[data.num_train :], len(data.classes))

        def fit_predict(fit: ClassIndices, predict: ClassIndices) -> Probabilities:
            if protocol == "knn":
                return knn(x[fit], data.y[fit], x[predict], len(data.classes))
            return self._fit_probe(x, fit).probabilities(x[predict], len(data.classes))

        if data.num_train == 0:
            return out_of_fold_predict(fit_predict, data.subjects.tolist())
        return fit_predict(np.arange(data.num_train), np.arange(data.num_train, len(data.y)))

    @cached_property
    def probe(self) -> LinearProbe | None:
        """The probe that is fitted on all samples to fit on; None if every sample is scored, in folds."""
        return self._fit_probe(self.data.x, np.arange(self.data.num_train)) if self.data.num_train else None

    def _fit_probe(self, x: Features, fit: ClassIndices) -> LinearProbe:
        return fit_probe(x[fit], self.data.y[fit], self.data.subjects[fit], self.seed)

    def _classify(self, x: Features) -> Probabilities:
        # Classes that are no candidates cannot be correct, and take part in no softmax.
        known = [number for number, name in enumerate(self.anchor_classes) if name in self.data.classes]
        columns = [self.data.classes.index(self.anchor_classes[number]) for number in known]
        probabilities = np.zeros((len(x), len(self.data.classes)))
        cosines = self.model.classify(np.asarray(x, np.float32))[:, known]
        probabilities[:, columns] = cosine_softmax(cosines, self.model.scale)
        return probabilities


def num_fold_subjects(num_subjects: int) -> int:
    """Return the number of subjects that each of the folds of `out_of_fold_predict` fits on, at least."""
    return num_subjects - -(-num_subjects // min(NUM_FOLDS, num_subjects))


def out_of_fold_predict(
    fit_predict: Callable[[ClassIndices, ClassIndices], Probabilities], subjects: Sequence[str], folds: int = NUM_FOLDS
) -> Probabilities:
    """Predict all samples in folds by subject, each sample by a model that was fitted on other subjects.

    Args:
        fit_predict: fits on the samples of the first indices, and returns a row for each of the second indices.
        subjects: subject of each sample, [N].
        folds: number of folds; at most one per subject is used.

    Returns:
        The rows of `fit_predict` for all N samples, in order.

    Raises:
        UsageError: all samples are of one subject.
    """
    subject_of, num_subjects = np.asarray(subjects), len(set(subjects))
    if num_subjects < 2:
        raise UsageError(
            f"{pluralize(len(subject_of), 'sample')} of {pluralize(num_subjects, 'subject')} cannot be scored by knn "
            "or probe: these fit on some subjects and predict others; give shards with at least two subjects"
        )
    folds = min(folds, num_subjects)
    masks = [np.isin(subject_of, split_subjects(f"kfold:{folds}:{fold}", subjects).test) for fold in range(folds)]
    parts = [fit_predict(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in masks]
    predicted = np.empty((len(subject_of), *parts[0].shape[1:]), parts[0].dtype)
    for mask, part in zip(masks, parts, strict=True):
        predicted[mask] = part
    return predicted
