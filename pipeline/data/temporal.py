"""Choice of the images of a sequence that are decoded: some of its frames, its dynamic image, or both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smile_pipe.model.config import DYNAMIC_TIME
from smile_pipe.pipeline.data.integrity import OnBadShard, first_readable
from smile_pipe.pipeline.sequences.sampling import evenly_spaced
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import DYNAMIC
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import SampleError, SampleRecord, Temporal, Timeline
from smile_pipe.shards.sample_table import SampleTable

TemporalRead = Temporal | Literal["none"]
"""What is read of sequences; `none` if there are no sequences."""

_DESCRIPTIONS = {"frames": "frames", "dynamic": "the dynamic image", "both": "frames and the dynamic image"}


@dataclass(frozen=True)
class FrameRef:
    """Reference to one frame of a sample: one image per view.

    Attributes:
        suffix: What follows the channel in the name of the images: "", ".07" or ".dynamic".
        time: Time from 0 to 1; see `smile_pipe.model.packing.PackedFrames`.
    """

    suffix: str
    time: float


def is_sequence(row: SampleRow) -> bool:
    """Whether a sample is a sequence; otherwise it is a scan."""
    return row.frame_rate > 0 or row.num_frames > 1


def sequences_of(rows: Sequence[SampleRow]) -> Sequence[SampleRow]:
    """The sequences among samples."""
    if isinstance(rows, SampleTable):
        return rows.filter((rows.array("frame_rate") > 0) | (rows.array("num_frames") > 1))
    return [row for row in rows if is_sequence(row)]


def stored_temporal(shards: ShardSet, rows: Sequence[SampleRow], on_bad_shard: OnBadShard = "fail") -> TemporalRead:
    """What the shards store of the sequences among `rows`; it is equal for all of a set, so only one is read.

    Raises:
        UsageError: A sample is a sequence in the index and a scan in its shard.
        BadSampleError: See `smile_pipe.pipeline.data.integrity.first_readable`.
    """
    sequences = sequences_of(rows)
    if not sequences:
        return "none"
    record = first_readable(shards, sequences, on_bad_shard).record
    if record.timeline is None:
        raise UsageError(
            f"{record.key} is a sequence in the index and a scan in its shard; render again",
            field="shards",
            value=shards.spec,
        )
    return record.timeline.temporal


def default_temporal(stored: TemporalRead) -> TemporalRead:
    """What `auto` reads: frames if they are stored."""
    return "frames" if stored == "both" else stored


def can_read(stored: TemporalRead, requested: TemporalRead) -> bool:
    """Whether shards that store `stored` of their sequences have what is requested; true without sequences."""
    return stored in ("both", requested, "none")


def frames_read(row: SampleRow, temporal: TemporalRead, max_frames: int) -> int:
    """Number of frames of a sample that are read; 0 if only its dynamic image is."""
    return min(row.num_frames, max_frames) if temporal in ("frames", "both") else 0


def describe_temporal(temporal: TemporalRead, max_frames: int) -> str:
    """Describe what is read of each sequence, for cards and reports."""
    if temporal == "none":
        return "no sequences"
    limit = "" if temporal == "dynamic" else f", at most {pluralize(max_frames, 'frame')}"
    return f"{_DESCRIPTIONS[temporal]} of each sequence{limit}"


def select_frames(record: SampleRecord, temporal: TemporalRead, max_frames: int) -> list[FrameRef]:
    """Select the frames of a sample to read.

    Args:
        record: Record of the sample.
        temporal: What to read of a sequence.
        max_frames: Largest number of frames; from longer sequences this many are taken, evenly spaced from the first to
            the last.

    Returns:
        Frames in order of time, then the dynamic image. A scan has one frame, at time 0.

    Raises:
        SampleError: The sequence does not store what is requested.
    """
    timeline = record.timeline
    if timeline is None:
        return [FrameRef("", 0.0)]
    if not can_read(timeline.temporal, temporal) or temporal == "none":
        raise SampleError(f"{record.key}: stores {_DESCRIPTIONS[timeline.temporal]}, unlike the other sequences")
    frames = []
    if temporal != "dynamic":
        count = len(timeline.frames)
        chosen = evenly_spaced(range(count), min(count, max_frames))
        frames = [FrameRef(f".{timeline.moments[n]}", _time(timeline, timeline.frames[n])) for n in chosen]
    if temporal != "frames":
        frames.append(FrameRef(f".{DYNAMIC}", DYNAMIC_TIME))
    return frames


def _time(timeline: Timeline, frame: int) -> float:
    """Time of a source frame between the onset (0) and the end (1) of the recorded sequence."""
    last = timeline.num_source_frames - 1
    return min(max((frame - timeline.onset) / max(last - timeline.onset, 1), 0.0), 1.0)
