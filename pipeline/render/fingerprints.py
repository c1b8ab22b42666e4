"""Marks: fingerprints by which a render knows what has to be done again, and what need not.

A sample has two. The mark of its images covers the files that they show and the settings that they were rendered with;
the mark of the whole covers also the labels, and what its prompt is made from. Equal marks mean equal bytes.

The files that samples are made from, as they are now: a stat a file where nothing changed, its content else.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

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
    """The marks of samples under some settings.

    Attributes:
        layout: the name of the layout; it stands in the records.
        images_settings: fingerprint of the settings that decide the images.
        prompt_settings: what of the settings decides a sample's prompt.
        shows_neutral: whether the images depend on the subject's neutral scan.
    """

    layout: str
    images_settings: str
    prompt_settings: Callable[[SampleSource], str]
    shows_neutral: bool = False

    @classmethod
    def of(cls, settings: RenderSettings, layout: str) -> Self:
        """The marks of a render."""

        @cache
        def templates(expression: str) -> str:
            return fingerprint(settings.prompts.templates_for(expression))

        def prompt(sample: SampleSource) -> str:
            return templates(sample.expression) if settings.text_source == "label" else settings.text_source

        return cls(layout, settings.images_fingerprint, prompt, "flow" in settings.channels)

    def images(self, sample: SampleSource, files: Sequence[SourceFile]) -> str:
        """The mark of a sample's images, given its files as they are."""
        neutral = set() if self.shows_neutral or sample.neutral is None else set(sample.neutral.paths)
        shown = [[file.path, file.blake3] for file in files if file.path not in neutral]
        return _digest([self.images_settings, shown, self._roles(sample)])

    def whole(self, sample: SampleSource, images: str, files: Sequence[SourceFile]) -> str:
        """The mark of all of a sample; `images` is that of its images."""
        labels = [sample.key, sample.subject, sample.expression, sample.level, sorted(sample.labels.items())]
        units = None if sample.action_units is None else sorted(sample.action_units.items())
        neutral = None if sample.neutral is None else [file.blake3 for file in files]
        # The roles stand here too: where the files are the same, they alone can make the images others.
        return _digest([images, self.layout, labels, units, self.prompt_settings(sample), neutral, self._roles(sample)])

    def _roles(self, sample: SampleSource) -> list[Any]:
        """What each file is in the sample."""
        frames = [[scan.mesh, scan.texture, scan.landmarks] for scan in sample.frames]
        is_neutral = sample.expression == "NE" if self.shows_neutral else None
        return [frames, sample.frame_rate, sample.numbers, sample.num_recorded, is_neutral]


def _digest(value: Any) -> str:
    return blake3(_ENCODER.encode(value).encode()).hexdigest(length=16)


# Hashing waits for disks, and networks more than for the processor.
THREADS = 8
_CHUNK = 1 << 20
_NUM_REMEMBERED = 64


class SourceFiles:
    """Files under a data directory as they are now; where size and time are those recorded, so is the digest."""

    def __init__(
        self,
        root: PathLike,
        recorded: Iterable[SourceFile],
        verify: bool = False,
        listed: Mapping[str, Stat] | None = None,
    ) -> None:
        """Take what was `recorded` as true where size and time agree, or nothing of it with `verify`.

        Under a URL, sizes and times are those that were `listed`, or are listed now: nothing is asked file by file.
        """
        self.root, self.verify = StoragePath(root), verify
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
        if self.root.is_local:
            # Samples of a subject lie side by side, and may all depend on its neutral scan.
            return lru_cache(_NUM_REMEMBERED)(partial(stat_source, self.root.local))
        listed = list_files(self.root) if self._listed is None else self._listed
        return lambda path: listed.get(path, MISSING)


def read_source(root: PathLike, path: str) -> SourceFile:
    """Size, time and digest of a source; -1 and "" where it cannot be had.

    Raises:
        StorageError: whether it is there cannot be told.
    """
    with open_data_dir(root) as files:
        return digested(files.root, path, files.fetch(path))


def digested(root: Path, path: str, stat: Stat) -> SourceFile:
    """A source of that size and time, which lies under `root`, with its digest; "" where it cannot be read."""
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
