"""Find the Ray workers of this process for tests that kill them; processes of others are not touched."""

import time
from collections.abc import Callable
from contextlib import suppress

import psutil


def workers(name: str = "ray::MapBatches") -> list[int]:
    """Ids of descendants of this process with `name` in their command line; by default those that render."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                found.append(child.pid)
    return sorted(found)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds that another thread or process fulfils; the machine may be busy."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"timed out after {seconds} s"
        time.sleep(0.02)
