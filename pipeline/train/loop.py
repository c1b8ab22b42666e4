"""The training loop: what each worker of the training job runs, from the first step to the last.

The whole story in order: build the model, take up the last checkpoint if asked, then for each epoch read batches, and
step; after each epoch, and within one if asked, a checkpoint, and a look at held-back subjects where there are any.
Order and augmentation are functions of (seed, epoch, step), so a run that was stopped goes on as if it had not been.
Where damaged samples are skipped, batches are smaller, all losses are taken over what the ranks have together, and all
take the same steps.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from smile_pipe.model.objectives import ContrastiveModel, build_model
from smile_pipe.pipeline.common.optimization import cosine_schedule
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.selection import select_training_rows
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import RunLog
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.pipeline.train.validation import Validation
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sampler import Sampler


def train(job: Job, worker: Worker) -> None:
    """Train to the end, leaving checkpoints and metrics in the run's directory."""
    config, run = job.config, RunDirectory(job.config.out)
    torch.manual_seed(config.seed)
    model = build_model(job.recipe)
    model.freeze_unreached(with_text=job.text_source != "none", with_sequences=job.temporal != "none")
    model.to(worker.device)
    reader, sampler = _data(job, worker, model)
    rows = select_training_rows(reader.shards, job.subjects, config.where)
    validation = _validation(job, reader, rows)
    stepper = TrainStep(job, worker, model, reader, rows)
    step = stepper.load_checkpoint(run)
    if worker.rank == 0:
        run.rewind_metrics(step)
    num_steps = config.epochs * sampler.num_steps
    joined = config.batch_size * worker.world_size
    with RunLog(run, worker.rank, num_steps, joined, config.wandb, config.recorded()) as log:
        for epoch in range(step // sampler.num_steps, config.epochs):
            stepper.begin_epoch(is_new=step % sampler.num_steps == 0)
            groups = ([rows[n] for n in numbers] for numbers in sampler.batches(epoch, step % sampler.num_steps))
            for batch in log.waiting(reader.batches(groups, spares=rows)):
                learning_rate = config.learning_rate * cosine_schedule(step, num_steps, config.warmup)
                losses = stepper.step(batch, epoch, step, learning_rate)
                step += 1
                log.step(step, epoch, losses, learning_rate, model.learned_scalars)
                if config.save_every and step % config.save_every == 0 and step % sampler.num_steps:
                    _save(stepper, run, log, step)
            if config.on_bad_shard == "skip":
                _share_skipped(reader, rows, worker, run)
            if validation:
                log.validated(step, epoch, validation.accuracy(stepper.result, reader, stepper.directions, worker))
            _save(stepper, run, log, step)


def _save(stepper: TrainStep, run: RunDirectory, log: RunLog, step: int) -> None:
    # A run that goes on from a checkpoint must find the rows of all steps before it.
    log.publish()
    stepper.save(run, step)


def _data(job: Job, worker: Worker, model: ContrastiveModel) -> tuple[FaceDataset, Sampler]:
    config = job.config
    shards = ShardSet.open(config.shards)
    reading = DecodeSpec(job.channel, model.towers.image_size, job.temporal, config.max_frames)
    reader = FaceDataset(shards, reading, config.cache_mb << 20, config.on_bad_shard)
    names = [row.shard for row in select_training_rows(shards, job.subjects, config.where)]
    sampler = Sampler(names, config.batch_size, config.seed, worker.world_size, worker.rank)
    return reader, sampler


def _validation(job: Job, reader: FaceDataset, rows: Sequence[IndexRow]) -> Validation | None:
    if not job.validation_subjects:
        return None
    return Validation.of(rows, select_training_rows(reader.shards, job.validation_subjects, job.config.where))


def _share_skipped(reader: FaceDataset, rows: Sequence[IndexRow], worker: Worker, run: RunDirectory) -> None:
    """Let all ranks know what any of them has left out in this epoch, in which they read all samples between them."""
    left_out = torch.tensor([row.key in reader.skipped for row in rows], dtype=torch.uint8, device=worker.device)
    if dist.is_initialized():
        dist.all_reduce(left_out, dist.ReduceOp.MAX)
    reader.skipped.update(row.key for row, is_out in zip(rows, left_out.tolist(), strict=True) if is_out)
    # Held-back samples, which the reader reads as well, are none of those that are missing from learning.
    learned = [row.key for row in rows if row.key in reader.skipped]
    if worker.rank == 0 and learned:
        run.note_skipped(learned)
