"""The training loop that each worker runs, from the first step to the last.

In order: build the model; load the last checkpoint if there is one; for each epoch read batches and take steps; after
each epoch, and within it if configured, write a checkpoint; after each epoch validate on held-out subjects if there are
any. Order and augmentation are functions of (seed, epoch, step), so a resumed run gives the same result as an
uninterrupted one. Steps that are not finite are skipped; if too many are, training ends. If damaged samples are
skipped, batches are smaller, losses are computed over the samples of all ranks, and all ranks take the same number of
steps.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from smile_pipe.model.recipes import RecipeModel, build_model
from smile_pipe.model.towers import set_matmul_precision
from smile_pipe.pipeline.common.optimization import cosine_schedule
from smile_pipe.pipeline.data.dataset import DecodeSpec, DiskCache, FaceDataset
from smile_pipe.pipeline.data.prefetch import prefetch
from smile_pipe.pipeline.data.selection import select_training_rows
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import RunLog
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.pipeline.train.validation import Validation
from smile_pipe.shards.joined import JoinedShardSet, open_sets
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.sampler import Sampler, balancing_weights


def train(
    job: Job, worker: Worker, on_checkpoint: Callable[[Mapping[str, Any], bool], None] = lambda metrics, is_last: None
) -> None:
    """Train to the last step; checkpoints and metrics are written to the directory of the run.

    Args:
        job: The job.
        worker: This process.
        on_checkpoint: Called on all ranks after each checkpoint, with the newest metrics (empty on other ranks than 0)
            and whether it is the last one.

    Raises:
        BadSampleError: A sample is damaged.
        DivergedError: Too many steps in a row, or the weights, are not finite.
    """
    config, run = job.config, RunDirectory(job.config.out)
    torch.manual_seed(config.seed)
    model = build_model(job.recipe)
    model.to(worker.device)
    set_matmul_precision(job.precision, worker.device)
    model.freeze_unreached(with_text=job.text_source != "none", with_sequences=job.temporal != "none")
    dataset = open_dataset(job, model, worker.device)
    rows = select_training_rows(dataset.shards, job.subjects, config.where)
    ranks = (worker.world_size, worker.rank, job.partitions)
    weights = _sampling_weights(config, dataset.shards, rows)
    sampler = Sampler(rows.codes("shard"), config.batch_size, config.seed, *ranks, weights=weights)
    validation = _validation(job, dataset, rows)
    train_step = TrainStep(job, worker, model, dataset, rows)
    step = train_step.load_checkpoint(run)
    if worker.rank == 0:
        run.truncate_metrics(step)
    num_steps = config.epochs * sampler.num_steps
    joined_batch_size = config.batch_size * worker.world_size
    with RunLog(run, worker.rank, num_steps, joined_batch_size, config.wandb, config.recorded()) as log:

        def save(step: int) -> None:
            # Metrics first: a run that resumes from this checkpoint needs the rows of all steps before it.
            log.publish()
            train_step.save(run, step)
            on_checkpoint(log.newest, step == num_steps)

        for epoch in range(step // sampler.num_steps, config.epochs):
            train_step.start_epoch(is_resumed=step % sampler.num_steps > 0)
            groups = map(rows.at, sampler.batches(epoch, step % sampler.num_steps))
            batches = prefetch(dataset.batches(groups, spares=rows), worker.device)
            for batch in log.time_batches(batches):
                schedule = cosine_schedule(step, num_steps, config.warmup)
                losses = train_step.step(batch, epoch, step, schedule)
                step += 1
                rates = {name: rate * schedule for name, rate in logged_rates(job.learning_rates).items()}
                log.step(step, epoch, losses, rates, train_step.scalars)
                if log.is_due(step):
                    train_step.check(step, num_steps, losses)
                if config.save_every and step % config.save_every == 0 and step % sampler.num_steps:
                    save(step)
            if config.on_bad_shard == "skip":
                _share_skipped(dataset, rows, worker, run)
            if validation:
                accuracy = validation.accuracy(train_step.result, dataset, train_step.directions, worker)
                log.validation(step, epoch, accuracy)
            save(step)


def logged_rates(learning_rates: Mapping[str, float]) -> dict[str, float]:
    """Peak learning rates by the names of their columns in the log; one column if they are equal."""
    heads, towers = learning_rates["heads"], learning_rates["towers"]
    return {"learning_rate": heads} | ({} if towers == heads else {"learning_rate_towers": towers})


def open_dataset(job: Job, model: RecipeModel, device: torch.device) -> FaceDataset:
    """Open the shards of a job for the input of its model."""
    config, is_gpu = job.config, device.type == "cuda"
    decode_spec = DecodeSpec(job.channels, model.image_size, job.temporal, config.max_frames)
    disk_cache = DiskCache.of(config.cache_dir, config.cache_gb)
    shards, cache_bytes = open_sets(config.shards), config.cache_mb << 20
    return FaceDataset(shards, decode_spec, cache_bytes, config.on_bad_shard, is_gpu, disk_cache)


def _sampling_weights(config: TrainConfig, shards: ShardSet, rows: SampleTable) -> NDArray[np.float64] | None:
    """How often each sample is read, relative to the others; None for once in an epoch."""
    weights = None
    if config.shard_weights and isinstance(shards, JoinedShardSet):
        weights = np.array(config.shard_weights)[shards.set_numbers(rows)]
    return balancing_weights(rows.codes("expression"), weights) if config.sampling == "balanced" else weights


def _validation(job: Job, dataset: FaceDataset, rows: SampleTable) -> Validation | None:
    if not job.validation_subjects:
        return None
    held_out = select_training_rows(dataset.shards, job.validation_subjects, job.config.where)
    return Validation.from_rows(rows, held_out)


def _share_skipped(dataset: FaceDataset, rows: SampleTable, worker: Worker, run: RunDirectory) -> None:
    """Share the samples that any rank skipped in this epoch, in which the ranks together read all samples."""
    # `dataset.skipped` may also contain held-out samples, which are not part of the training data.
    is_skipped = torch.from_numpy(rows.has("key", dataset.skipped)).to(worker.device, torch.uint8)
    if dist.is_initialized():
        dist.all_reduce(is_skipped, dist.ReduceOp.MAX)
    skipped_keys = rows.filter(is_skipped.bool().cpu().numpy()).values("key")
    dataset.skipped.update(skipped_keys)
    if worker.rank == 0 and skipped_keys:
        run.add_skipped(skipped_keys)
