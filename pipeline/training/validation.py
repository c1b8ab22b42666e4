"""Validation: how well training subjects that were held back are told apart, seen while a run trains.

Goes in: the training subjects and a fraction; then the model as it is, and samples. Comes out: who is held back, and
the kNN accuracy. Promised: held-back subjects are drawn by a hash of their names, the same on every machine; they are
never learned from; their labels, and those of the others, are looked at for this number alone; the test side is not
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from model.systems import Recipe
from pipeline.heads.neighbours import knn
from pipeline.sequences.settings import evenly
from pipeline.training.assignment import Worker
from pipeline.training.damage import nothing_left
from pipeline.training.embedding import embed_rows
from pipeline.training.faces import FaceReader
from shards.errors import UsageError
from shards.index import IndexRow
from shards.splits import split_subjects

# So that it stays a small part of an epoch, however large the data are.
MAX_FIT, MAX_SCORED = 1024, 512


def hold_back(subjects: Sequence[str], fraction: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The subjects to learn from and those that are held back, drawn as `holdout` of `shards.splits` does.

    Raises:
        UsageError: one of the two would be none.
    """
    if not fraction:
        return tuple(subjects), ()
    try:
        split = split_subjects(f"holdout:{fraction:.9f}", subjects)
    except UsageError:
        left = "none to learn from" if round(fraction * len(subjects)) else "none to hold back"
        raise UsageError(
            f"--validation {fraction:g}: of {len(subjects)} training subjects that leaves {left}"
        ) from None
    return split.train, split.test


@dataclass(frozen=True)
class Validation:
    """The samples whose neighbours vote, and those that are voted on."""

    fit: Sequence[IndexRow]
    scored: Sequence[IndexRow]

    @classmethod
    def of(cls, learned: Sequence[IndexRow], held_back: Sequence[IndexRow]) -> "Validation":
        """At most so many of each side, evenly over its samples."""
        return cls(_evenly(learned, MAX_FIT), _evenly(held_back, MAX_SCORED))

    def accuracy(self, model: Recipe, reader: FaceReader, directions_v3: Tensor, worker: Worker) -> float:
        """The share of the scored samples that their neighbours name rightly (`pipeline.heads.neighbours`).

        All ranks must ask together, and get the same.

        Raises:
            BadSampleError: a sample is damaged; where these are skipped, all of a side are.
        """
        rows = [*self.fit, *self.scored]
        embedded, is_there = embed_rows(model, reader, rows, directions_v3, worker)
        x, good = embedded.cpu().numpy(), is_there.cpu().numpy()
        classes = sorted({row.expression for row in rows})
        y = np.array([classes.index(row.expression) for row in rows])
        fits = np.arange(len(rows)) < len(self.fit)
        fit, scored = fits & good, ~fits & good
        for side in (fit, scored):
            if not side.any():
                raise nothing_left(reader.shards, len(rows))
        predicted = knn(x[fit], y[fit], x[scored], len(classes)).argmax(axis=1)
        return float((predicted == y[scored]).mean())


def _evenly(rows: Sequence[IndexRow], most: int) -> list[IndexRow]:
    return [rows[number] for number in evenly(range(len(rows)), min(len(rows), most))]
