"""Fingerprints of samples, from which a plan knows which samples have to be rendered, rewritten or neither.

A sample has two fingerprints. That of its images covers the files that the images show and the settings of rendering.
That of the whole sample also covers the labels and what the prompt is made from. Equal fingerprints mean equal bytes.

The files of samples are compared by size and time, and read only if one of these changed.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from smile_pipe.pipeline.captions.action_units import MAX_PHRASES, has_unnamed_units
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import MISSING, Stat, list_files, open_data_dir, stat_source
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.paths import escapes_root, open_file
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.shards.index import SourceFile
from smile_pipe.shards.manifest import fingerprint
from smile_pipe.shards.storage import PathLike, StoragePath

# Neither pydantic nor sorted keys: they would take most of the time of a plan for 100,000 samples.
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


@dataclass(frozen=True)
class SampleFingerprints:
    """Computes fingerprints of samples under fixed settings.

    Attributes:
        layout: name of the layout, which the records contain.
        images_settings: fingerprint of the settings that the images depend on.
        prompt_settings: returns what a sample's prompt depends on besides the sample.
        shows_neutral: whether the images depend on the subject's neutral scan.
    """

    layout: str
    images_settings: str
    prompt_settings: Callable[[SampleSource], str]
    shows_neutral: bool = False

    @classmethod
    def of(cls, settings: RenderSettings, layout: str) -> Self:
        """Return those of a render with these settings."""

        @cache
        def templates(expression: str) -> str:
            return fingerprint(settings.prompts.templates_for(expression))

        def prompt(sample: SampleSource) -> str:
            if settings.text_source == "label":
                return templates(sample.expression)
            # Earlier versions named all units.
            is_shortened = settings.text_source == "au" and has_unnamed_units(sample.action_units or {})
            return f"au, {MAX_PHRASES} units" if is_shortened else settings.text_source

        return cls(layout, settings.images_fingerprint, prompt, "flow" in settings.channels)

    def images(self, sample: SampleSource, files: Sequence[SourceFile]) -> str:
        """Return the fingerprint of a sample's images, given the digests of its files."""
        neutral = set() if self.shows_neutral or sample.neutral is None else set(sample.neutral.paths)
        shown = [[file.path, file.blake3] for file in files if file.path not in neutral]
        return _digest([self.images_settings, shown, self._roles(sample)])

    def whole(self, sample: SampleSource, images: str, files: Sequence[SourceFile]) -> str:
        """Return the fingerprint of the whole sample; `images` is that of its images."""
        labels = [sample.key, sample.subject, sample.expression, sample.level, sorted(sample.labels.items())]
        units = None if sample.action_units is None else sorted(sample.action_units.items())
        neutral = None if sample.neutral is None else [sample.neutral.axes, *(file.blake3 for file in files)]
        # The roles are needed here too: with the same files, other roles can give other images.
        return _digest([images, self.layout, labels, units, self.prompt_settings(sample), neutral, self._roles(sample)])

    def _roles(self, sample: SampleSource) -> list[Any]:
        """Which file has which role in the sample."""
        scans = (*sample.frames, sample.neutral) if sample.neutral and self.shows_neutral else sample.frames
        frames = [[scan.mesh, scan.texture, scan.landmarks, scan.axes, scan.is_texture_chosen] for scan in scans]
        is_neutral = sample.expression == "NE" if self.shows_neutral else None
        return [frames, sample.frame_rate, sample.numbers, sample.num_recorded, is_neutral]


def _digest(value: Any) -> str:
    return blake3(_ENCODER.encode(value).encode()).hexdigest(length=16)


# Hashing waits for disks and networks more than for the processor.
NUM_THREADS = 8
# Stays in the cache of a core between reading and hashing; twice as fast as 1 MiB, which is new memory for each chunk.
_CHUNK = 1 << 18
_CACHE_SIZE = 64


class SourceFiles:
    """The files of a data directory as they are now; a file with its recorded size and time has its recorded digest."""

    def __init__(
        self,
        root: PathLike,
        verify: bool = False,
        listed: Mapping[str, Stat] | None = None,
    ) -> None:
        """Prepare to compare files.

        Args:
            root: the data directory.
            verify: read all files, whatever their size and time.
            listed: sizes and times under a URL, which is listed if they are None: no request is made for each file.
        """
        self.root, self.verify = StoragePath(root), verify
        self._listed = listed
        self._current: dict[str, SourceFile] = {}

    def are_unchanged(self, files: Iterable[SourceFile]) -> bool:
        """Whether all `files` have their recorded sizes and times; always False with `verify`."""
        stat = self._stat
        return not self.verify and all([stat(file.path) == (file.size, file.mtime_ns) for file in files])

    def load(self, paths: Iterable[str], recorded: Iterable[SourceFile]) -> None:
        """Load files, many at a time; those that changed are read.

        Args:
            paths: the files.
            recorded: files with the size, time and digest that they had.
        """
        if not (wanted := [path for path in dict.fromkeys(paths) if path not in self._current]):
            return
        known = {file.path: replace(file, named=False) if file.named else file for file in recorded}
        same = {path: known[path] for path in wanted if path in known and self.are_unchanged([known[path]])}
        stale = [path for path in wanted if path not in same]
        self._current.update(same)
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            self._current.update(zip(stale, pool.map(lambda path: read_source(self.root, path), stale), strict=True))

    def __getitem__(self, path: str) -> SourceFile:
        """Return a loaded file."""
        return self._current[path]

    @cached_property
    def _stat(self) -> Callable[[str], Stat]:
        if self.root.is_local:
            # Samples of a subject follow each other, and may all depend on its neutral scan.
            return lru_cache(_CACHE_SIZE)(partial(stat_source, str(self.root.local)))
        listed = list_files(self.root) if self._listed is None else self._listed
        return lambda path: listed.get(path, MISSING)


def read_source(root: StoragePath, path: str) -> SourceFile:
    """Return size, time and digest of a file; -1 and "" if it is missing.

    Raises:
        StorageError: the storage failed, so that the file may or may not exist.
    """
    with open_data_dir(root) as files:
        return hash_source(files.root, path, files.fetch(path))


def hash_source(root: Path, path: str, stat: Stat) -> SourceFile:
    """Return the file `path` under `root`, of size and time `stat`, with its digest; "" if it cannot be read."""
    size, mtime_ns = stat
    digest = blake3()
    try:
        if escapes_root(root, path):
            return SourceFile(path, size, mtime_ns, "")
        with open_file(root / path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (OSError, MeshError):
        return SourceFile(path, size, mtime_ns, "")
    return SourceFile(path, size, mtime_ns, digest.hexdigest(length=16))
