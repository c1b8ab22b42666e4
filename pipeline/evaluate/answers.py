"""Answers to questions: their share of correct ones with intervals over subjects, and examples to look at."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_pipe.pipeline.classifiers.metrics import NUM_DRAWS
from smile_pipe.pipeline.common.statistics import TAILS, draw_with_replacement
from smile_pipe.pipeline.evaluate.word_image import print_word
from smile_pipe.pipeline.reports.contact_sheet import draw_sheet
from smile_pipe.pipeline.runs.question_scores import QuestionPart, QuestionScore
from smile_pipe.shards.images import as_rgb, decode_image
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardSet

NUM_SHOWN = 5
"""Number of correct answers, and of wrong ones, that a picture shows."""


@dataclass(frozen=True)
class Example:
    """One question and its answer, to look at.

    Attributes:
        label: the question in words.
        faces: numbers of the scored samples to show, by the caption of their column.
        printed: words to print into some of the images, by the same captions.
    """

    label: str
    faces: Mapping[str, int]
    printed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """The answers to all questions of one kind.

    Attributes:
        score: shares of correct answers.
        examples: some questions, correctly answered ones before others; empty where there is nothing to see.
    """

    score: QuestionScore
    examples: tuple[Example, ...] = ()


def score_part(
    group: str,
    name: str,
    correct: ArrayLike,
    chance: ArrayLike,
    subjects: ArrayLike,
    seed: int,
    baseline: ArrayLike | None = None,
    position: float | None = None,
) -> QuestionPart:
    """Score some questions.

    Args:
        group, name: see `QuestionPart`.
        correct: share of correct answers to each question (0 or 1; between for a mean over draws), [Q].
        chance: chance of a random answer to be correct, of each question [Q] or of all.
        subjects: subject whose face is asked about, [Q].
        seed: random seed of the interval.
        baseline: like `correct`, of a simpler way to answer.
        position: see `QuestionPart`.
    """
    values = np.asarray(correct, np.float64)
    return QuestionPart(
        group=group,
        name=name,
        num_questions=len(values),
        accuracy=float(values.mean()),
        interval=mean_interval(values, subjects, seed),
        chance=float(np.mean(np.asarray(chance, np.float64))),
        baseline=None if baseline is None else float(np.mean(np.asarray(baseline, np.float64))),
        position=position,
    )


def mean_interval(values: NDArray[np.float64], subjects: ArrayLike, seed: int) -> tuple[float, float] | None:
    """Estimate the 95 % interval of a mean by the percentile bootstrap over subjects (`metrics.subject_intervals`).

    Args:
        values: [Q].
        subjects: subject of each value, [Q].
        seed: random seed of the draws.

    Returns:
        The interval; None for a single subject.
    """
    names, subject_of = np.unique(np.asarray(subjects), return_inverse=True)
    if len(names) < 2:
        return None
    sums, counts = np.bincount(subject_of, values), np.bincount(subject_of)
    times = draw_with_replacement(len(names), len(names), NUM_DRAWS, np.random.default_rng(seed))
    low, high = np.quantile((times @ sums) / (times @ counts), TAILS).tolist()
    return low, high


def select_examples(correct: NDArray[np.bool_], seed: int) -> list[int]:
    """Draw up to `NUM_SHOWN` correct answers, then as many wrong ones; returns their numbers."""
    rng = np.random.default_rng(seed)
    drawn = (rng.permutation(np.flatnonzero(mask))[:NUM_SHOWN] for mask in (correct, ~correct))
    return [number for numbers in drawn for number in numbers.tolist()]


def examples_png(title: str, shards: ShardSet, rows: Sequence[SampleRow], examples: Sequence[Example]) -> bytes:
    """Draw one example per row, each face as the first image of its sample.

    Args:
        title: heading of the picture.
        shards: shards of the samples.
        rows: the scored samples.
        examples: the questions.

    Returns:
        The image as PNG.
    """
    cells = [
        {name: _first_image(shards, rows[n], example.printed.get(name, "")) for name, n in example.faces.items()}
        for example in examples
    ]
    buffer = io.BytesIO()
    draw_sheet(title, [example.label for example in examples], cells).save(buffer, "png")
    return buffer.getvalue()


def _first_image(shards: ShardSet, row: SampleRow, word: str) -> NDArray[np.uint8]:
    sample = shards.read(row)
    view, name = sample.record.images[0]
    image = as_rgb(decode_image(name, sample.images[view, name]))
    return print_word(image, word) if word else image
