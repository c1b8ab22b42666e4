"""The processes of this one's Ray, found for tests that kill them; those of others on the machine are left alone."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def workers(name: str = "ray::MapBatches") -> list[int]:
    """Ids of processes that descend from this one and are called so: those that render, where nothing is said."""
    about = dict(filter(None, map(_parent_and_name, filter(str.isdigit, os.listdir("/proc")))))

    def is_ours(pid: int) -> bool:
        while pid in about and pid != os.getpid():
            pid = about[pid][0]
        return pid == os.getpid()

    return [pid for pid, (_, called) in sorted(about.items()) if name in called and is_ours(pid)]


def _parent_and_name(pid: str) -> tuple[int, tuple[int, str]] | None:
    """A process's id, its parent's, and what it is called."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        return int(pid), (int(fields[1]), Path("/proc", pid, "cmdline").read_text(errors="replace"))
    except OSError:
        return None


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that another thread or process brings about; a busy machine may take its time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
