"""One sample <-> the members of a tar: `KEY.json`, `KEY.txt`, then `KEY.VIEW.CHANNEL.EXT` in rig and channel order.

A sequence has one image a frame, `KEY.VIEW.CHANNEL.03.EXT`, or one for all of them, `KEY.VIEW.CHANNEL.dynamic.png`, or
both.

Goes in: a `Sample`, or the members of one key. Comes out: the other. Promised: the round trip is exact, and decoding
never runs code from the data: JSON is validated by pydantic, images are decoded as images, nothing is unpickled.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from smile_pipe.shards.images import CHANNELS, DYNAMIC, extension
from smile_pipe.shards.manifest import Frozen, TextSource, canonical_json

KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_SHOWN = 8
MAX_FRAMES = 10_000  # of a sequence, in one sample; each is an image of each view and channel
VIEW = re.compile(r"[a-z0-9_-]{1,40}")

CAMERA_CONVENTION = (
    "camera axes +x left, +y up, +z into the scene; x_camera = x_world R + T (row vectors); "
    "pixel u = K[0][2] - K[0][0] x/z, v = K[1][2] - K[1][1] y/z (orthographic: without / z); pixel centres at .5; "
    "normals and flow x right, y up, z to the viewer"
)


class SampleError(ValueError):
    """The members of a key do not make a sample; the message says which and why."""


class Camera(Frozen):
    """One view's camera, in the convention of `CAMERA_CONVENTION`; `K` in pixels."""

    name: str
    projection: Literal["perspective", "orthographic"]
    K: tuple[tuple[float, float, float], ...]
    R: tuple[tuple[float, float, float], ...]
    T: tuple[float, float, float]


class Frame(Frozen):
    """The similarity from the scan's coordinates to the canonical frame: x_frame = scale * x R + T (row vectors)."""

    method: Literal["landmarks", "bounds"]
    scale: float
    R: tuple[tuple[float, float, float], ...]
    T: tuple[float, float, float]


class DepthScale(Frozen):
    """How 16-bit depth is read: 0 is background, v > 0 lies at `near + (v - 1) * step` frame units from the camera."""

    near: float
    step: float


class FlowScale(Frozen):
    """How 16-bit flow is read: v is `(v - 32768) * step` frame units."""

    step: float


class DynamicScale(Frozen):
    """How a dynamic image is read: v is `(v - 128) * step`, in the units of the weighted sum of the frames' pixels."""

    step: float


Sampling = Literal["uniform", "apex", "all"]
Temporal = Literal["frames", "dynamic", "both"]


class Timeline(Frozen):
    """Which frames of a sequence its images show, numbered from 0 in the sequence as it lies on disk.

    Attributes:
        onset: the frame that the others are framed by, measured against and magnified from.
        apex: the frame of the largest displacement from the onset, where it was looked for.
        magnify: what displacements from the onset were multiplied by.
    """

    frame_rate: float
    num_source_frames: int
    frames: Annotated[tuple[int, ...], Field(max_length=MAX_FRAMES)]
    sampling: Sampling
    temporal: Temporal
    onset: int
    apex: int | None
    magnify: float
    dynamic: Mapping[str, DynamicScale]

    @property
    def moments(self) -> tuple[str, ...]:
        """What follows the channel in the names of the images: numbers of frames, and `dynamic`."""
        digits = max(2, len(str(len(self.frames) - 1)))
        numbers = tuple(f"{n:0{digits}d}" for n in range(len(self.frames)))
        return {"frames": numbers, "dynamic": (DYNAMIC,), "both": (*numbers, DYNAMIC)}[self.temporal]


class Caption(Frozen):
    """Where a prompt that was written for this one sample comes from: measured deviations, or coded action units.

    Attributes:
        reference: what was measured against: the subject's neutral scan, the first frame, the population, or nothing.
    """

    source: Literal["geometry", "au"]
    reference: Literal["neutral", "first-frame", "population", "none"]
    numbers: Mapping[str, float]


# On disk no level is 0, as in BU-3DFE's names: readers that infer the types of a column from its first rows (Hugging
# Face datasets) break when those are null and later ones are not.
Level = Annotated[int | None, BeforeValidator(lambda level: level or None), PlainSerializer(lambda level: level or 0)]


class MeshStatistics(Frozen):
    """What was rendered, in numbers; of a sequence, its first rendered frame."""

    num_vertices: int
    num_faces: int
    surface: Literal["texture", "vertex-colors", "plain"]
    num_landmarks: int


class SampleRecord(Frozen):
    """`KEY.json`: labels, provenance, cameras, and the numbers needed to read the images."""

    schema_version: Literal[2] = 2
    key: str
    subject: str
    expression: str
    level: Level
    labels: Mapping[str, str]
    layout: str
    source: str
    fingerprint: str
    text_source: TextSource
    concept: str
    convention: str = CAMERA_CONVENTION
    cameras: tuple[Camera, ...]
    channels: tuple[str, ...]
    frame: Frame
    depth: DepthScale | None
    flow: FlowScale | None = None
    mesh: MeshStatistics
    timeline: Timeline | None = None
    action_units: Mapping[str, float] = {}
    caption: Caption | None = None

    @property
    def images(self) -> list[tuple[str, str]]:
        """The (view, name) of each image, in the order of the format; a name is `rgb`, `rgb.03` or `rgb.dynamic`."""
        moments = ("",) if self.timeline is None else tuple(f".{moment}" for moment in self.timeline.moments)
        return [
            (camera.name, f"{channel}{moment}")
            for camera in self.cameras
            for channel in self.channels
            for moment in moments
        ]


@dataclass(frozen=True)
class Sample:
    """A rendered sample: its record, its prompt, and its encoded images by (view, name)."""

    record: SampleRecord
    text: str
    images: Mapping[tuple[str, str], bytes] = field(repr=False)


def to_members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """Member names and contents of a sample, in the order of the format.

    Raises:
        SampleError: a key that cannot name members, or images that are not those of the record.
    """
    key = sample.record.key
    if not KEY.fullmatch(key):
        raise SampleError(f"{key!r} cannot name a sample: use 1-80 letters, digits, '_' and '-'")
    suffixes = _image_suffixes(sample.record)
    if suffixes.keys() != sample.images.keys():
        odd = sorted(".".join(name) for name in suffixes.keys() ^ sample.images.keys())
        raise SampleError(f"{key}: images on one side only of the record and the sample: {', '.join(odd)}")
    yield f"{key}.json", canonical_json(sample.record, indent=None).encode()
    yield f"{key}.txt", sample.text.encode()
    for name, suffix in suffixes.items():
        yield f"{key}.{suffix}", sample.images[name]


def from_members(members: Mapping[str, bytes]) -> Sample:
    """Rebuild a sample from its members (names as in the tar).

    Raises:
        SampleError: a member is missing, unexpected or malformed.
    """
    by_suffix = {name.partition(".")[2]: content for name, content in members.items()}
    keys = {name.partition(".")[0] for name in members}
    if len(keys) != 1 or "json" not in by_suffix or "txt" not in by_suffix:
        raise SampleError(f"members {sorted(members)} are not one sample with its .json and .txt")
    key = keys.pop()
    try:
        record = SampleRecord.model_validate_json(by_suffix.pop("json"))
    except ValidationError as error:
        raise SampleError(f"{key}.json: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None
    if record.key != key:
        raise SampleError(f"{key}.json names the key {record.key!r}")
    try:
        text = by_suffix.pop("txt").decode()
    except UnicodeDecodeError as error:
        raise SampleError(f"{key}.txt is not UTF-8 text ({error})") from None
    suffixes = _image_suffixes(record)
    if odd := sorted(set(suffixes.values()) ^ by_suffix.keys()):
        shown = ", ".join(odd[:_SHOWN]) + (f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else "")
        raise SampleError(f"{key}: images on one side only of the record and the shard: {shown}")
    return Sample(record, text, {name: by_suffix[suffix] for name, suffix in suffixes.items()})


def _image_suffixes(record: SampleRecord) -> dict[tuple[str, str], str]:
    """What follows the key in the name of each image, by (view, name), in the order of the format."""
    if unknown := set(record.channels) - set(CHANNELS):
        raise SampleError(f"{record.key}.json: unknown channel {min(unknown)!r}")
    return {(view, name): f"{view}.{name}.{extension(name)}" for view, name in record.images}
