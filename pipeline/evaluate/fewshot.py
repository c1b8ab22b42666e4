"""Few shots: classes that are defined by their words, by K example faces of other subjects, or by both.

There is no training. Where the subjects' neutral scans are given, they are subtracted, of examples and of scored
faces; which scan is the neutral one is a label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.examples import example_anchors, subtract_neutral
from smile_pipe.pipeline.classifiers.knn import ClassIndices, Features, Probabilities, unit_vectors
from smile_pipe.pipeline.common.expressions import NEUTRAL
from smile_pipe.pipeline.evaluate.answers import Answers, score_part
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet
from smile_pipe.pipeline.evaluate.protocols import out_of_fold_predict
from smile_pipe.pipeline.runs.question_scores import QuestionPart, QuestionScore

NUM_DRAWS = 5
"""Number of drawn sets of examples, whose mean is scored."""

WAYS = ("word", "examples", "word and examples")


@dataclass(frozen=True)
class FewshotTask:
    """Faces to classify, of the samples to fit on and those to score.

    Attributes:
        name: what the classes are.
        x: unit vectors, [N, D]; only those with `is_used` are read.
        words: embeddings [P, D] of the prompts of each class that is a candidate; empty where there is no text.
        candidates: class indices of the candidates.
        is_used: whether a sample is an example or scored, [N].
    """

    name: str
    x: NDArray[np.float64]
    words: Mapping[int, Features]
    candidates: tuple[int, ...]
    is_used: NDArray[np.bool_]


def fewshot(data: EmbeddingSet, prompts: Mapping[str, Features], num_examples: int, seed: int) -> Answers:
    """Score classes that are defined by words, by examples, and by both.

    Examples are of the samples to fit on; if every sample is scored, of the subjects of the other folds.

    Args:
        data: samples to fit on and to score.
        prompts: embeddings [P, D] of each class's prompts; empty for a run without text.
        num_examples: number of examples per class, of different subjects as far as there are.
        seed: random seed of the draws of examples and of the intervals.
    """
    parts = list[QuestionPart]()
    for task in fewshot_tasks(data, prompts):
        scored = np.flatnonzero(task.is_used[data.num_train :])
        truth, subjects = data.y[data.num_train :][scored], data.subjects[data.num_train :][scored]
        for way in WAYS:
            if way != "examples" and not task.words:
                continue
            draws = 1 if way == "word" else NUM_DRAWS
            hits = [
                predict_fewshot(data, task, way, num_examples, (seed, draw)).argmax(axis=1)[scored] == truth
                for draw in range(draws)
            ]
            mean_hits, chance = np.mean(hits, axis=0), 1 / len(task.candidates)
            parts.append(score_part(task.name, way, mean_hits, chance, subjects, seed))
    return Answers(QuestionScore(parts=tuple(parts)))


def fewshot_tasks(data: EmbeddingSet, prompts: Mapping[str, Features]) -> list[FewshotTask]:
    """Return the tasks: all classes; and, of subjects with a neutral scan, all other classes, plain and subtracted."""
    classes = data.classes
    words = {number: prompts[name] for number, name in enumerate(classes) if name in prompts}
    everything = tuple(range(len(classes)))
    unit = unit_vectors(data.x)
    tasks = [FewshotTask("all classes", unit, words, everything, np.ones(len(data.y), bool))]
    if NEUTRAL not in classes:
        return tasks
    neutral = classes.index(NEUTRAL)
    subtracted, has_neutral = _without_neutral(data, neutral)
    is_used = has_neutral & (data.y != neutral)
    candidates = tuple(number for number in everything if number != neutral)
    if not is_used[data.num_train :].any() or (data.num_train and not is_used[: data.num_train].any()):
        return tasks
    directions = (
        {number: subtract_neutral(words[number], words[neutral]) for number in candidates if number in words}
        if neutral in words
        else {}
    )
    return [
        *tasks,
        FewshotTask("all but neutral", unit, {n: words[n] for n in candidates if n in words}, candidates, is_used),
        FewshotTask("all but neutral, neutral scan subtracted", subtracted, directions, candidates, is_used),
    ]


def predict_fewshot(
    data: EmbeddingSet, task: FewshotTask, way: str, num_examples: int, seed: Sequence[int]
) -> Probabilities:
    """Return the cosines of the scored samples with the anchors of the classes, [M, K]; -1 for other classes.

    Args:
        data: samples to fit on and to score.
        task: the task.
        way: one of `WAYS`.
        num_examples: number of examples per class.
        seed: random seed of the draw of examples.
    """
    num_classes = len(data.classes)

    def fit_predict(fit: ClassIndices, predict: ClassIndices) -> Probabilities:
        drawn = draw_examples(data, fit[task.is_used[fit]], task.candidates, num_examples, seed)
        known = [
            c for c in task.candidates if (way != "examples" and c in task.words) or (way != "word" and len(drawn[c]))
        ]
        cosines = np.full((len(predict), num_classes), -1.0)
        if known:
            anchors = example_anchors(
                [task.words.get(c) if way != "examples" else None for c in known],
                [task.x[drawn[c]] if way != "word" else None for c in known],
            )
            cosines[:, known] = task.x[predict] @ anchors.T
        return cosines

    if data.num_train == 0:
        return out_of_fold_predict(fit_predict, data.subjects.tolist())
    return fit_predict(np.arange(data.num_train), np.arange(data.num_train, len(data.y)))


def draw_examples(
    data: EmbeddingSet, numbers: ClassIndices, candidates: Sequence[int], num_examples: int, seed: Sequence[int]
) -> dict[int, ClassIndices]:
    """Draw the examples of each class; a second one of a subject only after one of every other subject.

    Args:
        data: the samples.
        numbers: numbers of the samples to draw from.
        candidates: class indices.
        num_examples: number of examples per class; fewer where a class has fewer samples.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    drawn = {}
    for c in candidates:
        order = rng.permutation(numbers[data.y[numbers] == c])
        counts: dict[str, int] = {}
        ranks = []
        for subject in data.subjects[order].tolist():
            ranks.append(counts.get(subject, 0))
            counts[subject] = ranks[-1] + 1
        drawn[c] = order[np.argsort(ranks, kind="stable")][:num_examples]
    return drawn


def _without_neutral(data: EmbeddingSet, neutral: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the samples with their subject's neutral scans subtracted, [N, D], and whether there are any, [N]."""
    x, has_neutral = np.zeros(data.x.shape), np.zeros(len(data.y), bool)
    for subject in np.unique(data.subjects):
        rows = np.flatnonzero(data.subjects == subject)
        own = rows[data.y[rows] == neutral]
        if len(own):
            x[rows], has_neutral[rows] = subtract_neutral(data.x[rows], data.x[own]), True
    return x, has_neutral
