"""The training job without Ray, in this process: for places that no other process sees, such as memory://."""

import torch

from pipeline.training.assignment import Job, Worker
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from shards.errors import UsageError


def check_in_process(config: TrainConfig) -> None:
    """Raise UsageError where this process alone is not enough for what is asked."""
    if config.num_workers > 1:
        raise UsageError(f"--num-workers {config.num_workers}: only this process sees memory://; leave it out")
    if config.use_gpu and not torch.cuda.is_available():
        raise UsageError("--use-gpu: there is no GPU here")


def train_in_process(job: Job) -> None:
    """Run the loop as the only worker."""
    train(job, Worker(0, 1, torch.device("cuda" if job.config.use_gpu else "cpu")))
