"""Going on with a run: what its directory was begun with, and whether what is asked for now is the same.

Goes in: the options, and the fingerprint of all that decides the result. Promised: a run is never mixed with another;
over how many workers a step's samples are spread may change from one start to the next, and is written down.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.directory_lock import NAME as LOCK_NAME
from pipeline.training.config import TrainConfig
from pipeline.training.manifest import RunManifest
from pipeline.training.run_directory import RunDirectory
from shards.errors import UsageError
from shards.places import Place
from shards.words import counted

WorldSizes = tuple[tuple[int, int], ...]
"""(step, workers) wherever the number of workers changed, from the first step on."""


class _Told(BaseModel):
    # More may stand there, and is kept as it is.
    model_config = ConfigDict(strict=True, extra="allow")


class Begun(_Told):
    """The part of a stage's `config.json` on which going on with it depends."""

    fingerprint: str


class _Options(_Told):
    num_workers: int
    batch_size: int
    split: str


class _Recipe(_Told):
    name: str
    arch: str


class _BegunRun(Begun):
    train: _Options
    recipe: _Recipe
    precision: str = ""
    world_sizes: WorldSizes = ()


def begun(directory: RunDirectory) -> dict[str, Any]:
    """What the run in a directory was begun with; see `begun_with`."""
    return begun_with(directory.config_path, _BegunRun, "run")


def begun_with(path: Place, kind: type[Begun], stage: str) -> dict[str, Any]:
    """The `config.json` of a stage's output; nothing where there is none.

    Raises:
        UsageError: it is damaged, or of something else: models of other programs have a file of that name, too.
    """
    if not path.exists():
        return {}
    try:
        return kind.model_validate_json(path.read_bytes()).model_dump(mode="json", exclude_unset=True)
    except (ValidationError, IsADirectoryError):
        raise _foreign(path.parent, stage) from None


def finished(directory: RunDirectory, mark: str) -> RunManifest | None:
    """The manifest of a run that is asked for again, if it is finished."""
    return directory.manifest() if begun(directory).get("fingerprint") == mark else None


def check_output(config: TrainConfig, directory: RunDirectory, mark: str) -> None:
    """Raise UsageError where what the directory holds is not to be gone on with."""
    found = begun(directory)
    if not found:
        if {path.name for path in directory.root.iterdir()} - {LOCK_NAME}:
            raise _foreign(config.out, "run")
        if config.resume:
            raise UsageError(f"--resume: {config.out} holds no run to go on with")
    elif found["fingerprint"] != mark:
        if config.resume and (before := _joined_batch_size(found)) != config.joined_batch_size:
            raise UsageError(
                f"--resume: the run in {config.out} takes {counted(before, 'sample')} a step, and this one would "
                f"take {config.joined_batch_size} ({config.num_workers} x {config.batch_size}); choose --num-workers "
                f"and --batch-size whose product is {before}"
            )
        raise UsageError(
            f"--out {config.out}: holds a run with other options or shards (see config.json); name another"
        )
    elif not config.resume:
        raise UsageError(f"--out {config.out}: holds a run that is not finished; --resume goes on with it")


def world_sizes(config: TrainConfig, directory: RunDirectory) -> WorldSizes:
    """How many workers made the steps that are kept, and how many will make those from here on."""
    found, checkpoints = begun(directory), directory.checkpoints()
    step = checkpoints[-1].step if checkpoints else 0
    earlier = found.get("world_sizes") or ([(0, found["train"]["num_workers"])] if found else [])
    # Those of steps that are taken again held for nothing.
    kept = [(int(first), int(size)) for first, size in earlier if first < step]
    return (*kept,) if kept and kept[-1][1] == config.num_workers else (*kept, (step, config.num_workers))


def _joined_batch_size(found: dict[str, Any]) -> int:
    options = found["train"]
    return options["batch_size"] * options["num_workers"]


def _foreign(out: Place, stage: str) -> UsageError:
    return UsageError(f"--out {out}: holds files that are not of a {stage}; name a new or empty directory")
