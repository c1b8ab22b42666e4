"""Checks before a run is resumed: whether its directory holds the same run, and over how many workers it trained.

The options and shards that decide the result must be equal, so that a directory never mixes two runs. The number of
workers may change from one start to the next, and each change is recorded.
"""

from typing import Any

from smile_pipe.pipeline.common.directory_lock import NAME as LOCK_NAME
from smile_pipe.pipeline.runs.run_config import (
    LenientModel,
    StageConfigRecord,
    foreign_directory_error,
    load_stage_config,
)
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize

WorldSizes = tuple[tuple[int, int], ...]
"""(step, workers) for each change of the number of workers, from the first step on."""


class _OptionsRecord(LenientModel):
    num_workers: int
    batch_size: int
    split: str


class _RecipeRecord(LenientModel):
    name: str
    arch: str


class _RunConfigRecord(StageConfigRecord):
    train: _OptionsRecord
    recipe: _RecipeRecord
    precision: str = ""
    world_sizes: WorldSizes = ()
    partitions: int = 1


def load_run_config(directory: RunDirectory) -> dict[str, Any]:
    """Read the config.json of a run; see `load_stage_config`."""
    return load_stage_config(directory.config_path, _RunConfigRecord, "run")


def load_finished(directory: RunDirectory, fingerprint: str) -> RunManifest | None:
    """Read the manifest of a run if it is finished and has this fingerprint."""
    return directory.manifest() if load_run_config(directory).get("fingerprint") == fingerprint else None


def check_output(config: TrainConfig, directory: RunDirectory, fingerprint: str) -> None:
    """Check that a directory is empty, or holds an unfinished run that the options resume.

    Raises:
        UsageError: It is neither.
    """
    record = load_run_config(directory)
    if not record:
        if {path.name for path in directory.root.iterdir()} - {LOCK_NAME}:
            raise foreign_directory_error(config.out, "run")
        if config.resume:
            raise UsageError(f"{config.out} holds no run to resume; leave it out", field="resume")
    elif record["fingerprint"] != fingerprint:
        if config.resume and (recorded_size := _joined_batch_size(record)) != config.joined_batch_size:
            raise UsageError(
                f"the run in {config.out} takes {pluralize(recorded_size, 'sample')} a step, and this one would "
                f"take {config.joined_batch_size} ({config.num_workers} x {config.batch_size}); choose `num_workers` "
                f"and `batch_size` whose product is {recorded_size}",
                field="resume",
            )
        raise UsageError(
            "holds a run with other options or shards (see config.json); name another directory",
            field="out",
            value=config.out,
        )
    elif not config.resume:
        raise UsageError("holds an unfinished run; `resume` continues it", field="out", value=config.out)


def updated_world_sizes(config: TrainConfig, directory: RunDirectory) -> WorldSizes:
    """The numbers of workers that made the steps up to the last checkpoint, and that make the following ones."""
    record, checkpoints = load_run_config(directory), directory.checkpoints()
    step = checkpoints[-1].step if checkpoints else 0
    earlier = record.get("world_sizes") or ([(0, record["train"]["num_workers"])] if record else [])
    # Entries of steps that are repeated are dropped.
    kept = [(int(first), int(size)) for first, size in earlier if first < step]
    return (*kept,) if kept and kept[-1][1] == config.num_workers else (*kept, (step, config.num_workers))


def _joined_batch_size(record: dict[str, Any]) -> int:
    options = record["train"]
    return options["batch_size"] * options["num_workers"]
