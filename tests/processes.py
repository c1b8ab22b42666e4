"""The processes that Ray renders in, found for tests that kill them."""

from pathlib import Path


def workers() -> list[int]:
    """Processes of Ray that are rendering."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if b"ray::MapBatches" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
