"""The one place where the training loop meets Ray Train."""

import os
from typing import Any

import ray.train
import torch

from pipeline.training.loop import Job, Place, train


def train_worker(config: dict[str, Any]) -> None:
    """Run the loop as the worker that Ray made this process; after a failure, go on from the last checkpoint."""
    job: Job = config["job"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    # Ray sets this to the cores that it granted; torch may have counted them before.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train(job, Place(context.get_world_rank(), context.get_world_size(), device))
