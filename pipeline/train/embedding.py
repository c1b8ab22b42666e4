"""Embedding of samples while a run trains: all ranks share the work, and each gets all results."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from smile_pipe.model.recipes import RecipeModel
from smile_pipe.model.transfer import to_device
from smile_pipe.pipeline.common.finite_steps import DivergedError
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.prefetch import prefetch
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.shards.index import SampleRow

BATCH_SIZE = 64


def embed_rows(
    model: RecipeModel, dataset: FaceDataset, rows: Sequence[SampleRow], directions_v3: Tensor, worker: Worker
) -> tuple[Tensor, Tensor]:
    """Compute fused embeddings of samples in evaluation mode; all ranks must call this together.

    Args:
        model: The model; its mode is restored.
        dataset: Reads the samples.
        rows: The samples, in the same order on all ranks.
        directions_v3: Unit vectors from the face to the cameras, [V, 3], on the device.
        worker: This process.

    Returns:
        Embeddings float32 [N, D], and whether each sample was read, bool [N]: false for skipped samples.

    Raises:
        BadSampleError: See `FaceDataset.batches`.
        DivergedError: An embedding is not finite.
    """
    device = directions_v3.device
    if dist.is_initialized():
        # Each rank has its own running statistics in the towers. A checkpoint holds those of rank 0, so use these.
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    positions = {row.key: position for position, row in enumerate(rows)}
    own = rows[worker.rank :: worker.world_size]
    was_training = model.training
    model.eval()
    # The last column is 1 for samples that were read, and 0 for skipped ones.
    embedded = torch.zeros(len(rows), model.embed_dim + 1, device=device)
    with torch.inference_mode():
        groups = [own[start : start + BATCH_SIZE] for start in range(0, len(own), BATCH_SIZE)]
        for batch in prefetch(dataset.batches(groups), device):
            views = to_device(batch.views, device).float() / 255
            fused = model.embed_faces(views, directions_v3, batch.frames.to(device))[1].float()
            at = to_device(torch.tensor([positions[key] for key in batch.keys]), device)
            embedded[at, :-1], embedded[at, -1] = fused, 1.0
    if dist.is_initialized():
        dist.all_reduce(embedded)
    model.train(was_training)
    if not embedded.isfinite().all():
        raise DivergedError("training has diverged: embeddings are not finite; lower `learning_rate`")
    return embedded[:, :-1], embedded[:, -1] > 0
