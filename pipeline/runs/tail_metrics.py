"""Following a run from outside: its metrics, as the workers write them; they may run on another machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from smile_pipe.pipeline.common.background import run_in_background
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import PUT_EVERY
from smile_pipe.shards.storage import storage_errors

POLL_SECONDS = 0.5


@contextmanager
def following(directory: RunDirectory, on_metrics: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Pass on each new row of `metrics.jsonl` until the block ends; the last ones before it does."""
    pause = POLL_SECONDS if directory.root.is_local else PUT_EVERY
    rows, size = directory.metrics(), _size(directory)

    def follow(stop: threading.Event) -> None:
        nonlocal rows, size
        while True:
            last, seen = stop.wait(pause), len(rows)
            # Where a storage fails for a moment, what it holds is told the next time.
            with suppress(OSError), storage_errors(directory.root):
                if last or _size(directory) != size:
                    size, rows = _size(directory), directory.metrics()
            for row in rows[seen:]:
                on_metrics(row)
            if last:
                return

    with run_in_background(follow):
        yield


def _size(directory: RunDirectory) -> int:
    return directory.metrics_path.size() if directory.metrics_path.exists() else -1
