"""The training stage: shards in, a run with checkpoints and a manifest out.

    open shards -> split by subject -> Ray Train: one loop a worker -> manifest

Safe to stop: `resume` goes on from the last checkpoint. The test side of the split is never read. Shards that are not
what was rendered are refused before anything is written. Shards and run lie on a disk or under a URL; what lies in
memory:// is trained on in this process.
"""

import os
import posixpath
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from model.recipes import check_recipe
from model.towers import can_checkpoint, check_arch
from pipeline.cards.run_card import run_card
from pipeline.directory_lock import directory_lock
from pipeline.ray_session import ray_session
from pipeline.training.assignment import Job
from pipeline.training.boards import check_wandb
from pipeline.training.choices import input_channel, precision_of, says_who, temporal_read, text_source
from pipeline.training.config import TrainConfig
from pipeline.training.continuation import WorldSizes, begun, check_output, finished, world_sizes
from pipeline.training.damage import open_shards
from pipeline.training.follow import following
from pipeline.training.in_process import check_in_process, train_in_process
from pipeline.training.job import resources_per_worker, train_on_ray
from pipeline.training.loop import rows_of
from pipeline.training.manifest import RunManifest
from pipeline.training.run_directory import RunDirectory
from pipeline.training.sequences import is_sequence, stored_temporal
from pipeline.training.validation import hold_back
from shards.errors import UsageError
from shards.manifest import canonical_json, fingerprint
from shards.places import (
    Place,
    absolute,
    check_folder,
    check_no_credentials,
    is_of_this_process,
    place,
    remove_leftovers,
    scheme_of,
    write_atomically,
)
from shards.reader import ShardSet
from shards.splits import Split, split_subjects
from shards.words import counted


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
    check_folder(config.out)
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
        job = replace(job, precision=begun(directory).get("precision", job.precision))
        sizes = world_sizes(config, directory)
        _train(job, directory, {**about, "precision": job.precision, "world_sizes": sizes}, on_metrics, here)
        manifest = _manifest(config, mark, shards, split, job, sizes, directory)
        write_atomically(directory.card_path, run_card(manifest).encode())
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
        remove_leftovers(directory.root)
        write_atomically(directory.config_path, canonical_json(about).encode())
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
            f"--checkpoint-activations: the image tower of {config.arch} is a ResNet, which cannot; leave it out, or "
            "use --accumulate"
        )
    check_wandb(config.wandb)
    shards = open_shards(config.shards, config.on_bad_shard)
    source = text_source(config, shards.manifest)
    split = split_subjects(config.split, (row.subject for row in rows_of(shards, shards.subjects, config.where)))
    learned, held_back = hold_back(split.train, config.validation)
    split = replace(split, train=learned)
    rows = rows_of(shards, split.train, config.where)
    held_rows = rows_of(shards, held_back, config.where) if held_back else []
    if here:
        check_in_process(config)
    if config.recipe == "supervised" and len(shards.manifest.expressions) < 2:
        raise UsageError("--recipe supervised: tells expressions apart, and the shards have only one")
    if len(rows) < 2 * config.num_workers:
        raise UsageError(
            f"{counted(len(rows), 'training sample')}: too few for {counted(config.num_workers, 'worker')}"
        )
    if source == "none" and len(shards.manifest.views) < 2:
        raise UsageError("--text none: views are then compared with each other, and the shards have only one")
    temporal = temporal_read(config, stored_temporal(shards, rows, config.on_bad_shard))
    if temporal == "none" and any(map(is_sequence, held_rows)):
        raise UsageError("--validation: would hold back all subjects of whom there are sequences; choose another part")
    found = {"out": config.out.absolute(), "shards": absolute(config.shards), "pretrained": _weights(config)}
    channel = input_channel(config, shards.manifest)
    config = config.model_copy(update=found)
    recipe = config.recipe_config(len(shards.manifest.expressions))
    precision = precision_of(config)
    metadata = says_who(config, source)
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
    rows = [row for row in rows_of(shards, split.train, config.where) if row.key not in skipped]
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


def shards_from(root: Place, shards: ShardSet) -> str:
    """Where shards lie, as seen from the directory of a run, so that both can be moved together; else their URL."""
    url = str(shards.filesystem.unstrip_protocol(shards.root))
    check_no_credentials(url)
    if isinstance(root, Path):
        return os.path.relpath(Path(shards.root).resolve(), root.resolve()) if scheme_of(url) == "file" else url
    where = place(url)
    # Not over the border of a bucket.
    if isinstance(where, Path) or (where.protocol, where.drive) != (root.protocol, root.drive):
        return str(where)
    return posixpath.relpath(where.path, root.path)


def _in_process(config: TrainConfig) -> bool:
    """Whether workers of Ray could not see what is read or written."""
    return is_of_this_process(config.out) or scheme_of(config.shards) == "memory"


def _weights(config: TrainConfig) -> str | None:
    """The pretrained weights as a worker finds them: a file by its whole path, a tag as it is."""
    path = Path(config.pretrained or "")
    return str(path.absolute()) if path.is_file() else config.pretrained


def _weights_digest(config: TrainConfig) -> str:
    """Of the content of a weights file; other weights under the same name make another run."""
    path = Path(config.pretrained or "")
    return blake3(path.read_bytes()).hexdigest(length=16) if path.is_file() else ""
