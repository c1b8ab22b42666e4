"""The training loop: what each worker of the training job runs, from the first step to the last.

The whole story in order: build the model, take up the last checkpoint if asked, then for each epoch read batches,
augment, embed, compute the losses over all ranks, step; after each epoch, a checkpoint. Order and augmentation are
functions of (seed, epoch, step), so a run that was stopped goes on as if it had not been. Where damaged samples are
skipped, batches are smaller, all losses are taken over what the ranks have together, and all take the same steps.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from blake3 import blake3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from model.recipes import SmileVLM, build_model
from model.towers import build_tokenizer
from pipeline.filters import SampleFilter
from pipeline.training.augment import augment, cosine_schedule, generator_for, mirror_order
from pipeline.training.config import TrainConfig
from pipeline.training.faces import Batch, FaceReader, Reading
from pipeline.training.run_directory import RunDirectory
from pipeline.training.sequences import TemporalRead
from shards.index import IndexRow
from shards.manifest import TextSource
from shards.reader import ShardSet
from shards.sampler import Sampler

LOG_EVERY = 5
MAX_GRADIENT_NORM = 5.0
BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class Job:
    """What the driver tells each worker."""

    config: TrainConfig
    channel: str
    subjects: tuple[str, ...]
    text_source: TextSource
    temporal: TemporalRead


@dataclass(frozen=True)
class Place:
    """Where this worker stands among all."""

    rank: int
    world_size: int
    device: torch.device


def train(job: Job, place: Place) -> None:
    """Train to the end, leaving checkpoints and metrics in the run's directory."""
    config, run = job.config, RunDirectory(job.config.out)
    torch.manual_seed(config.seed)
    model = build_model(config.recipe_config())
    _freeze_unreached(model, job)
    model.to(place.device)
    reader, sampler = _data(job, place, model)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=BETAS, fused=True
    )
    step = _take_up(run, model, optimizer)
    if place.rank == 0:
        run.rewind_metrics(step)
    trained = DistributedDataParallel(model) if dist.is_initialized() and place.world_size > 1 else model
    rows = rows_of(reader.shards, job.subjects, config.where)
    stepper = _Stepper(job, place, model, trained, optimizer, reader.directions(rows).to(place.device))
    num_steps = config.epochs * sampler.num_steps
    log = _Log(run, place, num_steps, config.batch_size * place.world_size)
    for epoch in range(step // sampler.num_steps, config.epochs):
        groups = ([rows[n] for n in numbers] for numbers in sampler.batches(epoch, step % sampler.num_steps))
        for batch in reader.batches(groups, spares=rows):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * cosine_schedule(step, num_steps, config.warmup)
            losses = stepper.step(batch, epoch, step)
            step += 1
            log.step(step, epoch, losses, optimizer.param_groups[0]["lr"], model)
        if config.on_bad_shard == "skip":
            _share_skipped(reader, rows, place, run)
        if place.rank == 0:
            run.save(step, model.state_dict(), {"optimizer": optimizer.state_dict(), "step": step}, config.keep)
    log.close()


class _Stepper:
    """One optimisation step."""

    def __init__(
        self,
        job: Job,
        place: Place,
        model: SmileVLM,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        directions: Tensor,
    ) -> None:
        self.job, self.place, self.model, self.trained, self.optimizer = job, place, model, trained, optimizer
        self.directions = directions
        self.order = mirror_order(directions.cpu())
        self.tokenizer = build_tokenizer(job.config.arch)

    def step(self, batch: Batch, epoch: int, step: int) -> dict[str, Tensor]:
        """Loss terms of the batch, after the weights have moved."""
        device, config = self.place.device, self.job.config
        generator = generator_for(config.seed, epoch, step, self.place.rank)
        views = batch.views.to(device, non_blocking=True).float() / 255
        views = augment(views, self.job.channel, self.order, generator, batch.moments)
        tokens = concepts = None
        if self.job.text_source != "none":
            tokens = self.tokenizer(batch.texts).to(device)
            concepts = torch.tensor([concept_number(concept) for concept in batch.concepts], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embeddings = self.trained(views, self.directions, tokens, batch.moments.to(device))
        losses = self.model.losses(embeddings, concepts)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return losses


class _Log:
    """Writes metrics; only rank 0 does."""

    def __init__(self, run: RunDirectory, place: Place, num_steps: int, batch_size: int) -> None:
        self.active = place.rank == 0
        self.num_steps, self.batch_size = num_steps, batch_size
        self.started, self.first_step = time.monotonic(), -1
        if self.active:
            self.file = open(run.metrics_path, "a")  # noqa: SIM115 - held for the whole run
            self.board = SummaryWriter(str(run.tensorboard_path))

    def step(self, step: int, epoch: int, losses: dict[str, Tensor], lr: float, model: SmileVLM) -> None:
        """Note a step; a row is written every few."""
        if not self.active:
            return
        if self.first_step < 0:
            self.first_step = step
        if step % LOG_EVERY and step != self.num_steps:
            return
        rate = (step - self.first_step) * self.batch_size / max(time.monotonic() - self.started, 1e-9)
        row: dict[str, Any] = {"step": step, "epoch": epoch, "num_steps": self.num_steps}
        row |= {f"loss_{name}": round(value.item(), 6) for name, value in losses.items()}
        row |= {
            "learning_rate": lr,
            "temperature": round(1 / model.scale.item(), 6),
            "samples_per_second": round(rate, 1),
        }
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name, value in row.items():
            if name not in ("step", "num_steps"):
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.active:
            self.file.close()
            self.board.close()


def _data(job: Job, place: Place, model: SmileVLM) -> tuple[FaceReader, Sampler]:
    config = job.config
    shards = ShardSet.open(config.shards)
    reading = Reading(job.channel, model.towers.image_size, job.temporal, config.max_frames)
    reader = FaceReader(shards, reading, config.cache_mb << 20, config.on_bad_shard)
    names = [row.shard for row in rows_of(shards, job.subjects, config.where)]
    sampler = Sampler(names, config.batch_size, config.seed, place.world_size, place.rank)
    return reader, sampler


def rows_of(shards: ShardSet, subjects: Sequence[str], where: str | None) -> list[IndexRow]:
    """The samples to learn from.

    Raises:
        UsageError: `where` is no condition over their labels, or holds for none of them.
    """
    return SampleFilter.model_validate({"where": where}).apply(shards.of_subjects(subjects))


def _share_skipped(reader: FaceReader, rows: Sequence[IndexRow], place: Place, run: RunDirectory) -> None:
    """Let all ranks know what any of them has left out in this epoch, in which they read all samples between them."""
    left_out = torch.tensor([row.key in reader.skipped for row in rows], dtype=torch.uint8, device=place.device)
    if dist.is_initialized():
        dist.all_reduce(left_out, dist.ReduceOp.MAX)
    reader.skipped.update(row.key for row, is_out in zip(rows, left_out.tolist(), strict=True) if is_out)
    if place.rank == 0 and reader.skipped:
        run.note_skipped(reader.skipped)


def concept_number(concept: str) -> int:
    """A number for a concept, the same in every process: 63 bits of its BLAKE3 digest."""
    return int.from_bytes(blake3(concept.encode()).digest(length=8), "little") >> 1


def _freeze_unreached(model: SmileVLM, job: Job) -> None:
    """Keep what no loss reaches out of the optimiser, of clipping and of the gradient exchange."""
    for name, parameter in model.named_parameters():
        for_text = (
            name.startswith(("project_text", "fusion."))
            or name == "log_scale"
            or (name.startswith("towers.clip.") and not name.startswith("towers.clip.visual."))
        )
        for_sequences = name.startswith("temporal.")
        if (for_text and job.text_source == "none") or (for_sequences and job.temporal == "none"):
            parameter.requires_grad_(False)


def _parameter_groups(model: nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    yield {"params": [p for p in learned if p.ndim > 1], "weight_decay": weight_decay}
    yield {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0}


def _take_up(run: RunDirectory, model: SmileVLM, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint, if there is one; returns its step."""
    checkpoints = run.checkpoints()
    if not checkpoints:
        return 0
    model.load_state_dict(checkpoints[-1].load_model())
    state = checkpoints[-1].load_state()
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
