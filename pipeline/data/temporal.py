"""What is read of a sequence: some of its frames, the dynamic image that stands for all of them, or both.

Goes in: what was asked for and what the shards hold. Comes out: the images to decode, each with its time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smile_pipe.model.config import DYNAMIC_TIME
from smile_pipe.pipeline.data.integrity import OnBadShard, first_good
from smile_pipe.pipeline.sequences.sampling import evenly_spaced
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import DYNAMIC
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import SampleError, SampleRecord, Temporal, Timeline

TemporalRead = Temporal | Literal["none"]
"""What is read of sequences; `none` where there are none."""

_WORDS = {"frames": "frames", "dynamic": "the dynamic image", "both": "frames and the dynamic image"}


@dataclass(frozen=True)
class Moment:
    """One image of each view of a sample: what follows the channel in its name, and its time."""

    suffix: str
    time: float


def is_sequence(row: IndexRow) -> bool:
    """Whether a sample is a sequence and no scan."""
    return row.frame_rate > 0 or row.num_frames > 1


def stored_temporal(shards: ShardSet, rows: Sequence[IndexRow], on_bad_shard: OnBadShard = "fail") -> TemporalRead:
    """What the shards hold of the sequences among `rows`; all of a set hold the same, so one of them is opened.

    Raises:
        UsageError: the index promises a sequence where the shard has a scan.
        BadSampleError: see `smile_pipe.pipeline.data.integrity.first_good`.
    """
    sequences = [row for row in rows if is_sequence(row)]
    if not sequences:
        return "none"
    record = first_good(shards, sequences, on_bad_shard).record
    if record.timeline is None:
        raise UsageError(
            f"{record.key} is a sequence in the index and a scan in its shard", field="shards", value=shards.spec
        )
    return record.timeline.temporal


def default_temporal(stored: TemporalRead) -> TemporalRead:
    """What `auto` reads: frames where there are any."""
    return "frames" if stored == "both" else stored


def can_read(stored: TemporalRead, wanted: TemporalRead) -> bool:
    """Whether shards that hold `stored` of their sequences, if they have any, have what is wanted."""
    return stored in ("both", wanted, "none")


def frames_read(row: IndexRow, temporal: TemporalRead, max_frames: int) -> int:
    """How many frames of a sequence are read; 0 where only its dynamic image is."""
    return min(row.num_frames, max_frames) if temporal in ("frames", "both") else 0


def describe_temporal(temporal: TemporalRead, max_frames: int) -> str:
    """What was read of each sequence, for a person."""
    if temporal == "none":
        return "no sequences"
    limit = "" if temporal == "dynamic" else f", at most {pluralize(max_frames, 'frame')}"
    return f"{_WORDS[temporal]} of each sequence{limit}"


def moments_of(record: SampleRecord, temporal: TemporalRead, max_frames: int) -> list[Moment]:
    """The moments of a sample that are read, in order of time, the dynamic image last; a scan has one, at time 0.

    Of more than `max_frames` frames so many are taken, evenly from the first to the last.

    Raises:
        SampleError: the sample has not what is wanted.
    """
    timeline = record.timeline
    if timeline is None:
        return [Moment("", 0.0)]
    if not can_read(timeline.temporal, temporal) or temporal == "none":
        raise SampleError(f"{record.key}: holds {_WORDS[timeline.temporal]}, and not what is read of the others")
    found = []
    if temporal != "dynamic":
        count = len(timeline.frames)
        chosen = evenly_spaced(range(count), min(count, max_frames))
        found = [Moment(f".{timeline.moments[n]}", _time(timeline, timeline.frames[n])) for n in chosen]
    if temporal != "frames":
        found.append(Moment(f".{DYNAMIC}", DYNAMIC_TIME))
    return found


def _time(timeline: Timeline, frame: int) -> float:
    """Where a frame lies between the onset and the end of the sequence as it was recorded, from 0 to 1."""
    last = timeline.num_source_frames - 1
    return min(max((frame - timeline.onset) / max(last - timeline.onset, 1), 0.0), 1.0)
