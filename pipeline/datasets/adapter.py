"""The interface of dataset adapters, which find samples in a `FileIndex`, and helpers for sequences of meshes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from blake3 import blake3

from smile_pipe.pipeline.datasets.data_dir import Stat
from smile_pipe.pipeline.datasets.file_index import LANDMARKS, TEXTURES, FileIndex, printable, stem_of
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import KEY
from smile_pipe.shards.storage import StoragePath

_MAX_KEY = 80
_DIGEST_LETTERS = 8
_MAX_DIGITS = 15


@dataclass(frozen=True, slots=True)
class ScanFiles:
    """The files of one scan, as paths relative to the data directory, with '/' as separator.

    Attributes:
        mesh: the mesh.
        texture: an image for a mesh that names none, or none that exists.
        landmarks: the landmarks.
        axes: see `smile_pipe.pipeline.landmarks.axes.parse_axes`; "" if they are those of the dataset.
        is_texture_chosen: `texture` replaces the images that the mesh names, since a labels table names it.
    """

    mesh: str
    texture: str | None = None
    landmarks: str | None = None
    axes: str = ""
    is_texture_chosen: bool = False

    @classmethod
    def with_sidecars(cls, mesh: str, index: FileIndex) -> "ScanFiles":
        """Build from a mesh and the texture and landmarks of the same name, where they exist."""
        stem = stem_of(mesh)
        return cls(mesh, index.first_existing(stem, TEXTURES), index.first_existing(stem, LANDMARKS))

    @property
    def paths(self) -> tuple[str, ...]:
        """The existing files, each once, the mesh first."""
        return tuple(filter(None, dict.fromkeys((self.mesh, self.texture, self.landmarks))))


@dataclass(frozen=True, slots=True)
class SampleSource:
    """One sample on disk, with its labels.

    Attributes:
        key: unique name of the sample.
        subject: name of the subject.
        expression: an expression code, or another word in lower case; several are joined by ';', in a fixed order.
        level: intensity level of the expression, or None.
        frames: the scan, or the scans of a sequence in order of time.
        frame_rate: frames per second of a sequence; None for a scan.
        neutral: the subject's neutral scan, or None.
        action_units: FACS action units, "AU12" -> intensity from 0 to 1; None if the dataset does not code them.
        labels: all other labels.
        label_files: tables from which labels were read. They are not rendered.
        numbers: numbers of `frames` in the recording, in ascending order; its first frame is 0. Some may be missing.
            Empty if none is missing.
        num_recorded: number of frames of the recording, with the missing ones, if `select_inputs` returned the sample.
    """

    key: str
    subject: str
    expression: str
    level: int | None
    frames: tuple[ScanFiles, ...]
    frame_rate: float | None = None
    neutral: ScanFiles | None = None
    action_units: Mapping[str, float] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    label_files: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    num_recorded: int = 1

    @property
    def frame_numbers(self) -> Sequence[int]:
        """`numbers`, also if none is missing."""
        return self.numbers or range(len(self.frames))

    @property
    def paths(self) -> tuple[str, ...]:
        """All files that the sample depends on, each once, those of the first frame first."""
        if len(self.frames) == 1 and self.neutral is None:
            return self.frames[0].paths
        scans = (*self.frames, self.neutral) if self.neutral else self.frames
        return tuple(dict.fromkeys(path for scan in scans for path in scan.paths))


@dataclass(frozen=True)
class FoundSamples:
    """The samples of a data directory.

    Attributes:
        layout: name of the adapter.
        match_reason: why the adapter was chosen: what it recognised in the directory.
        samples: all samples, sorted by key.
        skipped: summary of the files without a sample: how many of which kind, and where.
        stats: size and time of each file, if the listing included them; None for a local directory.
    """

    layout: str
    match_reason: str
    samples: tuple[SampleSource, ...]
    skipped: tuple[str, ...] = ()
    stats: Mapping[str, Stat] | None = None


class DatasetAdapter(Protocol):
    """Finds the samples of one dataset on disk.

    Attributes:
        name: name of the layout, as in the `layout` option.
    """

    name: str

    def match_reason(self, index: FileIndex) -> str:
        """Describe the files of this dataset in the directory in a few words; "" if there are none."""
        ...

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return all samples of the directory.

        Raises:
            UsageError: the labels table is invalid, or a sequence has two scans for one frame.
        """
        ...


def make_key(name: str) -> str:
    """Convert a name into a sample key. Characters that are not allowed become '-'.

    If characters are lost (not ASCII, or too many), a digest of the name follows, so that different names give
    different keys.
    """
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    if name.isascii() and len(key) <= _MAX_KEY:
        return key
    digest = blake3(name.encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"{key[: _MAX_KEY - len(digest) - 1].rstrip('-')}-{digest}"


def sort_by_key(samples: Iterable[SampleSource], root: StoragePath) -> list[SampleSource]:
    """Sort samples by key.

    Raises:
        UsageError: two samples share a key, or a key is invalid.
    """
    by_key: dict[str, SampleSource] = {}
    for sample in samples:
        if not KEY.fullmatch(sample.key):
            mesh = printable(sample.frames[0].mesh)
            raise UsageError(
                f"{root}: {mesh} gives the invalid key {sample.key!r}; a key has 1 to {_MAX_KEY} ASCII letters"
            )
        if sample.key in by_key:
            other, mesh = (printable(one.frames[0].mesh) for one in (by_key[sample.key], sample))
            raise UsageError(
                f"{root}: two files have the same key {sample.key}: {other} and {mesh}; rename or remove one"
            )
        by_key[sample.key] = sample
    return [by_key[key] for key in sorted(by_key)]


def add_neutral_scans(samples: Iterable[SampleSource]) -> list[SampleSource]:
    """Add the neutral scan of the subject to each scan of an expression, keeping the order.

    The first neutral scan is used if there are several. Sequences are unchanged: they start with a neutral face.
    """
    samples = list(samples)
    scans = [sample for sample in samples if sample.frame_rate is None]
    neutral = {scan.subject: scan.frames[0] for scan in reversed(scans) if scan.expression == "NE"}
    return [
        replace(sample, neutral=neutral.get(sample.subject))
        if sample.frame_rate is None and sample.expression != "NE"
        else sample
        for sample in samples
    ]


@dataclass(frozen=True)
class FrameSequence:
    """One folder of numbered meshes.

    Attributes:
        match: match of the pattern on the path of the first frame.
        frames: in the order of their numbers.
        numbers: see `SampleSource`.
    """

    match: re.Match[str]
    frames: tuple[ScanFiles, ...]
    numbers: tuple[int, ...]


def count_sequences(index: FileIndex, pattern: re.Pattern[str]) -> int:
    """Count the folders of meshes whose paths match `pattern`."""
    return len({path[: path.rfind("/")] for path in index.meshes if pattern.fullmatch(path)})


def find_sequences(index: FileIndex, pattern: re.Pattern[str]) -> Iterator[FrameSequence]:
    """Yield the sequence of each folder of meshes whose paths match `pattern`. Its group `frame` is the frame number.

    Raises:
        UsageError: two meshes of a folder have the same number.
    """
    folders: dict[str, dict[int, re.Match[str]]] = {}
    for path in index.meshes:
        if match := pattern.fullmatch(path):
            frames = folders.setdefault(path[: path.rfind("/")], {})
            first = frames.setdefault(int(match["frame"]), match)
            if first is not match:
                paths = f"{printable(first.string)} and {printable(path)}"
                raise UsageError(f"{index.root}: two meshes have the same frame number: {paths}; rename or remove one")
    for frames in folders.values():
        matches = [frames[number] for number in sorted(frames)]
        scans = tuple(ScanFiles.with_sidecars(match.string, index) for match in matches)
        yield FrameSequence(matches[0], scans, count_from_zero(frames))


def count_from_zero(numbers: Iterable[int]) -> tuple[int, ...]:
    """Return frame numbers as in `SampleSource`: sorted, from 0, and empty if no frame is missing."""
    first, *others = sorted(numbers)
    counted = (0, *(number - first for number in others))
    return counted if counted[-1] >= len(counted) else ()


def numbers_in_names(paths: Sequence[str]) -> tuple[int, ...]:
    """Return the frame numbers in the names of the meshes of one sequence, in natural order; the first becomes 0.

    The names must differ in exactly one number, or the result is empty.
    """
    names = [re.split(r"(\d+)", stem_of(path.rpartition("/")[2])) for path in paths]
    if len({path.rpartition("/")[0] for path in paths}) > 1 or len({len(name) for name in names}) > 1:
        return ()
    differing = [i for i, parts in enumerate(zip(*names, strict=True)) if len(set(parts)) > 1]
    if len(differing) != 1 or differing[0] % 2 == 0:
        return ()
    words = [name[differing[0]] for name in names]
    numbers = {int(word) for word in words if len(word) <= _MAX_DIGITS}
    return count_from_zero(numbers) if len(numbers) == len(paths) else ()
