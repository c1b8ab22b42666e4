"""One sample <-> the members of a tar: `KEY.json`, `KEY.txt`, then `KEY.VIEW.CHANNEL.EXT` in rig and channel order.

Goes in: a `Sample`, or the members of one key. Comes out: the other. Promised: the round trip is exact, and decoding
never runs code from the data: JSON is validated by pydantic, images are decoded as images, nothing is unpickled.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from shards.images import EXTENSION
from shards.manifest import Frozen, TextSource, canonical_json

KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
VIEW = re.compile(r"[a-z0-9_-]{1,40}")

CAMERA_CONVENTION = (
    "camera axes +x left, +y up, +z into the scene; x_camera = x_world R + T (row vectors); "
    "pixel u = K[0][2] - K[0][0] x/z, v = K[1][2] - K[1][1] y/z (orthographic: without / z); pixel centres at .5; "
    "normals x right, y up, z to the viewer"
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


# On disk no level is 0, as in BU-3DFE's names: readers that infer the types of a column from its first rows (Hugging
# Face datasets) break when those are null and later ones are not.
Level = Annotated[int | None, BeforeValidator(lambda level: level or None), PlainSerializer(lambda level: level or 0)]


class MeshStatistics(Frozen):
    """What was rendered, in numbers."""

    num_vertices: int
    num_faces: int
    surface: Literal["texture", "vertex-colors", "plain"]
    num_landmarks: int


class SampleRecord(Frozen):
    """`KEY.json`: labels, provenance, cameras, and the numbers needed to read the images."""

    schema_version: Literal[1] = 1
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
    mesh: MeshStatistics


@dataclass(frozen=True)
class Sample:
    """A rendered sample: its record, its prompt, and its encoded images by (view, channel)."""

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
        raise SampleError(f"{key}: images on one side only of the record and the shard: {', '.join(odd)}")
    return Sample(record, text, {name: by_suffix[suffix] for name, suffix in suffixes.items()})


def _image_suffixes(record: SampleRecord) -> dict[tuple[str, str], str]:
    """What follows the key in the name of each image, by (view, channel), in the order of the format."""
    if unknown := set(record.channels) - EXTENSION.keys():
        raise SampleError(f"{record.key}.json: unknown channel {min(unknown)!r}")
    names = [(camera.name, channel) for camera in record.cameras for channel in record.channels]
    return {(view, channel): f"{view}.{channel}.{EXTENSION[channel]}" for view, channel in names}
