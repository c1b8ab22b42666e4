"""What a layout is: it looks at the files under a data directory and says which samples they are.

Goes in: a `FileIndex` of the directory. Comes out: one `SampleSource` a sample, in the order of their keys. Promised:
unique keys, and no path that leaves the directory.

Sequences whose frames are numbered files of one folder.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from blake3 import blake3

from smile_pipe.pipeline.datasets.data_dir import Stat
from smile_pipe.pipeline.datasets.file_index import LANDMARKS, TEXTURES, FileIndex, printable, stem_of
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import KEY
from smile_pipe.shards.storage import StoragePath

_MAX_KEY = 80
_DIGEST_LETTERS = 8


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan; paths are relative to the data directory, with '/'."""

    mesh: str
    texture: str | None = None
    landmarks: str | None = None

    @classmethod
    def with_sidecars(cls, mesh: str, index: FileIndex) -> "ScanFiles":
        """A mesh with the texture and the landmarks that have its name, where there are any."""
        stem = stem_of(mesh)
        return cls(mesh, index.first_existing(stem, TEXTURES), index.first_existing(stem, LANDMARKS))

    @property
    def paths(self) -> tuple[str, ...]:
        """Those that are there, each once, mesh first."""
        return tuple(filter(None, dict.fromkeys((self.mesh, self.texture, self.landmarks))))


@dataclass(frozen=True)
class SampleSource:
    """One sample as it lies on disk, with its labels.

    Attributes:
        expression: a code of the field, or another word in lower case; several are joined by ';', in a fixed order.
        frames: the scan, or the scans of a sequence in the order of time.
        frame_rate: frames a second of a sequence; None for a scan.
        neutral: the subject's neutral scan, for a scan whose subject has one.
        action_units: FACS action units, "AU12" -> intensity from 0 to 1; None where the dataset does not code them.
        labels: everything else that is known of the sample.
        label_files: tables that its labels were read from; nothing is rendered from them.
        numbers: which frames of the recording `frames` are, where not all of them are needed.
        num_recorded: how many frames that recording has.
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

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """All files that the sample depends on, each once, those of the first frame first."""
        if len(self.frames) == 1 and self.neutral is None:
            return self.frames[0].paths
        scans = (*self.frames, self.neutral) if self.neutral else self.frames
        return tuple(dict.fromkeys(path for scan in scans for path in scan.paths))


@dataclass(frozen=True)
class FoundSamples:
    """What a data directory holds.

    Attributes:
        layout: the name of the layout that was used.
        evidence: why it was: a sentence about what lies there.
        samples: all samples, in the order of their keys.
        ignored: what was left out, in a few lines: how many files of which kind, and where.
        stats: size and time of each file, where listing them told; None on a disk.
    """

    layout: str
    match_reason: str
    samples: tuple[SampleSource, ...]
    skipped: tuple[str, ...] = ()
    stats: Mapping[str, Stat] | None = None


class DatasetAdapter(Protocol):
    """How one dataset lies on disk."""

    name: str

    def match_reason(self, index: FileIndex) -> str:
        """What in the directory looks like this layout, in a few words; "" where nothing does."""
        ...

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """All samples of the directory.

        Raises:
            UsageError: a labels table that cannot be used, or a sequence with two scans for one frame.
        """
        ...


def make_key(name: str) -> str:
    """A key for a name that people chose: signs that a key cannot have become '-'.

    Where letters are lost that way (they are not ASCII, or there are too many), a digest of the name follows, so that
    names which differ only in those have different keys.
    """
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    if name.isascii() and len(key) <= _MAX_KEY:
        return key
    digest = blake3(name.encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"{key[: _MAX_KEY - len(digest) - 1].rstrip('-')}-{digest}"


def sort_by_key(samples: Iterable[SampleSource], root: StoragePath) -> list[SampleSource]:
    """`samples` in the order of their keys.

    Raises:
        UsageError: two samples share a key, or a key cannot name one.
    """
    by_key: dict[str, SampleSource] = {}
    for sample in samples:
        if not KEY.fullmatch(sample.key):
            mesh = printable(sample.frames[0].mesh)
            raise UsageError(f"{root}: {mesh} gives the key {sample.key!r}; a key has 1 to {_MAX_KEY} ASCII letters")
        if sample.key in by_key:
            other, mesh = (printable(one.frames[0].mesh) for one in (by_key[sample.key], sample))
            raise UsageError(f"{root}: two files give the key {sample.key}: {other} and {mesh}; move one away")
        by_key[sample.key] = sample
    return [by_key[key] for key in sorted(by_key)]


def add_neutral_scans(samples: Iterable[SampleSource]) -> list[SampleSource]:
    """`samples`, in their order, where each scan of an expression knows its subject's neutral scan.

    Of several neutral scans the first one is meant. A sequence begins with a neutral face of its own.
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
        name: what the pattern found in the path of the first frame.
        frames: in the order of their numbers.
    """

    name: re.Match[str]
    frames: tuple[ScanFiles, ...]


def count_sequences(index: FileIndex, pattern: re.Pattern[str]) -> int:
    """How many folders hold meshes whose paths fit `pattern`."""
    return len({path[: path.rfind("/")] for path in index.meshes if pattern.fullmatch(path)})


def find_sequences(index: FileIndex, pattern: re.Pattern[str]) -> Iterator[FrameSequence]:
    """The sequences of all folders that hold meshes whose paths fit `pattern`; its group `frame` is the number.

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
                raise UsageError(f"{index.root}: {paths} are the same frame of a sequence; move one away")
    for frames in folders.values():
        matches = [frames[number] for number in sorted(frames)]
        yield FrameSequence(matches[0], tuple(ScanFiles.with_sidecars(match.string, index) for match in matches))
