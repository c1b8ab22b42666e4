"""The training stage: shards in, a run with checkpoints and a manifest out.

    open shards -> split by subject -> Ray Train: one loop a worker -> manifest

Safe to stop: `resume` goes on from the last checkpoint. The test side of the split is never read. Shards that are not
what was rendered are refused before anything is written.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from model.recipes import check_recipe
from model.towers import check_arch
from pipeline.ray_session import ray_session
from pipeline.training.config import TrainConfig
from pipeline.training.damage import open_shards
from pipeline.training.follow import following
from pipeline.training.loop import Job, rows_of
from pipeline.training.manifest import RunManifest
from pipeline.training.run_directory import RunDirectory
from pipeline.training.sequences import TemporalRead, can_read, default_temporal, is_sequence, stored_temporal
from shards.errors import UsageError
from shards.manifest import ShardManifest, TextSource, canonical_json, fingerprint
from shards.places import write_atomically
from shards.reader import ShardSet
from shards.splits import Split, split_subjects

MAX_RESTARTS = 3


class TrainingError(RuntimeError):
    """The training job failed; the message is the worker's."""


def run(config: TrainConfig, on_metrics: Callable[[dict[str, Any]], None] = lambda row: None) -> RunManifest:
    """Train, and call `on_metrics` with each row of `metrics.jsonl` as it is written.

    Raises:
        UsageError: shards, split, recipe, architecture or output cannot be used; nothing has been written.
        BadSampleError: the shards are damaged, which shows before anything has been written.
        TrainingError: the job failed.
    """
    shards, split, job = _check(config)
    directory = RunDirectory(config.out)
    mark = fingerprint(config.for_fingerprint(), shards.manifest.fingerprint, _weights_digest(config))
    if finished := _check_output(config, directory, mark):
        return finished
    about = {
        "fingerprint": mark,
        "shards": shards_from(directory.root, shards),
        "shards_fingerprint": shards.manifest.fingerprint,
        "train": config.for_fingerprint(),
        "recipe": config.recipe_config().model_dump(),
    }
    with ray_session(config.address):
        resources = _resources(config)
        directory.root.mkdir(parents=True, exist_ok=True)
        write_atomically(directory.config_path, canonical_json(about).encode())
        with following(directory, on_metrics):
            _fit(job, resources)
    manifest = _manifest(config, mark, shards, split, job, directory)
    manifest.write(directory.manifest_path)
    return manifest


def input_channel(config: TrainConfig, manifest: ShardManifest) -> str:
    """The channel that the image tower sees.

    `auto` is `rgb` for pretrained towers, which know photographs, and else `normal`, which shows shape without skin
    tone and light (model/README.md).
    """
    if config.channel == "auto":
        preferred = ("rgb", "normal", "depth", "flow") if config.pretrained else ("normal", "rgb", "depth", "flow")
        return next(channel for channel in preferred if channel in manifest.channels)
    if config.channel not in manifest.channels:
        raise UsageError(f"--channel {config.channel}: the shards have {', '.join(manifest.channels)}")
    return config.channel


def text_source(config: TrainConfig, manifest: ShardManifest) -> TextSource:
    """Where the text that is learned from comes from: what the shards carry, or none.

    Raises:
        UsageError: another source was asked for.
    """
    if config.text not in ("auto", "none", manifest.text_source):
        carried = "no prompts" if manifest.text_source == "none" else f"prompts from {manifest.text_source}"
        raise UsageError(
            f"--text {config.text}: the shards carry {carried}; use --text {manifest.text_source}, "
            f"or render them with --text {config.text}"
        )
    return manifest.text_source if config.text == "auto" else config.text


def temporal_read(config: TrainConfig, stored: TemporalRead) -> TemporalRead:
    """What is read of sequences, of which the shards hold `stored`.

    Raises:
        UsageError: they do not hold what was asked for.
    """
    if config.temporal == "auto":
        return default_temporal(stored)
    if stored == "none":
        raise UsageError(f"--temporal {config.temporal}: the samples to learn from are all scans; leave it out")
    if not can_read(stored, config.temporal):
        raise UsageError(
            f"--temporal {config.temporal}: of sequences the shards hold {stored}; use --temporal {stored}, "
            f"or render them with --temporal {config.temporal}"
        )
    return config.temporal


def _check(config: TrainConfig) -> tuple[ShardSet, Split, Job]:
    try:
        check_recipe(config.recipe)
        check_arch(config.arch, config.pretrained)
    except ValueError as error:
        raise UsageError(str(error)) from None
    shards = open_shards(config.shards, config.on_bad_shard)
    source = text_source(config, shards.manifest)
    split = split_subjects(config.split, shards.subjects)
    rows = rows_of(shards, split.train, config.where)
    if len(rows) < 2 * config.num_workers:
        raise UsageError(f"{len(rows)} training samples are too few for {config.num_workers} workers")
    if source == "none" and len(shards.manifest.views) < 2:
        raise UsageError("--text none: views are then compared with each other, and the shards have only one")
    temporal = temporal_read(config, stored_temporal(shards, rows, config.on_bad_shard))
    absolute = {"out": config.out.absolute(), "shards": _absolute(config.shards), "pretrained": _weights(config)}
    channel = input_channel(config, shards.manifest)
    return shards, split, Job(config.model_copy(update=absolute), channel, split.train, source, temporal)


def _check_output(config: TrainConfig, directory: RunDirectory, mark: str) -> RunManifest | None:
    """The manifest of a run that is finished and asked for again; None where there is something to do."""
    if directory.root.is_dir() and any(directory.root.iterdir()) and not directory.config_path.exists():
        raise UsageError(f"--out {config.out}: holds files that are not of a run; name a new or empty directory")
    existing = next(path for path in (config.out, *config.out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"--out {config.out}: {existing} is a file; name a directory")
    if not directory.config_path.exists():
        if config.resume:
            raise UsageError(f"--resume: {config.out} holds no run to go on with")
        return None
    same = json.loads(directory.config_path.read_text())["fingerprint"] == mark
    finished = directory.manifest()
    if same and (finished or config.resume):
        return finished
    if same:
        raise UsageError(f"--out {config.out}: holds a run that is not finished; --resume goes on with it")
    raise UsageError(f"--out {config.out}: holds a run with other options or shards (see config.json); name another")


def _fit(job: Job, resources: dict[str, int]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipeline.train_worker import train_worker

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave SIGINT alone: Ray's handler would end the process with 0, as if the run were finished."""

    config = job.config
    scratch = config.out / ".ray"
    # What a killed run has left is none of this one's.
    shutil.rmtree(scratch, ignore_errors=True)
    trainer = Trainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="train", storage_path=str(scratch), failure_config=FailureConfig(max_failures=MAX_RESTARTS)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise TrainingError(_root_cause(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _resources(config: TrainConfig) -> dict[str, int]:
    """What each worker gets.

    Raises:
        UsageError: Ray has not enough; it would wait for more for ever, and say nothing.
    """
    import ray

    if config.use_gpu:
        if ray.cluster_resources().get("GPU", 0) < config.num_workers:
            raise UsageError(f"--use-gpu: {config.num_workers} workers need as many GPUs, and Ray has fewer")
        return {"CPU": 1, "GPU": 1}
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return {"CPU": cores_per_worker(nodes, config.num_workers)}


def cores_per_worker(nodes: Sequence[int], num_workers: int) -> int:
    """The most cores that each of `num_workers` can have, when a worker's cores lie on one of `nodes` (cores each).

    Raises:
        UsageError: not even one core each.
    """
    for cores in range(max(nodes, default=0), 0, -1):
        if sum(node // cores for node in nodes) >= num_workers:
            return cores
    raise UsageError(f"--num-workers {num_workers}: Ray has {sum(nodes)} cores, and each worker needs one")


def _root_cause(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _manifest(
    config: TrainConfig, mark: str, shards: ShardSet, split: Split, job: Job, directory: RunDirectory
) -> RunManifest:
    skipped = set(directory.skipped())
    rows = [row for row in rows_of(shards, split.train, config.where) if row.key not in skipped]
    last = directory.metrics()[-1]
    checkpoint = directory.checkpoints()[-1]
    return RunManifest(
        fingerprint=fingerprint(mark, sorted(skipped)) if skipped else mark,
        shards_fingerprint=shards.manifest.fingerprint,
        config=config.for_fingerprint(),
        recipe=config.recipe_config().model_dump(mode="json"),
        channel=job.channel,
        temporal=job.temporal,
        max_frames=config.max_frames,
        views=shards.manifest.views,
        text_source=job.text_source,
        split=split.spec,
        where=config.where,
        train_subjects=split.train,
        test_subjects=split.test if split.spec != "all" else (),
        num_train_samples=len(rows),
        num_train_sequences=sum(map(is_sequence, rows)),
        num_skipped=len(skipped),
        num_steps=last["num_steps"],
        world_size=config.num_workers,
        final_losses={name: value for name, value in last.items() if name.startswith("loss_")},
        checkpoint=checkpoint.path.name,
    )


def shards_from(root: Path, shards: ShardSet) -> str:
    """Where shards lie, as seen from the directory of a run: so both can be moved together. A URL stays what it is."""
    place = shards.filesystem.unstrip_protocol(shards.root)
    if not place.startswith("file://"):
        return place
    return os.path.relpath(Path(shards.root).resolve(), root.resolve())


def _absolute(spec: str) -> str:
    """Workers have another working directory than the user."""
    return spec if "://" in spec else str(Path(spec).expanduser().absolute())


def _weights(config: TrainConfig) -> str | None:
    """The pretrained weights as a worker finds them: a file by its whole path, a tag as it is."""
    path = Path(config.pretrained or "")
    return str(path.absolute()) if path.is_file() else config.pretrained


def _weights_digest(config: TrainConfig) -> str:
    """Of the content of a weights file; other weights under the same name make another run."""
    path = Path(config.pretrained or "")
    return blake3(path.read_bytes()).hexdigest(length=16) if path.is_file() else ""
