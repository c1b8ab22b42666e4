"""The files that samples are made from, as they are now: a stat a file where nothing changed, its content else."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

from blake3 import blake3

from pipeline.data_dir import GONE, Stat, list_files, opened, stat_source
from pipeline.meshes.mesh import MeshError
from pipeline.meshes.places import leads_out, open_file
from shards.index import SourceFile
from shards.places import Place

# Hashing waits for disks, and networks more than for the processor.
THREADS = 8
_CHUNK = 1 << 20
_NUM_REMEMBERED = 64


class SourceFiles:
    """Files under a data directory as they are now; where size and time are those recorded, so is the digest."""

    def __init__(
        self,
        root: Place,
        recorded: Iterable[SourceFile],
        verify: bool = False,
        listed: Mapping[str, Stat] | None = None,
    ) -> None:
        """Take what was `recorded` as true where size and time agree, or nothing of it with `verify`.

        Under a URL, sizes and times are those that were `listed`, or are listed now: nothing is asked file by file.
        """
        self.root, self.verify = root, verify
        self._recorded, self._listed = recorded, listed
        self._current: dict[str, SourceFile] = {}

    def are_as_recorded(self, files: Iterable[SourceFile]) -> bool:
        """Whether all of `files` have the size and the time that they had; none is taken to with `verify`."""
        stat = self._stat
        return not self.verify and all([stat(file.path) == (file.size, file.mtime_ns) for file in files])

    def look(self, paths: Iterable[str]) -> None:
        """Look at files, many at a time; those that changed are read."""
        if not (wanted := dict.fromkeys(paths)):
            return
        known = {file.path: replace(file, named=False) if file.named else file for file in self._recorded}
        same = {path: known[path] for path in wanted if path in known and self.are_as_recorded([known[path]])}
        stale = [path for path in wanted if path not in same]
        self._current.update(same)
        with ThreadPoolExecutor(THREADS) as pool:
            self._current.update(zip(stale, pool.map(lambda path: read_source(self.root, path), stale), strict=True))

    def __getitem__(self, path: str) -> SourceFile:
        """A file that was looked at."""
        return self._current[path]

    @cached_property
    def _stat(self) -> Callable[[str], Stat]:
        if isinstance(self.root, Path):
            # Samples of a subject lie side by side, and may all depend on its neutral scan.
            return lru_cache(_NUM_REMEMBERED)(partial(stat_source, self.root))
        listed = list_files(self.root) if self._listed is None else self._listed
        return lambda path: listed.get(path, GONE)


def read_source(root: Place, path: str) -> SourceFile:
    """Size, time and digest of a source; -1 and "" where it cannot be had.

    Raises:
        StorageError: whether it is there cannot be told.
    """
    with opened(root) as files:
        return digested(files.root, path, files.fetch(path))


def digested(root: Path, path: str, stat: Stat) -> SourceFile:
    """A source of that size and time, which lies under `root`, with its digest; "" where it cannot be read."""
    size, mtime_ns = stat
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
