"""What each process of a training is told before it begins: the job, the same for all, and which of them it is."""

from dataclasses import dataclass

import torch

from smile_pipe.model.config import Precision, RecipeConfig, RunTextSource
from smile_pipe.pipeline.data.temporal import TemporalRead
from smile_pipe.pipeline.train.config import TrainConfig


@dataclass(frozen=True)
class Job:
    """What the driver tells each worker.

    Attributes:
        subjects: those that are learned from.
        validation_subjects: those that are held back from learning, to see how they are told apart meanwhile.
        metadata: whether half of the prompts also say who is shown.
    """

    config: TrainConfig
    recipe: RecipeConfig
    channel: str
    subjects: tuple[str, ...]
    text_source: RunTextSource
    temporal: TemporalRead
    precision: Precision
    validation_subjects: tuple[str, ...] = ()
    metadata: bool = False


@dataclass(frozen=True)
class Worker:
    """Which of the workers this process is, and what it computes on."""

    rank: int
    world_size: int
    device: torch.device
