"""Limits on time and memory of reading one unit, and on how many workers may die of reading or rendering it.

A unit that exceeds its time ends its worker, as nothing else ends a loop in compiled code; a crash ends it too, and so
does a GPU that fails (`gpu_worker.py`). Ray then starts another worker. A file a unit counts the workers that died of
it: after two deaths the sample becomes a failure and the others go on. Waiting for the storage of the data directory
does not count against the limits.
"""

import faulthandler
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.shards.errors import storage_errors
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import PathLike, StoragePath

# One death may have another cause: a machine that fails, a worker that Ray stops.
MAX_DEATHS = 2


class Limits(Frozen):
    """Limits on the reading of one unit.

    Attributes:
        seconds: wall-clock time.
        megabytes: private memory that the worker may add.
    """

    seconds: float
    megabytes: int


@cache
def can_limit_memory() -> bool:
    """Whether this machine can limit the memory of a process: Linux with /proc can, macOS and Windows cannot."""
    with suppress(psutil.Error):
        return resource is not None and hasattr(psutil.Process().memory_info(), "data")
    return False


class _Budget:
    """The part of a unit's limits that is not used up; it is enforced between `start` and `stop`."""

    def __init__(self, limits: Limits) -> None:
        self._seconds, self._bytes = limits.seconds, limits.megabytes << 20
        self._process = psutil.Process() if can_limit_memory() else None

    def start(self) -> None:
        """Enforce the limits: beyond the time the process ends, beyond the memory allocations fail."""
        self._since = time.monotonic()
        if self._process is not None:
            self._rlimit = _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            # What RLIMIT_DATA limits: the private memory of the process.
            self._data = self._process.memory_info().data
            allowed = self._data + self._bytes
            soft = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=_DEVNULL)

    def stop(self) -> None:
        """Stop enforcing them, and subtract what was used."""
        faulthandler.cancel_dump_traceback_later()
        self._seconds = max(self._seconds - (time.monotonic() - self._since), 0.001)
        if self._process is not None:
            resource.setrlimit(resource.RLIMIT_DATA, self._rlimit)
            self._bytes = max(self._bytes + self._data - self._process.memory_info().data, 0)


def count_deaths(deaths_folder: PathLike, name: str) -> int:
    """Return how many processes died in a block of `record_death` with this name."""
    counter = _counter(deaths_folder, name)
    with suppress(FileNotFoundError), _as_storage_error(counter):
        return len(counter.read_bytes())
    return 0


@contextmanager
def record_death(deaths_folder: PathLike, name: str, num_deaths: int) -> Iterator[None]:
    """Record one death more than `num_deaths` if the process dies in the block; afterwards the count is 0.

    Raises:
        StorageError: the count cannot be written under a URL.
    """
    counter = _counter(deaths_folder, name)
    # The file has one byte a death. Append one before the block and remove the file after; a crash leaves it in place.
    with _as_storage_error(counter):
        counter.parent.ensure_folder()
        counter.write_bytes(b"x" * (num_deaths + 1))
    try:
        yield
    finally:
        with suppress(FileNotFoundError), _as_storage_error(counter):
            counter.unlink()


@contextmanager
def enforce_limits(limits: Limits, deaths_folder: PathLike, name: str) -> Iterator[None]:
    """Enforce limits on the block.

    Args:
        limits: time and memory for the block.
        deaths_folder: where deaths are counted; a folder that all workers see.
        name: name of the unit; unique, since a count that another process has just raised would look like a death.

    Raises:
        MeshError: too many workers died of this unit, or it takes too much memory.
        StorageError: the count cannot be written under a URL.
    """
    global _budget
    num_deaths = count_deaths(deaths_folder, name)
    if num_deaths >= MAX_DEATHS:
        raise MeshError(
            f"given up: {pluralize(num_deaths, 'worker')} died of it, or it took them more than {limits.seconds:g} s"
        )
    with record_death(deaths_folder, name, num_deaths):
        _budget = _Budget(limits)
        _budget.start()
        try:
            yield
        except MemoryError:
            raise MeshError(f"takes more than {limits.megabytes} MB of memory") from None
        finally:
            _budget.stop()
            _budget = None


@contextmanager
def pause_limits() -> Iterator[None]:
    """Stop enforcing the limits during the block, which waits for something else than the sample."""
    budget = _budget
    if budget is None:
        yield
        return
    budget.stop()
    try:
        yield
    finally:
        budget.start()


def _counter(deaths_folder: PathLike, name: str) -> StoragePath:
    return StoragePath(deaths_folder) / f"{name}.deaths"


def _as_storage_error(path: StoragePath) -> AbstractContextManager[None]:
    return nullcontext() if path.is_local else storage_errors(path)


_DEVNULL = open(os.devnull, "w")  # noqa: SIM115 - faulthandler needs the file until the process ends
# The limits apply to the whole process, so there is one budget at a time.
_budget: _Budget | None = None
