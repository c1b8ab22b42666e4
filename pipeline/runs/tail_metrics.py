"""Tailing of the metrics of a run while it trains; the workers that write them may be on another machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from smile_pipe.pipeline.common.background import run_in_background
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import UPLOAD_SECONDS
from smile_pipe.shards.errors import storage_errors

POLL_SECONDS = 0.5


@contextmanager
def tail_metrics(directory: RunDirectory, on_metrics: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `on_metrics` with each new row of `metrics.jsonl` until the block ends, including the last rows."""
    interval = POLL_SECONDS if directory.root.is_local else UPLOAD_SECONDS
    rows, size = directory.metrics(), _size(directory)

    def poll(stop: threading.Event) -> None:
        nonlocal rows, size
        while True:
            is_last, num_reported = stop.wait(interval), len(rows)
            # After a temporary failure of the storage the next poll reports the rows.
            with suppress(OSError), storage_errors(directory.root):
                if is_last or _size(directory) != size:
                    size, rows = _size(directory), directory.metrics()
            for row in rows[num_reported:]:
                on_metrics(row)
            if is_last:
                return

    with run_in_background(poll):
        yield


def _size(directory: RunDirectory) -> int:
    return directory.metrics_path.size() if directory.metrics_path.exists() else -1
