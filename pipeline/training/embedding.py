"""Samples in the joint space while a run trains: all ranks embed them together.

Goes in: the model as it is, and rows. Comes out: their embeddings, on every rank the same. Promised: the model sees
them as when it is evaluated, and is left as it was.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from model.systems import Recipe
from pipeline.training.assignment import Worker
from pipeline.training.faces import FaceReader
from shards.index import IndexRow

BATCH_SIZE = 64


def embed_rows(
    model: Recipe, reader: FaceReader, rows: Sequence[IndexRow], directions_v3: Tensor, worker: Worker
) -> tuple[Tensor, Tensor]:
    """Fused embeddings of rows, float32 [N, D], and whether there is one, bool [N]: not of what the reader skips.

    Raises:
        BadSampleError: see `FaceReader.batches`.
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
