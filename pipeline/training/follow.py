"""Following a run from outside: its metrics, as the workers write them; they may run on another machine."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.training.run_directory import RunDirectory

POLL_SECONDS = 0.5


@contextmanager
def following(directory: RunDirectory, on_metrics: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Pass on each new row of `metrics.jsonl` until the block ends; the last ones before it does."""
    stop = threading.Event()
    seen = len(directory.metrics())

    def follow() -> None:
        nonlocal seen
        while True:
            last = stop.is_set()
            rows = directory.metrics()
            for row in rows[min(seen, len(rows)) :]:
                on_metrics(row)
            seen = len(rows)
            if last:
                return
            time.sleep(POLL_SECONDS)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
