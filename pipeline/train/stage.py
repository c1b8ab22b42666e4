"""The training stage: shards to a run with checkpoints and a manifest.

    open shards -> split by subject -> one loop per worker -> manifest

Runs are resumable: `resume` continues from the last checkpoint. The test side of the split is never read. Shards that
do not match their manifest are refused before anything is written. Ray Train runs the workers; one worker on the CPUs
of this machine needs no Ray. Shards and run are on a disk or under a URL; with memory:// the training runs in this
process.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from smile_pipe.model.config import RECIPES, RecipeConfig
from smile_pipe.model.recipes import check_recipe
from smile_pipe.model.towers import build_tokenizer, check_arch, supports_activation_checkpointing
from smile_pipe.pipeline.captions.equal_tokens import warn_on_equal_tokens
from smile_pipe.pipeline.captions.knowledge import Knowledge, load_knowledge
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.common.ray_session import ray_session
from smile_pipe.pipeline.data.input_images import INPUT_VERSION
from smile_pipe.pipeline.data.integrity import open_shards, raise_bad_sample
from smile_pipe.pipeline.data.selection import select_training_rows, split_validation
from smile_pipe.pipeline.data.temporal import sequences_of, stored_temporal
from smile_pipe.pipeline.runs.cards import run_card
from smile_pipe.pipeline.runs.loggers import check_wandb
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.tail_metrics import tail_metrics
from smile_pipe.pipeline.runs.training_captions import CAPTION_SOURCES, TrainingCaptions
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Job
from smile_pipe.pipeline.train.local_job import (
    check_in_process,
    needs_no_ray,
    num_cores,
    train_in_one_process,
    train_in_process,
)
from smile_pipe.pipeline.train.resolve_options import (
    resolve_channels,
    resolve_precision,
    resolve_temporal,
    resolve_text_source,
    uses_metadata_prompts,
)
from smile_pipe.pipeline.train.resume import (
    WorldSizes,
    check_output,
    load_finished,
    load_run_config,
    updated_world_sizes,
)
from smile_pipe.pipeline.train.run_identity import run_fingerprint
from smile_pipe.shards.cache import local_folder
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import canonical_json, fingerprint
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.splits import Split, split_subjects
from smile_pipe.shards.storage import PathLike, StoragePath
from smile_pipe.shards.streaming import sample_pipeline
from smile_pipe.shards.urls import SEPARATOR, absolute_sets, check_no_credentials, scheme_of, schemes_of

_log = logging.getLogger(__name__)


def run(
    config: TrainConfig,
    on_metrics: Callable[[dict[str, Any]], None] = lambda row: None,
    in_process: bool = False,
    on_wait: Callable[[str], None] = lambda what: None,
) -> RunManifest:
    """Train; a run that is finished already is not repeated.

    Args:
        config: The options.
        on_metrics: Called with each row of `metrics.jsonl` when it is written.
        in_process: Train in this process instead of on Ray.
        on_wait: Called with what the training waits for before its first step.

    Returns:
        The manifest of the run.

    Raises:
        UsageError: Shards, split, recipe, architecture or output cannot be used, or another process writes to the
            output; nothing has been written.
        BadSampleError: The shards are damaged; a run that has started can be resumed.
        DivergedError: The training is not finite; the last checkpoint is.
        TrainingError: The job failed for another reason.
    """
    in_process = in_process or _in_process(config)
    shards, split, job = prepare(config, in_process)
    directory = RunDirectory(config.out)
    identity = run_fingerprint(config, shards, job)
    if finished := load_finished(directory, identity):
        return finished
    config.out.check_output_folder()
    record: dict[str, Any] = {
        "fingerprint": identity,
        "shards": relative_shards_path(directory.root, shards),
        "shards_fingerprint": shards.manifest.fingerprint,
        "train": config.recorded(),
        "learning_rates": job.learning_rates,
    }
    with directory_lock(directory.root):
        # Another process may have held the lock and finished the run.
        if finished := load_finished(directory, identity):
            return finished
        check_output(config, directory, identity)
        job = _as_recorded(job, load_run_config(directory))
        world_sizes = updated_world_sizes(config, directory)
        recipe = job.recipe.model_dump(mode="json")
        record |= {"precision": job.precision, "recipe": recipe, "world_sizes": world_sizes}
        record["partitions"] = job.partitions
        _train(job, directory, record, on_metrics, in_process, on_wait)
        manifest = _manifest(config, identity, shards, split, job, world_sizes, directory)
        if job.knowledge and job.text_source in CAPTION_SOURCES:
            _collect_captions(shards, manifest, config, job.knowledge).write(directory.root)
        directory.card_path.write_atomically(run_card(manifest).encode())
        manifest.write(directory.manifest_path)
    return manifest


def _as_recorded(job: Job, record: Mapping[str, Any]) -> Job:
    """The job with the precision, constants and partitions of the run that it resumes; defaults may have changed."""
    if not record:
        return job
    recipe = RecipeConfig.model_validate(record["recipe"]) if "recipe" in record else job.recipe
    precision = record.get("precision", job.precision)
    if "partitions" not in record:
        _log.warning(
            "the run was started by an earlier version, which read samples in another order: if it was stopped within "
            "an epoch, the rest of this epoch repeats some samples and leaves out others"
        )
    partitions = record.get("partitions", 1)
    if job.config.partitions not in (0, partitions):
        _log.warning("partitions: the run has %d since its start and keeps them", partitions)
    return replace(job, precision=precision, recipe=recipe, partitions=partitions)


def _train(
    job: Job,
    directory: RunDirectory,
    record: dict[str, Any],
    on_metrics: Callable[[dict[str, Any]], None],
    in_process: bool,
    on_wait: Callable[[str], None],
) -> None:
    with _worker(job, in_process, on_wait) as work:
        directory.root.remove_leftovers()
        directory.config_path.write_atomically(canonical_json(record).encode())
        with tail_metrics(directory, on_metrics):
            work()


@contextmanager
def _worker(job: Job, in_process: bool, on_wait: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Start what trains: nothing, a process, or Ray. Yield the function that trains."""
    config = job.config
    if in_process:
        yield partial(train_in_process, job)
    elif needs_no_ray(config):
        on_wait("starting a process; one worker on CPUs needs no Ray")
        yield partial(train_in_one_process, job, num_cores(config))
    else:
        on_wait("starting Ray" if config.address == "local" else "connecting to Ray")
        with ray_session(config.address):
            # Imported here, because it takes a second.
            from smile_pipe.pipeline.train.cluster import resources_per_worker
            from smile_pipe.pipeline.train.job import train_on_ray

            resources = resources_per_worker(config)
            on_wait("starting workers")
            yield partial(train_on_ray, job, resources)


def prepare(config: TrainConfig, in_process: bool) -> tuple[ShardSet, Split, Job]:
    """Check the options against the shards, and resolve them; nothing is written.

    Returns:
        The shards, their split without the held-out subjects, and the job.

    Raises:
        UsageError: See `run`.
    """
    _check_model(config)
    check_wandb(config.wandb)
    shards = open_shards(config.shards, config.on_bad_shard)
    if config.shard_weights and len(config.shard_weights) != len(shards.parts):
        raise UsageError(
            f"needs a number for each of {pluralize(len(shards.parts), 'shard set')}",
            field="shard_weights",
            value=",".join(f"{weight:g}" for weight in config.shard_weights),
        )
    source = resolve_text_source(config, shards.manifest)
    if source in ("label", "pseudo") and not RECIPES[config.recipe].has_classifier:
        warn_on_equal_tokens(build_tokenizer(config.arch), shards.manifest.prompts)
    split = split_subjects(
        config.split, select_training_rows(shards, shards.subjects, config.where).distinct("subject")
    )
    training_subjects, held_out = split_validation(split.train, config.val_fraction)
    split = replace(split, train=training_subjects)
    rows = select_training_rows(shards, split.train, config.where)
    held_out_rows = select_training_rows(shards, held_out, config.where) if held_out else rows[:0]
    if in_process:
        check_in_process(config)
    _check_classes(config, shards)
    if len(rows) < 2 * config.num_workers:
        raise UsageError(
            f"{pluralize(len(rows), 'training sample')}: too few for {pluralize(config.num_workers, 'worker')}; use at "
            "least two samples per worker"
        )
    losses = RECIPES[config.recipe].weights.keys() - set(config.drop_loss)
    if (source == "none" or losses == {"mv"}) and len(shards.manifest.views) < 2:
        raise UsageError(
            "the only loss compares views with each other, and the shards have only one view; render more views, or "
            "train with text and without `drop_loss`"
        )
    temporal = resolve_temporal(config, stored_temporal(shards, rows, config.on_bad_shard))
    if temporal == "none" and sequences_of(held_out_rows):
        raise UsageError(
            "holds out all subjects that have sequences; choose another fraction",
            field="val_fraction",
            value=f"{config.val_fraction:g}",
        )
    paths: dict[str, Any] = {
        "out": config.out.absolute(),
        "shards": absolute_sets(config.shards),
        "pretrained": _weights_path(config),
    }
    if config.cache_dir:
        paths["cache_dir"] = local_folder(config.cache_dir)
    resolved = config.model_copy(update=paths)
    needs_knowledge = source in CAPTION_SOURCES or config.pseudo_start == "knowledge"
    channels = resolve_channels(config, shards.manifest)
    job = Job(
        config=resolved,
        recipe=resolved.recipe_config(len(shards.manifest.expressions), len(channels)),
        channels=channels,
        subjects=split.train,
        text_source=source,
        temporal=temporal,
        precision=resolve_precision(config),
        learning_rates=config.learning_rates,
        validation_subjects=held_out,
        metadata=uses_metadata_prompts(config, source),
        partitions=_num_partitions(config),
        knowledge=load_knowledge(config.knowledge) if needs_knowledge else None,
    )
    return shards, split, job


def _check_classes(config: TrainConfig, shards: ShardSet) -> None:
    """Check that a recipe with classes has several, and their prompts if it needs them; UsageError otherwise."""
    recipe, manifest = RECIPES[config.recipe], shards.manifest
    if recipe.has_classifier and len(manifest.expressions) < 2:
        raise UsageError(
            "needs several expressions, and the shards have only one; choose another recipe",
            field="recipe",
            value=config.recipe,
        )
    missing = [name for name in manifest.expressions if not manifest.prompts.get(name)]
    if recipe.class_prompts and missing:
        raise UsageError(
            f"needs prompts of every expression, and the shards have none for {', '.join(missing[:5])}; choose another "
            "recipe",
            field="recipe",
            value=config.recipe,
        )


def _num_partitions(config: TrainConfig) -> int:
    if config.partitions > config.joined_batch_size:
        raise UsageError(
            f"more than the {config.joined_batch_size} samples in a step, so some steps would have none of a part",
            field="partitions",
            value=config.partitions,
        )
    return config.partitions or (1 if config.sampling == "balanced" or config.shard_weights else config.num_workers)


def _check_model(config: TrainConfig) -> None:
    try:
        check_recipe(config.recipe, config.drop_loss)
        arch = check_arch(config.arch, config.pretrained)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if config.checkpoint_activations and not supports_activation_checkpointing(arch):
        raise UsageError(
            f"the image tower of {config.arch} does not support it; leave it out, or use `grad_cache_chunks`",
            field="checkpoint_activations",
        )


def _manifest(
    config: TrainConfig,
    identity: str,
    shards: ShardSet,
    split: Split,
    job: Job,
    world_sizes: WorldSizes,
    directory: RunDirectory,
) -> RunManifest:
    skipped = set(directory.skipped())
    rows = select_training_rows(shards, split.train, config.where)
    rows = rows.filter(~rows.has("key", skipped))
    logged = [row for row in directory.metrics() if "loss_total" in row]
    losses: dict[str, Any] = next((row for row in reversed(logged) if math.isfinite(row["loss_total"])), {})
    checkpoint = directory.checkpoints()[-1]
    return RunManifest(
        fingerprint=fingerprint(identity, sorted(skipped)) if skipped else identity,
        shards_fingerprint=shards.manifest.fingerprint,
        joined_fingerprints=shards.joined_fingerprints,
        config=config.recorded(),
        recipe=job.recipe.model_dump(mode="json"),
        channel=",".join(job.channels),
        settings=shards.manifest.settings,
        prompts=shards.manifest.prompts,
        temporal=job.temporal,
        max_frames=config.max_frames,
        input_version=INPUT_VERSION,
        views=shards.manifest.views,
        text_source=job.text_source,
        classes=shards.manifest.expressions,
        split=split.spec,
        where=config.where,
        train_subjects=split.train,
        test_subjects=split.test if split.spec != "all" else (),
        validation_subjects=job.validation_subjects,
        num_train_samples=len(rows),
        num_train_sequences=len(sequences_of(rows)),
        num_skipped=len(skipped),
        num_steps=logged[-1]["num_steps"],
        num_skipped_steps=logged[-1].get("skipped_steps", 0),
        world_size=config.num_workers,
        world_sizes=world_sizes,
        precision=job.precision,
        learning_rates=job.learning_rates,
        metadata=job.metadata,
        final_losses={name: value for name, value in losses.items() if name.startswith("loss_")},
        checkpoint=checkpoint.path.name,
    )


def _collect_captions(
    shards: ShardSet, manifest: RunManifest, config: TrainConfig, knowledge: Knowledge
) -> TrainingCaptions:
    """Collect the captions of the training samples from their records; samples that were left out have none."""
    rows = select_training_rows(shards, manifest.train_subjects, config.where)
    cached = shards.with_cache(config.cache_dir, round(config.cache_gb * 2**30))

    def fail_or_skip(row: SampleRow, error: Exception) -> None:
        if config.on_bad_shard == "fail":
            raise_bad_sample(row, error)

    samples = sample_pipeline(cached, rows, fail_or_skip)
    return TrainingCaptions.collect(samples, knowledge, shards.manifest.text_source)


def relative_shards_path(root: PathLike, shards: ShardSet) -> str:
    """Path of shards relative to the directory of a run, so that both can be moved together; otherwise their URL."""
    root, paths = StoragePath(root), []
    for part in shards.parts:
        url = str(part.filesystem.unstrip_protocol(part.root))
        check_no_credentials(url)
        paths.append(url if root.is_local and scheme_of(url) != "file" else StoragePath(url).seen_from(root))
    return SEPARATOR.join(paths)


def _in_process(config: TrainConfig) -> bool:
    """Whether shards or run are in memory://, which workers of Ray cannot access."""
    return config.out.is_in_memory or "memory" in schemes_of(config.shards)


def _weights_path(config: TrainConfig) -> str | None:
    """The pretrained weights for workers: the absolute path of a file, or a tag."""
    path = Path(config.pretrained or "")
    return str(path.absolute()) if path.is_file() else config.pretrained
