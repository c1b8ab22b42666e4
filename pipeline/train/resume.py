"""Going on with a run: what its directory was begun with, and whether what is asked for now is the same.

Goes in: the options, and the fingerprint of all that decides the result. Promised: a run is never mixed with another;
over how many workers a step's samples are spread may change from one start to the next, and is written down.
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
"""(step, workers) wherever the number of workers changed, from the first step on."""


class _Options(LenientModel):
    num_workers: int
    batch_size: int
    split: str


class _Recipe(LenientModel):
    name: str
    arch: str


class _BegunRun(StageConfigRecord):
    train: _Options
    recipe: _Recipe
    precision: str = ""
    world_sizes: WorldSizes = ()


def load_run_config(directory: RunDirectory) -> dict[str, Any]:
    """What the run in a directory was begun with; see `load_stage_config`."""
    return load_stage_config(directory.config_path, _BegunRun, "run")


def finished(directory: RunDirectory, mark: str) -> RunManifest | None:
    """The manifest of a run that is asked for again, if it is finished."""
    return directory.manifest() if load_run_config(directory).get("fingerprint") == mark else None


def check_output(config: TrainConfig, directory: RunDirectory, mark: str) -> None:
    """Raise UsageError where what the directory holds is not to be gone on with."""
    found = load_run_config(directory)
    if not found:
        if {path.name for path in directory.root.iterdir()} - {LOCK_NAME}:
            raise foreign_directory_error(config.out, "run")
        if config.resume:
            raise UsageError(f"{config.out} holds no run to go on with", field="resume")
    elif found["fingerprint"] != mark:
        if config.resume and (before := _joined_batch_size(found)) != config.joined_batch_size:
            raise UsageError(
                f"the run in {config.out} takes {pluralize(before, 'sample')} a step, and this one would "
                f"take {config.joined_batch_size} ({config.num_workers} x {config.batch_size}); choose `num_workers` "
                f"and `batch_size` whose product is {before}",
                field="resume",
            )
        raise UsageError(
            "holds a run with other options or shards (see config.json); name another", field="out", value=config.out
        )
    elif not config.resume:
        raise UsageError("holds a run that is not finished; `resume` goes on with it", field="out", value=config.out)


def world_sizes(config: TrainConfig, directory: RunDirectory) -> WorldSizes:
    """How many workers made the steps that are kept, and how many will make those from here on."""
    found, checkpoints = load_run_config(directory), directory.checkpoints()
    step = checkpoints[-1].step if checkpoints else 0
    earlier = found.get("world_sizes") or ([(0, found["train"]["num_workers"])] if found else [])
    # Those of steps that are taken again held for nothing.
    kept = [(int(first), int(size)) for first, size in earlier if first < step]
    return (*kept,) if kept and kept[-1][1] == config.num_workers else (*kept, (step, config.num_workers))


def _joined_batch_size(found: dict[str, Any]) -> int:
    options = found["train"]
    return options["batch_size"] * options["num_workers"]
