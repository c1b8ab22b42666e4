"""The training loop: what each worker of the training job runs, from the first step to the last.

The whole story in order: build the model, take up the last checkpoint if asked, then for each epoch read batches,
augment, embed, compute the losses over all ranks, step; after each epoch, and within one if asked, a checkpoint. Order
and augmentation are functions of (seed, epoch, step), so a run that was stopped goes on as if it had not been. Where
damaged samples are skipped, batches are smaller, all losses are taken over what the ranks have together, and all take
the same steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.config import Precision, RecipeConfig, RunTextSource
from model.recipes import build_model
from model.systems import Recipe
from pipeline.filters import SampleFilter
from pipeline.training.augment import augment, cosine_schedule, generator_for, mirror_order
from pipeline.training.config import TrainConfig
from pipeline.training.faces import Batch, FaceReader, Reading
from pipeline.training.run_directory import RunDirectory
from pipeline.training.run_log import RunLog
from pipeline.training.sequences import TemporalRead
from pipeline.training.words import BatchWords
from shards.index import IndexRow
from shards.reader import ShardSet
from shards.sampler import Sampler

MAX_GRADIENT_NORM = 5.0
BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Job:
    """What the driver tells each worker."""

    config: TrainConfig
    recipe: RecipeConfig
    channel: str
    subjects: tuple[str, ...]
    text_source: RunTextSource
    temporal: TemporalRead
    precision: Precision


@dataclass(frozen=True)
class Worker:
    """Which of the workers this process is, and what it computes on."""

    rank: int
    world_size: int
    device: torch.device


def train(job: Job, worker: Worker) -> None:
    """Train to the end, leaving checkpoints and metrics in the run's directory."""
    config, run = job.config, RunDirectory(job.config.out)
    torch.manual_seed(config.seed)
    model = build_model(job.recipe)
    model.freeze_unreached(with_text=job.text_source != "none", with_sequences=job.temporal != "none")
    model.to(worker.device)
    reader, sampler = _data(job, worker, model)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=BETAS, fused=True
    )
    rows = rows_of(reader.shards, job.subjects, config.where)
    stepper = _Stepper(job, worker, model, optimizer, reader, rows)
    step = stepper.take_up(run)
    if worker.rank == 0:
        run.rewind_metrics(step)
    num_steps = config.epochs * sampler.num_steps
    with RunLog(run, worker.rank, num_steps, config.batch_size * worker.world_size) as log:
        for epoch in range(step // sampler.num_steps, config.epochs):
            stepper.begin_epoch(is_new=step % sampler.num_steps == 0)
            groups = ([rows[n] for n in numbers] for numbers in sampler.batches(epoch, step % sampler.num_steps))
            for batch in reader.batches(groups, spares=rows):
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * cosine_schedule(step, num_steps, config.warmup)
                losses = stepper.step(batch, epoch, step)
                step += 1
                log.step(step, epoch, losses, optimizer.param_groups[0]["lr"], model.learned_scalars)
                if config.save_every and step % config.save_every == 0 and step % sampler.num_steps:
                    stepper.save(run, log, step)
            if config.on_bad_shard == "skip":
                _share_skipped(reader, rows, worker, run)
            stepper.save(run, log, step)


class _Stepper:
    """What moves the weights, and all that has to be saved of it."""

    def __init__(
        self,
        job: Job,
        worker: Worker,
        model: Recipe,
        optimizer: torch.optim.Optimizer,
        reader: FaceReader,
        rows: Sequence[IndexRow],
    ) -> None:
        self.job, self.worker, self.model, self.optimizer = job, worker, model, optimizer
        self.directions = reader.directions(rows).to(worker.device)
        self.order = mirror_order(self.directions.cpu())
        self.words = BatchWords(job.text_source, model, reader, rows, job.config.seed)

    def take_up(self, run: RunDirectory) -> int:
        """Load the newest checkpoint, if there is one; returns its step."""
        step = 0
        if checkpoints := run.checkpoints():
            self.model.load_state_dict(checkpoints[-1].load_model())
            state = checkpoints[-1].load_state()
            self.optimizer.load_state_dict(state["optimizer"])
            self.words.load_state(state)
            step = int(state["step"])
        several = dist.is_initialized() and self.worker.world_size > 1
        self.trained: nn.Module = DistributedDataParallel(self.model) if several else self.model
        return step

    def save(self, run: RunDirectory, log: RunLog, step: int) -> None:
        """Write a checkpoint, from which a run goes on with the same numbers."""
        # A run that goes on from a checkpoint must find the rows of all steps before it.
        log.publish()
        if self.worker.rank == 0:
            state = {"optimizer": self.optimizer.state_dict(), "step": step, **self.words.state()}
            run.save(step, self.model.state_dict(), state, self.job.config.keep)

    def begin_epoch(self, is_new: bool) -> None:
        """Find pseudo-labels anew; an epoch that is gone on with keeps those that it began with."""
        if is_new:
            self.words.begin_epoch(self.model, self.directions, self.worker.rank, self.worker.world_size)

    def step(self, batch: Batch, epoch: int, step: int) -> dict[str, Tensor]:
        """Loss terms of the batch, after the weights have moved."""
        device, config = self.worker.device, self.job.config
        generator = generator_for(config.seed, epoch, step, self.worker.rank)
        views = batch.views.to(device, non_blocking=True).float() / 255
        views = augment(views, self.job.channel, self.order, generator, batch.moments)
        tokens, targets = self.words.of(batch, epoch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.job.precision == "bfloat16"):
            embeddings = self.trained(views, self.directions, tokens, batch.moments.to(device))
        losses = self.model.losses(embeddings, targets)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return losses


def _data(job: Job, worker: Worker, model: Recipe) -> tuple[FaceReader, Sampler]:
    config = job.config
    shards = ShardSet.open(config.shards)
    reading = Reading(job.channel, model.towers.image_size, job.temporal, config.max_frames)
    reader = FaceReader(shards, reading, config.cache_mb << 20, config.on_bad_shard)
    names = [row.shard for row in rows_of(shards, job.subjects, config.where)]
    sampler = Sampler(names, config.batch_size, config.seed, worker.world_size, worker.rank)
    return reader, sampler


def rows_of(shards: ShardSet, subjects: Sequence[str], where: str | None) -> list[IndexRow]:
    """The samples to learn from.

    Raises:
        UsageError: `where` is no condition over their labels, or holds for none of them.
    """
    return SampleFilter.model_validate({"where": where}).apply(shards.of_subjects(subjects))


def _share_skipped(reader: FaceReader, rows: Sequence[IndexRow], worker: Worker, run: RunDirectory) -> None:
    """Let all ranks know what any of them has left out in this epoch, in which they read all samples between them."""
    left_out = torch.tensor([row.key in reader.skipped for row in rows], dtype=torch.uint8, device=worker.device)
    if dist.is_initialized():
        dist.all_reduce(left_out, dist.ReduceOp.MAX)
    reader.skipped.update(row.key for row, is_out in zip(rows, left_out.tolist(), strict=True) if is_out)
    if worker.rank == 0 and reader.skipped:
        run.note_skipped(reader.skipped)


def _parameter_groups(model: nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    yield {"params": [p for p in learned if p.ndim > 1], "weight_decay": weight_decay}
    yield {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0}
