"""Limits on what one sample may cost a worker: time and memory, and how often a worker may die of it.

A sample that takes too long ends its worker, since nothing milder ends a loop in compiled code; so does one that
crashes it. Ray starts another worker, which sees from a mark on disk what the last one was doing: a sample that two
workers died of is given up, as a failure, and the others go on.
"""

import faulthandler
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.meshes.mesh import MeshError
from shards.manifest import Frozen

# One death may be an accident: a machine that fails, a worker that Ray takes away.
MAX_DEATHS = 2


class Limits(Frozen):
    """What one sample may cost."""

    seconds: float
    megabytes: int


@contextmanager
def limited(limits: Limits, marks: Path, key: str) -> Iterator[None]:
    """Work on sample `key` within the limits; `marks` is a folder that all workers see.

    Raises:
        MeshError: workers died of it before, or it takes too much memory.
    """
    mark = marks / f"{key}.deaths"
    deaths = len(mark.read_bytes()) if mark.exists() else 0
    if deaths >= MAX_DEATHS:
        raise MeshError(f"given up: {deaths} workers died of it, or it took them more than {limits.seconds:g} s")
    mark.parent.mkdir(parents=True, exist_ok=True)
    # One byte a death: written before, taken back after, and left there by whoever does not come to that.
    mark.write_bytes(b"x" * (deaths + 1))
    faulthandler.dump_traceback_later(limits.seconds, exit=True, file=_NOWHERE)
    try:
        with _memory(limits.megabytes):
            yield
    except MemoryError:
        raise MeshError(f"takes more than {limits.megabytes} MB of memory") from None
    finally:
        faulthandler.cancel_dump_traceback_later()
        with suppress(FileNotFoundError):
            mark.unlink()


@contextmanager
def _memory(megabytes: int) -> Iterator[None]:
    """Let this process take so much more memory than it has; beyond that, allocations fail."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + (megabytes << 20)
    hard = before[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """What counts towards RLIMIT_DATA: the private memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()


_NOWHERE = open(os.devnull, "w")  # noqa: SIM115 - faulthandler needs a file for as long as the process lives
