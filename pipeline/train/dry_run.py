"""What a training would do, without doing it: data, model, and an estimate of time and memory from a few real steps."""

import time
from statistics import median

import psutil
import torch

from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.data.selection import select_training_rows
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.loop import open_dataset
from smile_pipe.pipeline.train.run_identity import default_out, run_fingerprint
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.sampler import steps_per_epoch

NUM_STEPS = 4
"""Number of steps that are timed; the first one is left out, because it allocates memory."""


class TrainPlan(Frozen):
    """What a training would do.

    Attributes:
        out: directory of the run.
        fingerprint: fingerprint of the run.
        recipe: the recipe.
        losses: weights of its losses.
        arch: architecture of the towers.
        num_parameters: number of parameters that are trained.
        channels: channels of the input images.
        text_source: where prompts come from.
        precision: precision of the towers.
        num_subjects: number of subjects to learn from.
        num_validation_subjects: number of other subjects, who are held out.
        num_samples: number of samples to learn from.
        num_steps: number of steps of all epochs.
        joined_batch_size: number of samples of all workers in a step.
        step_seconds: estimated time of a step of one worker on this machine; None where it cannot be measured here.
        total_seconds: the same, of all steps.
        memory_bytes: memory of this process after the measured steps, in bytes; None as above.
    """

    out: str
    fingerprint: str
    recipe: str
    losses: dict[str, float]
    arch: str
    num_parameters: int
    channels: tuple[str, ...]
    text_source: str
    precision: str
    num_subjects: int
    num_validation_subjects: int
    num_samples: int
    num_steps: int
    joined_batch_size: int
    step_seconds: float | None
    total_seconds: float | None
    memory_bytes: int | None


def plan(config: TrainConfig, named_out: bool = True) -> TrainPlan:
    """Plan a training; nothing is written.

    A worker with a GPU is not measured: its time is that of the GPU, which this process may not have.

    Args:
        config: the options.
        named_out: whether the user named the directory of the run.

    Raises:
        UsageError: see `smile_pipe.pipeline.train.stage.run`.
        BadSampleError: a sample is damaged.
    """
    shards, split, job = prepare(config, in_process=False)
    torch.manual_seed(config.seed)
    model = build_model(job.recipe)
    model.freeze_unreached(with_text=job.text_source != "none", with_sequences=job.temporal != "none")
    rows = select_training_rows(shards, split.train, config.where)
    num_steps = config.epochs * steps_per_epoch(len(rows), config.joined_batch_size)
    seconds = None
    if not config.use_gpu:
        worker = Worker(0, 1, torch.device("cpu"))
        dataset = open_dataset(job, model, worker.device)
        train_step = TrainStep(job, worker, model, dataset, rows)
        train_step.load_checkpoint(RunDirectory(config.out / "none"))
        train_step.start_epoch(is_resumed=False)
        groups = [rows.at(slice(None))[: config.batch_size]] * NUM_STEPS
        times = []
        for number, batch in enumerate(dataset.batches(groups)):
            started = time.perf_counter()
            train_step.step(batch, 0, number, 1.0)
            times.append(time.perf_counter() - started)
        seconds = median(times[1:])
    return TrainPlan(
        out=str(config.out if named_out else default_out(config, shards, job)),
        fingerprint=run_fingerprint(config, shards, job),
        recipe=config.recipe,
        losses=dict(job.recipe.weights),
        arch=config.arch,
        num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        channels=job.channels,
        text_source=job.text_source,
        precision=job.precision,
        num_subjects=len(split.train),
        num_validation_subjects=len(job.validation_subjects),
        num_samples=len(rows),
        num_steps=num_steps,
        joined_batch_size=config.joined_batch_size,
        step_seconds=seconds,
        total_seconds=None if seconds is None else seconds * num_steps,
        memory_bytes=None if seconds is None else psutil.Process().memory_info().rss,
    )
