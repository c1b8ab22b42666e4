"""The files that samples are made from, as they are now: a stat a file where nothing changed, its content else."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from pipeline.meshes.mesh import MeshError
from pipeline.meshes.places import leads_out, open_file
from shards.index import SourceFile

# Hashing waits for disks, and networks more than for the processor.
THREADS = 8
_CHUNK = 1 << 20


class SourceFiles:
    """Digests of files under a data directory, remembered by (path, size, mtime_ns)."""

    def __init__(self, root: Path, known: Mapping[str, SourceFile], verify: bool = False) -> None:
        """Take what is `known` as true where size and time agree, or nothing of it with `verify`."""
        self.root, self.verify = root, verify
        self._known = known
        self._current: dict[str, SourceFile] = {}

    def look(self, paths: Iterable[str]) -> None:
        """Look at files, many at a time; those that changed are read."""
        stale = []
        for path in dict.fromkeys(paths):
            known, (size, mtime_ns) = self._known.get(path), stat_source(self.root, path)
            if known is not None and not self.verify and (known.size, known.mtime_ns) == (size, mtime_ns):
                self._current[path] = known
            else:
                stale.append(path)
        with ThreadPoolExecutor(THREADS) as pool:
            self._current.update(zip(stale, pool.map(lambda path: read_source(self.root, path), stale), strict=True))

    def __getitem__(self, path: str) -> SourceFile:
        """A file that was looked at."""
        return self._current[path]


def read_source(root: Path, path: str) -> SourceFile:
    """Size, time and digest of a source; -1 and "" where it cannot be had."""
    size, mtime_ns = stat_source(root, path)
    digest = blake3()
    try:
        if leads_out(root, path):
            return SourceFile(path, size, mtime_ns, "")
        with open_file(root / path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (OSError, MeshError):
        return SourceFile(path, size, mtime_ns, "")
    return SourceFile(path, size, mtime_ns, digest.hexdigest(length=16))


def stat_source(root: Path, path: str) -> tuple[int, int]:
    """Size and modification time of a source; (-1, -1) where it cannot be had."""
    try:
        status = os.stat(f"{root}/{path}")
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
