"""The training stage: shards in, a run with checkpoints and a manifest out.

    open shards -> split by subject -> Ray Train: one loop a worker -> manifest

Safe to stop: `resume` goes on from the last checkpoint. The test side of the split is never read. Shards that are not
what was rendered are refused before anything is written. Shards and run lie on a disk or under a URL; what lies in
memory:// is trained on in this process.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from smile_pipe.model.objectives import check_recipe
from smile_pipe.model.towers import can_checkpoint, check_arch
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.common.ray_session import ray_session
from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.selection import select_training_rows, split_validation
from smile_pipe.pipeline.data.temporal import is_sequence, stored_temporal
from smile_pipe.pipeline.runs.cards import run_card
from smile_pipe.pipeline.runs.loggers import check_wandb
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.tail_metrics import following
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Job
from smile_pipe.pipeline.train.job import check_in_process, resources_per_worker, train_in_process, train_on_ray
from smile_pipe.pipeline.train.resolve_options import (
    input_channel,
    precision_of,
    temporal_read,
    text_source,
    uses_metadata_prompts,
)
from smile_pipe.pipeline.train.resume import WorldSizes, check_output, finished, load_run_config, world_sizes
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import canonical_json, fingerprint
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.splits import Split, split_subjects
from smile_pipe.shards.storage import PathLike, StoragePath, absolute, check_no_credentials, scheme_of


def run(
    config: TrainConfig, on_metrics: Callable[[dict[str, Any]], None] = lambda row: None, here: bool = False
) -> RunManifest:
    """Train, and call `on_metrics` with each row of `metrics.jsonl` as it is written; `here`: in this process.

    Raises:
        UsageError: shards, split, recipe, architecture or output cannot be used, or another process writes to the
            output; nothing has been written.
        BadSampleError: the shards are damaged; a run that has begun can be gone on with.
        TrainingError: the job failed otherwise.
    """
    here = here or _in_process(config)
    shards, split, job = check(config, here)
    directory = RunDirectory(config.out)
    mark = fingerprint(config.for_fingerprint(), shards.manifest.fingerprint, _weights_digest(config))
    if found := finished(directory, mark):
        return found
    config.out.check_output_folder()
    about = {
        "fingerprint": mark,
        "shards": shards_from(directory.root, shards),
        "shards_fingerprint": shards.manifest.fingerprint,
        "train": config.recorded(),
        "recipe": job.recipe.model_dump(),
    }
    with directory_lock(directory.root):
        # Another process may have held it, and been done with it, since.
        if found := finished(directory, mark):
            return found
        check_output(config, directory, mark)
        job = replace(job, precision=load_run_config(directory).get("precision", job.precision))
        sizes = world_sizes(config, directory)
        _train(job, directory, {**about, "precision": job.precision, "world_sizes": sizes}, on_metrics, here)
        manifest = _manifest(config, mark, shards, split, job, sizes, directory)
        directory.card_path.write_atomically(run_card(manifest).encode())
        manifest.write(directory.manifest_path)
    return manifest


def _train(
    job: Job,
    directory: RunDirectory,
    about: dict[str, Any],
    on_metrics: Callable[[dict[str, Any]], None],
    here: bool,
) -> None:
    with nullcontext() if here else ray_session(job.config.address):
        resources = {} if here else resources_per_worker(job.config)
        directory.root.remove_leftovers()
        directory.config_path.write_atomically(canonical_json(about).encode())
        with following(directory, on_metrics):
            if here:
                train_in_process(job)
            else:
                train_on_ray(job, resources)


def check(config: TrainConfig, here: bool) -> tuple[ShardSet, Split, Job]:
    """What is learned from, on whom it is tested, and the job; see `run` for the errors."""
    try:
        check_recipe(config.recipe, config.without)
        arch = check_arch(config.arch, config.pretrained)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if config.checkpoint_activations and not can_checkpoint(arch):
        raise UsageError(
            f"the image tower of {config.arch} is a ResNet, which cannot; leave it out, or use `accumulate`",
            field="checkpoint_activations",
        )
    check_wandb(config.wandb)
    shards = open_shards(config.shards, config.on_bad_shard)
    source = text_source(config, shards.manifest)
    split = split_subjects(
        config.split, (row.subject for row in select_training_rows(shards, shards.subjects, config.where))
    )
    learned, held_back = split_validation(split.train, config.validation)
    split = replace(split, train=learned)
    rows = select_training_rows(shards, split.train, config.where)
    held_rows = select_training_rows(shards, held_back, config.where) if held_back else []
    if here:
        check_in_process(config)
    if config.recipe == "supervised" and len(shards.manifest.expressions) < 2:
        raise UsageError("tells expressions apart, and the shards have only one", field="recipe", value="supervised")
    if len(rows) < 2 * config.num_workers:
        raise UsageError(
            f"{pluralize(len(rows), 'training sample')}: too few for {pluralize(config.num_workers, 'worker')}"
        )
    if source == "none" and len(shards.manifest.views) < 2:
        raise UsageError(
            "views are then compared with each other, and the shards have only one", field="text", value="none"
        )
    temporal = temporal_read(config, stored_temporal(shards, rows, config.on_bad_shard))
    if temporal == "none" and any(map(is_sequence, held_rows)):
        raise UsageError(
            "would hold back all subjects of whom there are sequences; choose another part", field="validation"
        )
    found = {"out": config.out.absolute(), "shards": absolute(config.shards), "pretrained": _weights(config)}
    channel = input_channel(config, shards.manifest)
    config = config.model_copy(update=found)
    recipe = config.recipe_config(len(shards.manifest.expressions))
    precision = precision_of(config)
    metadata = uses_metadata_prompts(config, source)
    return shards, split, Job(config, recipe, channel, split.train, source, temporal, precision, held_back, metadata)


def _manifest(
    config: TrainConfig,
    mark: str,
    shards: ShardSet,
    split: Split,
    job: Job,
    sizes: WorldSizes,
    directory: RunDirectory,
) -> RunManifest:
    skipped = set(directory.skipped())
    rows = [row for row in select_training_rows(shards, split.train, config.where) if row.key not in skipped]
    last = next(row for row in reversed(directory.metrics()) if "loss_total" in row)
    checkpoint = directory.checkpoints()[-1]
    return RunManifest(
        fingerprint=fingerprint(mark, sorted(skipped)) if skipped else mark,
        shards_fingerprint=shards.manifest.fingerprint,
        config=config.recorded(),
        recipe=job.recipe.model_dump(mode="json"),
        channel=job.channel,
        settings=shards.manifest.settings,
        prompts=shards.manifest.prompts,
        temporal=job.temporal,
        max_frames=config.max_frames,
        views=shards.manifest.views,
        text_source=job.text_source,
        classes=shards.manifest.expressions,
        split=split.spec,
        where=config.where,
        train_subjects=split.train,
        test_subjects=split.test if split.spec != "all" else (),
        validation_subjects=job.validation_subjects,
        num_train_samples=len(rows),
        num_train_sequences=sum(map(is_sequence, rows)),
        num_skipped=len(skipped),
        num_steps=last["num_steps"],
        world_size=config.num_workers,
        world_sizes=sizes,
        precision=job.precision,
        metadata=job.metadata,
        final_losses={name: value for name, value in last.items() if name.startswith("loss_")},
        checkpoint=checkpoint.path.name,
    )


def shards_from(root: PathLike, shards: ShardSet) -> str:
    """Where shards lie, as seen from the directory of a run, so that both can be moved together; else their URL."""
    url = str(shards.filesystem.unstrip_protocol(shards.root))
    check_no_credentials(url)
    root = StoragePath(root)
    return url if root.is_local and scheme_of(url) != "file" else StoragePath(url).seen_from(root)


def _in_process(config: TrainConfig) -> bool:
    """Whether workers of Ray could not see what is read or written."""
    return config.out.is_in_memory or scheme_of(config.shards) == "memory"


def _weights(config: TrainConfig) -> str | None:
    """The pretrained weights as a worker finds them: a file by its whole path, a tag as it is."""
    path = Path(config.pretrained or "")
    return str(path.absolute()) if path.is_file() else config.pretrained


def _weights_digest(config: TrainConfig) -> str:
    """Of the content of a weights file; other weights under the same name make another run."""
    path = Path(config.pretrained or "")
    return blake3(path.read_bytes()).hexdigest(length=16) if path.is_file() else ""
