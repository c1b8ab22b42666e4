"""Samples and whole shard directories without rendering: valid to the letter, with flat colours for faces."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from blake3 import blake3

from pipeline.expressions import EXPRESSIONS, order_expressions
from pipeline.rendering.encode import DEPTH_SCALE
from pipeline.rendering.rig import Rig, View
from shards.failures import FailureRow, write_failures
from shards.images import CHANNELS, encode_image
from shards.index import IndexRow, SourceFile, write_index
from shards.manifest import ShardManifest, fingerprint
from shards.sample import Frame, MeshStatistics, Sample, SampleRecord
from shards.writer import write_shard

VIEWS = (View(name="front"), View(name="left", yaw=30), View(name="right", yaw=-30))


def make_sample(
    key: str = "F0001_HA04WH",
    subject: str = "F0001",
    expression: str = "HA",
    *,
    level: int | None = 4,
    views: Sequence[View] = VIEWS,
    channels: Sequence[str] = CHANNELS,
    size: int = 16,
    text: str | None = None,
) -> Sample:
    """A sample whose images are noise around the grey value of its expression, the same for the same key."""
    rng = np.random.default_rng(np.frombuffer(blake3(key.encode()).digest(), np.uint32))
    rig = Rig.build(tuple(views), size)
    record = SampleRecord(
        key=key,
        subject=subject,
        expression=expression,
        level=level,
        labels={"sex": subject[:1], "ancestry": "WH"},
        layout="bu3dfe",
        source=f"{subject}/{key}_F3D.wrl",
        fingerprint=fingerprint(key, expression, level, size, channels),
        text_source="label",
        concept=expression,
        cameras=rig.cameras,
        channels=tuple(channels),
        frame=Frame(method="bounds", scale=0.01, R=((1, 0, 0), (0, 1, 0), (0, 0, 1)), T=(0, 0, 0)),
        depth=DEPTH_SCALE if "depth" in channels else None,
        mesh=MeshStatistics(num_vertices=4, num_faces=2, surface="plain", num_landmarks=0),
    )
    middle = 40 + 25 * list(EXPRESSIONS).index(expression) if expression in EXPRESSIONS else 128
    images = {
        (camera.name, channel): encode_image(channel, make_pixels(rng, channel, size, middle))
        for camera in record.cameras
        for channel in channels
    }
    return Sample(record, text or f"a face of {EXPRESSIONS.get(expression, expression)}", images)


def make_pixels(rng: np.random.Generator, channel: str, size: int, middle: int = 128) -> np.ndarray:
    """Noise of a channel's kind around a grey value."""
    noise = rng.integers(middle - 20, middle + 20, (size, size, 3))
    return (257 * noise[..., 0]).astype(np.uint16) if channel == "depth" else noise.astype(np.uint8)


def make_samples(
    num_subjects: int,
    expressions: Sequence[str] = ("HA", "SA", "NE"),
    size: int = 16,
    channels: Sequence[str] = CHANNELS,
) -> list[Sample]:
    """One sample of each expression of each subject, in the order of their keys."""
    samples = [
        make_sample(
            f"F{number:04d}_{expression}{0 if expression == 'NE' else 4:02d}WH",
            f"F{number:04d}",
            expression,
            level=None if expression == "NE" else 4,
            size=size,
            channels=channels,
        )
        for number in range(1, num_subjects + 1)
        for expression in expressions
    ]
    return sorted(samples, key=lambda sample: sample.record.key)


def write_shard_set(
    root: Path,
    num_subjects: int = 3,
    expressions: Sequence[str] = ("HA", "SA", "NE"),
    *,
    size: int = 16,
    samples_per_shard: int = 4,
    channels: Sequence[str] = CHANNELS,
    failures: Sequence[FailureRow] = (),
) -> list[Sample]:
    """Write a whole shard directory, as a render would leave it; returns its samples in order."""
    samples = make_samples(num_subjects, expressions, size, channels)
    (root / "shards").mkdir(parents=True)
    entries, rows = [], []
    for number, start in enumerate(range(0, len(samples), samples_per_shard)):
        members = samples[start : start + samples_per_shard]
        entry, locations = write_shard(root / "shards" / f"{number:06d}.tar", members)
        entries.append(entry)
        rows += [make_row(s, entry.name, at.offset, at.bytes) for s, at in zip(members, locations, strict=True)]
    write_index(root / "index.parquet", rows)
    write_failures(root / "failures.parquet", failures)
    found = order_expressions(set(expressions))
    ShardManifest(
        fingerprint=fingerprint([entry.fingerprint for entry in entries]),
        layout="bu3dfe",
        settings={"size": size},
        settings_fingerprint=fingerprint(size),
        renderer="zbuffer",
        views=tuple(view.name for view in VIEWS),
        channels=tuple(channels),
        image_size=size,
        text_source="label",
        prompts={expression: (f"a face of {EXPRESSIONS[expression]}",) for expression in found},
        expressions=found,
        num_samples=len(samples),
        num_subjects=num_subjects,
        num_failures=len(failures),
        shards=tuple(entries),
    ).write(root / "manifest.json")
    return samples


def make_row(sample: Sample, shard: str = "000000.tar", offset: int = 0, num_bytes: int = 512) -> IndexRow:
    """The row of the index for a sample that lies there."""
    record = sample.record
    return IndexRow(
        key=record.key,
        subject=record.subject,
        expression=record.expression,
        level=record.level,
        layout=record.layout,
        labels=record.labels,
        shard=shard,
        offset=offset,
        bytes=num_bytes,
        fingerprint=record.fingerprint,
        framed_by=record.frame.method,
        surface=record.mesh.surface,
        sources=(SourceFile(record.source, 1000, 1, fingerprint(record.key)),),
    )
