"""The data that flows through a render: units of work, what each step adds to them, and how units form batches."""

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.file_index import printable
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import StepSeconds
from smile_pipe.pipeline.rendering.backend import QUANTISED_BYTES
from smile_pipe.shards.errors import StorageError
from smile_pipe.shards.index import SourceFile
from smile_pipe.shards.sample import Frame, MeshStatistics

# Enough frames that the work of a batch outweighs its overhead, few enough that its meshes fit in memory.
MAX_FRAMES_PER_BATCH = 16
# Limit on the quantised images of a batch, which wait to be encoded: large images and many views make batches smaller.
MAX_BATCH_BYTES = 128 << 20

Item = TypeVar("Item")

STORAGE = "storage"
"""The stage of a failure that the storage caused, and not the sample."""

Measures = Mapping[str, float] | None
"""Measures of a face by name, see `smile_pipe.pipeline.captions.geometry.measure`; None without landmarks."""


@dataclass(frozen=True)
class WorkUnit:
    """Consecutive rendered frames of one sample.

    A scan is one unit. A long sequence is several units, so that the meshes and images of a unit fit in memory.

    Attributes:
        sample: the scan or the sequence.
        start: index of the first frame, counted among the rendered frames.
        stop: index after the last frame.
    """

    sample: SampleSource
    start: int = 0
    stop: int = 1

    @property
    def name(self) -> str:
        """A name that is unique within a job; units of one sample may be processed at the same time."""
        return f"{self.sample.key}.{self.start}"


@dataclass(frozen=True)
class ReadInfo:
    """What a sample's record and prompt need to know from the reading of a unit.

    Attributes:
        frame: transformation from the scan's coordinates to the canonical frame.
        numbers: frame numbers in the recording of all rendered frames of the sample.
        apex: frame number of the largest displacement; None unless frames are sampled around the apex.
        measures: measures of each mesh of the unit, for captions.
        reference: measures that they are compared with: of the subject's neutral scan or of the onset; None compares
            with the population.
        notes: what is odd about the scans that were read, each with the path of its file.
        num_without_face: number of frames of the unit, after the onset, in which no landmarks are found.
    """

    frame: Frame
    numbers: tuple[int, ...] = (0,)
    apex: int | None = None
    measures: tuple[Measures, ...] = ()
    reference: Measures = None
    notes: tuple[str, ...] = ()
    num_without_face: int = 0


@dataclass(frozen=True)
class Failure:
    """Why a sample could not be processed.

    Attributes:
        stage: `read`, `render`, `encode`, `text` or `STORAGE`.
        reason: one line for people.
    """

    stage: str
    reason: str

    @classmethod
    def of(cls, stage: str, error: Exception, root: str = "") -> Self:
        """Describe an exception.

        Args:
            stage: the step that raised it.
            error: the exception. A `StorageError` gives the stage `STORAGE`.
            root: local data directory; it is removed from paths in the reason, as it differs between machines.
        """
        if isinstance(error, StorageError):
            return cls(STORAGE, str(error))
        # A MeshError is written for users. Other errors are bugs of ours, and need their position in the code.
        position = "" if isinstance(error, (MeshError, OSError)) else f" at {_position(error)}"
        reason = f"{error}" if isinstance(error, MeshError) else f"{type(error).__name__}: {error}{position}"
        return cls(stage, printable(reason.replace(f"{root}/", "") if root else reason)[:1000])


@dataclass(frozen=True, eq=False)
class ProcessedUnit:
    """A unit and the results of the steps read, render and encode.

    Each step fills its own fields and empties the arrays of the step before. A unit with a `failure` passes through
    the later steps unchanged.

    Attributes:
        work: the frames to process.
        sources: every file that the result depends on, with its digest (read).
        failure: why a step failed; None if none did.
        seconds: time of each step.
        info: see `ReadInfo` (read).
        statistics: of the first mesh (render).
        meshes: one a frame, in the canonical frame (read; emptied by render).
        pixels: quantised images, one mapping a frame from channel to array [V, H, W] or [V, H, W, 3] (render; emptied
            by encode).
        images: encoded images, ordered by frame, view and channel (encode; before it `rgb` only, if a GPU encodes it).
        weighted_sums: int64 [V, H, W] or [V, H, W, 3] by channel, the unit's part of the dynamic images (encode).
    """

    work: WorkUnit
    sources: tuple[SourceFile, ...] = ()
    failure: Failure | None = None
    seconds: StepSeconds = field(default_factory=StepSeconds)
    info: ReadInfo | None = None
    statistics: MeshStatistics | None = None
    meshes: Sequence[Mesh] = ()
    pixels: Sequence[Mapping[str, NDArray]] = ()
    images: Sequence[bytes] = ()
    weighted_sums: Mapping[str, NDArray[np.integer]] = field(default_factory=dict)


# Ray pickles what its processes send to each other. A table of Arrow types would take four times the code, and save
# 0.3 ms of the 15 ms that a unit takes.
_SCHEMA = pa.schema([("unit", pa.large_binary())])


def to_table(units: Iterable[ProcessedUnit]) -> pa.Table:
    """Convert units to a table for an operator of Ray Data, one after the other: only one is in memory twice."""
    tables = [pa.Table.from_pydict({"unit": [pickle.dumps(unit)]}, _SCHEMA) for unit in units]
    return pa.concat_tables(tables) if tables else _SCHEMA.empty_table()


def from_table(table: pa.Table) -> Iterator[ProcessedUnit]:
    """Convert the rows of a table back."""
    return (pickle.loads(cell.as_buffer()) for cell in table["unit"])


def select_inputs(sample: SampleSource, settings: RenderSettings) -> SampleSource:
    """Return the sample with only those files that its images and text depend on."""
    if sample.frame_rate is None:
        return sample if sample.neutral is None or settings.needs_neutral else replace(sample, neutral=None)
    files = dict(zip(sample.frame_numbers, sample.frames, strict=True))
    numbers, num_recorded = settings.sequences.frames_to_read(sample.frame_numbers), sample.frame_numbers[-1] + 1
    return replace(
        sample,
        frames=tuple(files[number] for number in numbers),
        neutral=None,
        numbers=numbers,
        num_recorded=num_recorded,
    )


def notes_of(sample: SampleSource, infos: Sequence[ReadInfo]) -> list[str]:
    """Return the notes on a sample that was read in units, each once."""
    notes = list(dict.fromkeys(note for info in infos for note in info.notes))
    if num_without_face := sum(info.num_without_face for info in infos):
        frames = f"{num_without_face} of {len(infos[0].numbers)} frames"
        notes.append(printable(f"{sample.frames[0].mesh}: no face found in {frames}; they have no landmarks"))
    return notes


def num_stored_frames(sample: SampleSource, settings: RenderSettings) -> int:
    """Return about how many images of each view and channel a sample has: its weight when a shard is filled."""
    if sample.frame_rate is None or settings.sequences.temporal == "dynamic":
        return 1
    return settings.sequences.num_selected(sample.frame_numbers)


def split_into_units(sample: SampleSource, settings: RenderSettings) -> list[WorkUnit]:
    """Return the units of a sample that `select_inputs` returned, in the order of time."""
    count = 1 if sample.frame_rate is None else settings.sequences.num_selected(sample.frame_numbers)
    size = max_frames_per_batch(settings)
    return [WorkUnit(sample, start, min(start + size, count)) for start in range(0, count, size)]


def batch_units(samples: Sequence[SampleSource], settings: RenderSettings) -> Iterator[list[WorkUnit]]:
    """Yield the units of samples in order, in batches of at most `max_frames_per_batch` frames."""
    units = (unit for sample in samples for unit in split_into_units(sample, settings))
    return group_by_weight(units, max_frames_per_batch(settings), lambda unit: unit.stop - unit.start)


def group_by_weight(items: Iterable[Item], capacity: int, weight: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Group items in order so that the weights of a group add up to at most `capacity`, or it has one member."""
    group: list[Item] = []
    total = 0
    for item in items:
        if group and total + weight(item) > capacity:
            yield group
            group, total = [], 0
        group.append(item)
        total += weight(item)
    if group:
        yield group


def max_frames_per_batch(settings: RenderSettings) -> int:
    """Return how many frames a batch may hold so that its quantised images fit in memory."""
    return max(1, min(MAX_FRAMES_PER_BATCH, MAX_BATCH_BYTES // bytes_per_frame(settings)))


def bytes_per_frame(settings: RenderSettings) -> int:
    """Return the size of the quantised images of a frame."""
    return len(settings.views) * settings.size**2 * sum(QUANTISED_BYTES[name] for name in settings.channels)


def _position(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
