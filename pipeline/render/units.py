"""The units of the render job: a sample, or a piece of a long sequence.

A piece holds so few frames that their meshes and images fit in memory, whatever the length of its sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.render.settings import RenderSettings

# Enough scans that a task outweighs its overhead, few enough that the meshes of a parcel fit in memory.
PARCEL = 16
# What the images of a parcel may take before they are encoded: large images and many views make parcels smaller.
PARCEL_BYTES = 256 << 20
BYTES_PER_PIXEL = 31


@dataclass(frozen=True)
class WorkUnit:
    """Some of the frames of a sample that are rendered: from the `start`-th to before the `stop`-th of them."""

    sample: SampleSource
    start: int = 0
    stop: int = 1

    @property
    def name(self) -> str:
        """Tells it from all others of a job, also from those of the same sample, which may be made at the same time."""
        return f"{self.sample.key}.{self.start}"


def needed(sample: SampleSource, settings: RenderSettings) -> SampleSource:
    """The sample with those of its files alone that its images and text depend on.

    Raises:
        ValueError: the window holds no frame of the sequence.
    """
    if sample.frame_rate is None:
        return sample if sample.neutral is None or settings.needs_neutral else replace(sample, neutral=None)
    numbers = settings.sequences.frames_to_read(len(sample.frames))
    frames = tuple(sample.frames[number] for number in numbers)
    return replace(sample, frames=frames, neutral=None, numbers=numbers, num_recorded=len(sample.frames))


def num_stored(sample: SampleSource, settings: RenderSettings) -> int:
    """How many images of each view and channel a sample has, about: what it counts for when a shard is filled."""
    if sample.frame_rate is None or settings.sequences.temporal == "dynamic":
        return 1
    return settings.sequences.num_selected(sample.num_recorded)


def split_into_units(sample: SampleSource, settings: RenderSettings) -> list[WorkUnit]:
    """The pieces of a sample, in the order of time."""
    count = 1 if sample.frame_rate is None else settings.sequences.num_selected(sample.num_recorded)
    size = parcel_size(settings)
    return [WorkUnit(sample, start, min(start + size, count)) for start in range(0, count, size)]


def batch_units(samples: Sequence[SampleSource], settings: RenderSettings) -> Iterator[list[WorkUnit]]:
    """The pieces of some samples, in order, as many together as fit a task."""
    parcel: list[WorkUnit] = []
    num_frames, size = 0, parcel_size(settings)
    for piece in (piece for sample in samples for piece in split_into_units(sample, settings)):
        if parcel and num_frames + piece.stop - piece.start > size:
            yield parcel
            parcel, num_frames = [], 0
        parcel.append(piece)
        num_frames += piece.stop - piece.start
    if parcel:
        yield parcel


def parcel_size(settings: RenderSettings) -> int:
    """Scans in a parcel, so that the renderer's images of one fit in memory."""
    image_bytes = len(settings.views) * settings.size**2 * settings.samples * BYTES_PER_PIXEL
    return max(1, min(PARCEL, PARCEL_BYTES // image_bytes))
