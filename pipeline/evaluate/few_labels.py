"""Few labels: accuracy where a small share of the subjects to fit on has labels."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.knn import ClassIndices, Probabilities
from smile_pipe.pipeline.classifiers.probe import fit_probe
from smile_pipe.pipeline.evaluate.answers import Answers, score_part
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet
from smile_pipe.pipeline.evaluate.protocols import num_fold_subjects, out_of_fold_predict
from smile_pipe.pipeline.runs.question_scores import QuestionPart, QuestionScore

PERCENTS = (1, 5, 10, 100)
NUM_DRAWS = 5
"""Number of drawn sets of labelled subjects, whose mean is scored: which subjects have labels matters where few do."""

Finetune = Callable[[ClassIndices], Probabilities]
"""Fine-tunes on samples, given by their numbers, and predicts the scored ones."""


def few_labels(data: EmbeddingSet, seed: int, finetune: Finetune | None = None) -> Answers:
    """Score the probe, and fine-tuning on request, with labels of 1, 5, 10 and 100 % of the subjects.

    If there are no samples to fit on, the probe is fitted in folds, with labels of a share of each fold's subjects.
    Fine-tuning uses the first draw only.

    Args:
        data: samples to fit on and to score.
        seed: random seed of the draws, of the probe and of the intervals.
        finetune: fine-tunes on samples to fit on; None to leave fine-tuning out.
    """
    num_subjects = len(set(data.subjects[: data.num_train].tolist()))
    if data.num_train == 0:
        num_subjects = num_fold_subjects(len(set(data.subjects.tolist())))
    truth, subjects = data.y[data.num_train :], data.subjects[data.num_train :]
    parts = list[QuestionPart]()
    tuned = list[QuestionPart]()
    chance = 1 / len(data.classes)
    for percent, count in label_counts(num_subjects).items():
        name = f"{percent} % of the subjects ({count} of {num_subjects})"
        draws = 1 if percent == 100 else NUM_DRAWS
        hits = [predict_few(data, percent, seed, draw).argmax(axis=1) == truth for draw in range(draws)]
        parts.append(score_part("probe", name, np.mean(hits, axis=0), chance, subjects, seed, position=percent))
        if finetune is not None:
            fit = labelled(data.subjects[: data.num_train], percent, seed, 0)
            hit = finetune(fit).argmax(axis=1) == truth
            tuned.append(score_part("fine-tuning", name, hit, chance, subjects, seed, position=percent))
    return Answers(QuestionScore(parts=(*parts, *tuned)))


def label_counts(num_subjects: int) -> dict[int, int]:
    """Return the number of labelled subjects, at least one, by percentage; equal numbers are left out."""
    counts = {percent: num_labelled(num_subjects, percent) for percent in PERCENTS}
    return {
        percent: count
        for percent, count in counts.items()
        if percent == 100 or (count < num_subjects and count not in [counts[p] for p in PERCENTS if p < percent])
    }


def num_labelled(num_subjects: int, percent: int) -> int:
    """Return the number of subjects with labels: the share, at least one."""
    return max(1, round(num_subjects * percent / 100))


def labelled(subjects: Sequence[str] | NDArray[np.str_], percent: int, seed: int, draw: int) -> ClassIndices:
    """Return the numbers of the samples of drawn subjects.

    Args:
        subjects: subject of each sample, [N].
        percent: percentage of the subjects to draw.
        seed, draw: seeds of the draw.
    """
    names = np.unique(subjects)
    chosen = np.random.default_rng((seed, draw)).permutation(names)[: num_labelled(len(names), percent)]
    return np.flatnonzero(np.isin(subjects, chosen))


def predict_few(data: EmbeddingSet, percent: int, seed: int, draw: int) -> Probabilities:
    """Predict the scored samples by a probe with labels of some subjects.

    Args:
        data: samples to fit on and to score.
        percent: percentage of labelled subjects.
        seed, draw: seeds of the draw of subjects; `seed` is also that of the probe.
    """

    def fit_predict(fit: ClassIndices, predict: ClassIndices) -> Probabilities:
        known = fit[labelled(data.subjects[fit], percent, seed, draw)]
        probe = fit_probe(data.x[known], data.y[known], data.subjects[known], seed)
        return probe.probabilities(data.x[predict], len(data.classes))

    if data.num_train == 0:
        return out_of_fold_predict(fit_predict, data.subjects.tolist())
    return fit_predict(np.arange(data.num_train), np.arange(data.num_train, len(data.y)))
