"""Validation while a run trains: kNN accuracy on training subjects that are held out.

The model never learns from the held-out subjects. Labels are used for this number alone, and the test side of the split
is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from smile_pipe.model.recipes import RecipeModel
from smile_pipe.pipeline.classifiers.knn import knn
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.integrity import no_readable_sample
from smile_pipe.pipeline.sequences.sampling import evenly_spaced
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.embedding import embed_rows
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.sample_table import rows_at

# Limits that keep validation a small part of an epoch for data of any size.
MAX_FIT, MAX_SCORED = 1024, 512


@dataclass(frozen=True)
class Validation:
    """Samples of a validation.

    Attributes:
        fit: Samples whose labels vote.
        scored: Samples that are classified.
    """

    fit: Sequence[SampleRow]
    scored: Sequence[SampleRow]

    @classmethod
    def from_rows(cls, training: Sequence[SampleRow], held_out: Sequence[SampleRow]) -> "Validation":
        """Take at most `MAX_FIT` and `MAX_SCORED` samples, evenly spaced."""
        return cls(_thin_out(training, MAX_FIT), _thin_out(held_out, MAX_SCORED))

    def accuracy(self, model: RecipeModel, dataset: FaceDataset, directions_v3: Tensor, worker: Worker) -> float:
        """Share of the scored samples that their neighbours classify correctly (`smile_pipe.pipeline.classifiers.knn`).

        All ranks must call this together, and get the same result.

        Raises:
            BadSampleError: A sample is damaged; if damaged samples are skipped, all samples of a side are.
        """
        rows = [*self.fit, *self.scored]
        embedded, was_read = embed_rows(model, dataset, rows, directions_v3, worker)
        x, is_good = embedded.cpu().numpy(), was_read.cpu().numpy()
        classes = sorted({row.expression for row in rows})
        y = np.array([classes.index(row.expression) for row in rows])
        in_fit = np.arange(len(rows)) < len(self.fit)
        fit, scored = in_fit & is_good, ~in_fit & is_good
        for side in (fit, scored):
            if not side.any():
                raise no_readable_sample(dataset.shards, len(rows))
        predicted = knn(x[fit], y[fit], x[scored], len(classes)).argmax(axis=1)
        return float((predicted == y[scored]).mean())


def _thin_out(rows: Sequence[SampleRow], max_num: int) -> list[SampleRow]:
    return rows_at(rows, evenly_spaced(range(len(rows)), min(len(rows), max_num)))
