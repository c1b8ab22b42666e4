"""Find the Ray workers of this process for tests that kill them; processes of others are not touched."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def workers(name: str = "ray::MapBatches") -> list[int]:
    """Ids of descendants of this process with `name` in their command line; by default those that render."""
    processes = dict(filter(None, map(_parent_and_command, filter(str.isdigit, os.listdir("/proc")))))

    def is_ours(pid: int) -> bool:
        while pid in processes and pid != os.getpid():
            pid = processes[pid][0]
        return pid == os.getpid()

    return [pid for pid, (_, command) in sorted(processes.items()) if name in command and is_ours(pid)]


def _parent_and_command(pid: str) -> tuple[int, tuple[int, str]] | None:
    """The id of a process, the id of its parent, and its command line; None if it has ended."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        return int(pid), (int(fields[1]), Path("/proc", pid, "cmdline").read_text(errors="replace"))
    except OSError:
        return None


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds that another thread or process fulfils; the machine may be busy."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"timed out after {seconds} s"
        time.sleep(0.02)
