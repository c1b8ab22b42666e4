"""Samples in the joint space while a run trains: all ranks embed them together.

Goes in: the model as it is, and rows. Comes out: their embeddings, on every rank the same. Promised: the model sees
them as when it is evaluated, and is left as it was.

Validation: how well training subjects that were held back are told apart, seen while a run trains.

Goes in: the training subjects and a fraction; then the model as it is, and samples. Comes out: who is held back, and
the kNN accuracy. Promised: held-back subjects are drawn by a hash of their names, the same on every machine; they are
never learned from; their labels, and those of the others, are looked at for this number alone; the test side is not
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.pipeline.classifiers.knn import knn
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.integrity import nothing_left
from smile_pipe.pipeline.sequences.sampling import evenly_spaced
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.shards.index import IndexRow

BATCH_SIZE = 64


def embed_rows(
    model: ContrastiveModel, reader: FaceDataset, rows: Sequence[IndexRow], directions_v3: Tensor, worker: Worker
) -> tuple[Tensor, Tensor]:
    """Fused embeddings of rows, float32 [N, D], and whether there is one, bool [N]: not of what the reader skips.

    Raises:
        BadSampleError: see `FaceDataset.batches`.
    """
    device = directions_v3.device
    if dist.is_initialized():
        # A tower's running statistics are each rank's own; those of the first are saved, and are meant.
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    numbers = {row.key: number for number, row in enumerate(rows)}
    own = rows[worker.rank :: worker.world_size]
    was_training = model.training
    model.eval()
    # The last column counts: a row that was skipped has 0 there.
    embedded = torch.zeros(len(rows), model.config.joint_dim + 1, device=device)
    with torch.inference_mode():
        for batch in reader.batches([own[start : start + BATCH_SIZE] for start in range(0, len(own), BATCH_SIZE)]):
            views = batch.views.to(device).float() / 255
            fused = model.embed_faces(views, directions_v3, batch.moments.to(device))[1].float()
            at = [numbers[key] for key in batch.keys]
            embedded[at, :-1], embedded[at, -1] = fused, 1.0
    if dist.is_initialized():
        dist.all_reduce(embedded)
    model.train(was_training)
    return embedded[:, :-1], embedded[:, -1] > 0


# So that it stays a small part of an epoch, however large the data are.
MAX_FIT, MAX_SCORED = 1024, 512


@dataclass(frozen=True)
class Validation:
    """The samples whose neighbours vote, and those that are voted on."""

    fit: Sequence[IndexRow]
    scored: Sequence[IndexRow]

    @classmethod
    def of(cls, learned: Sequence[IndexRow], held_back: Sequence[IndexRow]) -> "Validation":
        """At most so many of each side, evenly over its samples."""
        return cls(_evenly(learned, MAX_FIT), _evenly(held_back, MAX_SCORED))

    def accuracy(self, model: ContrastiveModel, reader: FaceDataset, directions_v3: Tensor, worker: Worker) -> float:
        """The share of the scored samples that their neighbours name rightly (`smile_pipe.pipeline.classifiers.knn`).

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
    return [rows[number] for number in evenly_spaced(range(len(rows)), min(len(rows), most))]
