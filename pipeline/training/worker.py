"""The one place where the training loop meets Ray Train."""

import os
from typing import Any

import ray.train
import torch

from pipeline.training.assignment import Job, Worker
from pipeline.training.damage import BadSampleError
from pipeline.training.loop import train
from pipeline.training.scratch import JobScratch
from shards.places import write_atomically


def train_worker(config: dict[str, Any]) -> None:
    """Run the loop as the worker that Ray made this process; after a failure, go on from the last checkpoint.

    A damaged sample is noted for the driver, and no worker begins again after that.
    """
    job: Job = config["job"]
    context, scratch = ray.train.get_context(), JobScratch(job.config.out)
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if scratch.bad_sample(world_size):
        return
    # Ray sets this to the cores that it granted; torch may have counted them before.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        train(job, Worker(rank, world_size, ray.train.torch.get_device()))
    except BadSampleError as error:
        write_atomically(scratch.note_path(rank), str(error).encode())
        if world_size > 1:
            # The others wait for this one, and nothing but its failure ends them; all return as soon as they are back.
            raise
