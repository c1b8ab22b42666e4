"""Inputs of each training process: the job, equal for all, and the rank of the process."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from smile_pipe.model.config import Precision, RecipeConfig, RunTextSource
from smile_pipe.pipeline.captions.knowledge import Knowledge
from smile_pipe.pipeline.data.temporal import TemporalRead
from smile_pipe.pipeline.train.config import TrainConfig


@dataclass(frozen=True)
class Job:
    """A training job; every `auto` of its options is resolved.

    Attributes:
        config: The options.
        recipe: Configuration of the model.
        channels: Channels of the input images.
        subjects: Subjects to learn from.
        text_source: Where prompts come from.
        temporal: What is read of sequences.
        precision: Precision of the towers.
        learning_rates: Peak learning rates; see `TrainOptions.learning_rates`.
        validation_subjects: Training subjects that are held out and scored after every epoch.
        metadata: Whether half of the prompts also describe the person.
        partitions: Parts that the samples are divided into; see `smile_pipe.shards.sampler`.
        knowledge: Prototypes of expressions, if the text contains captions.
    """

    config: TrainConfig
    recipe: RecipeConfig
    channels: tuple[str, ...]
    subjects: tuple[str, ...]
    text_source: RunTextSource
    temporal: TemporalRead
    precision: Precision
    learning_rates: Mapping[str, float]
    validation_subjects: tuple[str, ...] = ()
    metadata: bool = False
    partitions: int = 1
    knowledge: Knowledge | None = None


@dataclass(frozen=True)
class Worker:
    """Rank and device of one training process."""

    rank: int
    world_size: int
    device: torch.device
