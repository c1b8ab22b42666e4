"""Limits on what one sample may cost a worker: time and memory, and how often a worker may die of it.

A sample that takes too long ends its worker, since nothing milder ends a loop in compiled code; so does one that
crashes it. Ray starts another worker, which sees from a mark in the output directory what the last one was doing: a
sample of which two workers died at the same piece is given up, as a failure, and the others go on. Waiting for the
storage of a data directory does not count: that is no fault of the sample.
"""

import faulthandler
import os
import resource
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import PathLike, StoragePath, storage_errors

# One death may be an accident: a machine that fails, a worker that Ray takes away.
MAX_DEATHS = 2


class Limits(Frozen):
    """What one sample may cost."""

    seconds: float
    megabytes: int


class _Budget:
    """What is left of a sample's limits, which hold while it is spent."""

    def __init__(self, limits: Limits) -> None:
        self._seconds, self._bytes = limits.seconds, limits.megabytes << 20

    def spend(self) -> None:
        """Let the limits hold from now on: beyond them the process ends, or allocations fail."""
        self._since, self._before = time.monotonic(), resource.getrlimit(resource.RLIMIT_DATA)
        hard = self._before[1]
        self._most = _data_bytes() + self._bytes
        soft = self._most if hard == resource.RLIM_INFINITY else min(self._most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=_NOWHERE)

    def stop(self) -> None:
        """Lift the limits; what was used up is gone."""
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_DATA, self._before)
        self._seconds = max(self._seconds - (time.monotonic() - self._since), 0.001)
        self._bytes = max(self._most - _data_bytes(), 0)


@contextmanager
def limited(limits: Limits, marks: PathLike, name: str) -> Iterator[None]:
    """Work on a piece within the limits; `marks` is a folder that all workers see.

    Args:
        name: the piece's own: a mark that another process has made at the same time would count as its death.

    Raises:
        MeshError: workers died of it before, or it takes too much memory.
        StorageError: the mark cannot be written under a URL.
    """
    global _budget
    mark = StoragePath(marks) / f"{name}.deaths"
    deaths = _deaths(mark)
    if deaths >= MAX_DEATHS:
        raise MeshError(
            f"given up: {pluralize(deaths, 'worker')} died of it, or it took them more than {limits.seconds:g} s"
        )
    # One byte a death: written before, taken back after, and left there by whoever does not come to that.
    _write(mark, b"x" * (deaths + 1))
    _budget = _Budget(limits)
    try:
        _budget.spend()
        yield
    except MemoryError:
        raise MeshError(f"takes more than {limits.megabytes} MB of memory") from None
    finally:
        _budget.stop()
        _budget = None
        with suppress(FileNotFoundError), _telling(mark):
            mark.unlink()


@contextmanager
def not_limited() -> Iterator[None]:
    """Lift the limits for as long as something else than the sample is waited for."""
    budget = _budget
    if budget is None:
        yield
        return
    budget.stop()
    try:
        yield
    finally:
        budget.spend()


def _deaths(mark: StoragePath) -> int:
    with suppress(FileNotFoundError), _telling(mark):
        return len(mark.read_bytes())
    return 0


def _write(mark: StoragePath, content: bytes) -> None:
    with _telling(mark):
        mark.parent.ensure_folder()
        mark.write_bytes(content)


def _telling(mark: StoragePath) -> AbstractContextManager[None]:
    return nullcontext() if mark.is_local else storage_errors(mark)


def _data_bytes() -> int:
    """What counts towards RLIMIT_DATA: the private memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()


_NOWHERE = open(os.devnull, "w")  # noqa: SIM115 - faulthandler needs a file for as long as the process lives
# The limits hold for the process, so there is one budget at a time.
_budget: _Budget | None = None
