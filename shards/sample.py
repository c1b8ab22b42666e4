"""Conversion between a sample and its tar members: `KEY.json`, `KEY.txt`, and `KEY.VIEW.CHANNEL.EXT` of each image.

A sequence has one image per frame, `KEY.VIEW.CHANNEL.03.EXT`, or one for all frames, `KEY.VIEW.CHANNEL.dynamic.png`, or
both. The round trip is exact. Decoding never runs code from the data: pydantic validates the JSON, and nothing is
unpickled.
"""

import json
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from smile_pipe.shards.images import CHANNELS, DYNAMIC, Pixels, decode_image, extension
from smile_pipe.shards.manifest import Frozen, TextSource, canonical_json

KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_MAX_NAMES_SHOWN = 8
MAX_FRAMES = 10_000  # per sample; each frame has an image for every view and channel
VIEW = re.compile(r"[a-z0-9_-]{1,40}")

CAMERA_CONVENTION = (
    "camera axes +x left, +y up, +z into the scene; x_camera = x_world R + T (row vectors); "
    "pixel u = K[0][2] - K[0][0] x/z, v = K[1][2] - K[1][1] y/z (orthographic: without / z); pixel centres at .5; "
    "normals and flow x right, y up, z to the viewer"
)


class SampleError(ValueError):
    """The members of a key are not a valid sample."""


class Camera(Frozen):
    """The camera of one view, in the convention of `CAMERA_CONVENTION`; `K` is in pixels."""

    name: str
    projection: Literal["perspective", "orthographic"]
    K: tuple[tuple[float, float, float], ...]
    R: tuple[tuple[float, float, float], ...]
    T: tuple[float, float, float]


class Frame(Frozen):
    """Similarity transform from scan coordinates to the canonical frame: x_frame = scale * x R + T (row vectors).

    Attributes:
        method: What it was fitted to: landmarks of a file, landmarks that were detected, or the bounds of the surface.
        num_points: Number of landmarks that it was fitted to; 0 with bounds, and in records of earlier versions.
        residual: Root mean square distance of these landmarks (of the means of their groups) from their places on the
            mean face, millimetres of that face; 0 with bounds, and in records of earlier versions.
        confidence: Of the detection, from 0 to 1; None if the landmarks were not detected.
    """

    method: Literal["landmarks", "detected", "bounds"]
    scale: float
    R: tuple[tuple[float, float, float], ...]
    T: tuple[float, float, float]
    num_points: int = 0
    residual: float = 0.0
    confidence: float | None = None


class DepthScale(Frozen):
    """Scale of 16-bit depth: 0 is background, v > 0 is at `near + (v - 1) * step` frame units from the camera."""

    near: float
    step: float


class FlowScale(Frozen):
    """Scale of 16-bit flow: v is `(v - 32768) * step` frame units."""

    step: float


class DynamicScale(Frozen):
    """Scale of a dynamic image: v is `(v - 128) * step`, in units of the weighted sum of the pixels of the frames."""

    step: float


Sampling = Literal["uniform", "apex", "all"]
Temporal = Literal["frames", "dynamic", "both"]


class Timeline(Frozen):
    """The rendered frames of a sequence; frames are numbered from 0 in the recording.

    Attributes:
        onset: The frame that alignment, displacements and magnification refer to.
        apex: The frame with the largest displacement from the onset; None if it was not searched for.
        magnify: Factor on the displacements from the onset.
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
        """The parts of image names after the channel: numbers of frames, and `dynamic`."""
        digits = max(2, len(str(len(self.frames) - 1)))
        numbers = tuple(f"{n:0{digits}d}" for n in range(len(self.frames)))
        return {"frames": numbers, "dynamic": (DYNAMIC,), "both": (*numbers, DYNAMIC)}[self.temporal]


class Caption(Frozen):
    """Source of a prompt that was written for one sample: measured deviations, or coded action units.

    Attributes:
        reference: Reference of the measurement: the subject's neutral scan, the first frame, the population, or none.
        numbers: Deviations in millimetres by measure, or intensities by action unit.
    """

    source: Literal["geometry", "au"]
    reference: Literal["neutral", "first-frame", "population", "none"]
    numbers: Mapping[str, float]


# On disk a missing level is 0, as in file names of BU-3DFE: readers that infer the type of a column from its first rows
# (Hugging Face datasets) fail if those are null and later ones are not.
Level = Annotated[int | None, BeforeValidator(lambda level: level or None), PlainSerializer(lambda level: level or 0)]


class MeshStatistics(Frozen):
    """Numbers of the rendered mesh; for a sequence, of its first rendered frame.

    `num_landmarks` counts those that are known and not rejected; `SampleRecord.notes` has the reason for the others.
    """

    num_vertices: int
    num_faces: int
    surface: Literal["texture", "vertex-colors", "plain"]
    num_landmarks: int


class SampleRecord(Frozen):
    """`KEY.json`: labels, provenance, cameras, the scales of the images, and what is odd about the scan.

    Attributes:
        schema_version: Version 2 lacks the fields of `Frame` that have defaults.
    """

    schema_version: Literal[2, 3] = 3
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
    # Lines of one text, not a list: see `Level`. An empty list has no type either.
    notes: str = ""

    @property
    def images(self) -> list[tuple[str, str]]:
        """The (view, name) of each image, by view, channel and time; names are `rgb`, `rgb.03` or `rgb.dynamic`."""
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
    """Yield the member names and contents of a sample; shards have them in alphabetical order.

    Raises:
        SampleError: The key is invalid, or the images do not match the record.
    """
    key = sample.record.key
    if not KEY.fullmatch(key):
        raise SampleError(f"invalid key {key!r}: use 1-80 letters, digits, '_' and '-'")
    suffixes = _image_suffixes(sample.record)
    if suffixes.keys() != sample.images.keys():
        differing = sorted(".".join(name) for name in suffixes.keys() ^ sample.images.keys())
        raise SampleError(f"{key}: the images of record and sample differ: {', '.join(differing)}")
    yield f"{key}.json", canonical_json(sample.record, indent=None).encode()
    yield f"{key}.txt", sample.text.encode()
    for name, suffix in suffixes.items():
        yield f"{key}.{suffix}", sample.images[name]


def from_members(members: Mapping[str, bytes]) -> Sample:
    """Build a sample from its members.

    Args:
        members: Contents by member name.

    Raises:
        SampleError: A member is missing, unexpected or malformed.
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
        raise SampleError(f"{key}.json contains the key {record.key!r}")
    try:
        text = by_suffix.pop("txt").decode()
    except UnicodeDecodeError as error:
        raise SampleError(f"{key}.txt is not UTF-8 text: {error}") from None
    suffixes = _image_suffixes(record)
    if differing := sorted(set(suffixes.values()) ^ by_suffix.keys()):
        shown = ", ".join(differing[:_MAX_NAMES_SHOWN])
        shown += f" and {len(differing) - _MAX_NAMES_SHOWN} more" if len(differing) > _MAX_NAMES_SHOWN else ""
        raise SampleError(f"{key}: the images of record and shard differ: {shown}")
    return Sample(record, text, {name: by_suffix[suffix] for name, suffix in suffixes.items()})


def decode_member(name: str, content: bytes) -> Pixels | str | dict[str, Any]:
    """Decode a member of a sample with all bits of its images.

    It is also a decoder for webdataset, whose own decoders never run then: `WebDataset(...).decode(decode_member)`.

    Args:
        name: Name of the member. The key may be missing, but not the dot that follows: `.front.depth.png`.
        content: Its content.

    Returns:
        Pixels of an image (see `smile_pipe.shards.images`), the prompt, or the record as a dict.

    Raises:
        SampleError: A sample has no such member, or the text of the member is malformed.
        ImageError: See `decode_image`.
    """
    suffix = name.partition(".")[2]
    try:
        if suffix == "txt":
            return content.decode()
        if suffix == "json":
            return json.loads(content)
    except ValueError as error:
        raise SampleError(f"{name}: {error}") from None
    image = ".".join(suffix.split(".")[1:-1])
    if image.partition(".")[0] not in CHANNELS or not suffix.endswith(f".{image}.{extension(image)}"):
        raise SampleError(f"{name}: is neither a record, a prompt nor an image of a sample")
    return decode_image(image, content)


def decode_sample(sample: Sample, channels: Container[str] = CHANNELS) -> dict[str, Any]:
    """Decode a sample as webdataset does with `decode_member`, but only the images of some channels.

    Returns:
        `__key__`, `txt` (the prompt), `json` (the record, a dict), and the pixels of each image by the name of its
        member without the key, `front.depth.png`.

    Raises:
        ImageError: See `decode_image`.
    """
    images = {
        f"{view}.{name}.{extension(name)}": decode_image(name, content)
        for (view, name), content in sample.images.items()
        if name.partition(".")[0] in channels
    }
    record = sample.record
    return {"__key__": record.key, "txt": sample.text, "json": record.model_dump(mode="json"), **images}


def _image_suffixes(record: SampleRecord) -> dict[tuple[str, str], str]:
    """The part after the key in the member name of each image, by (view, name)."""
    if unknown := set(record.channels) - set(CHANNELS):
        raise SampleError(f"{record.key}.json: unknown channel {min(unknown)!r}")
    return {(view, name): f"{view}.{name}.{extension(name)}" for view, name in record.images}
