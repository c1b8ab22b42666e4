"""Valid samples and shard directories without rendering; noise takes the place of faces."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from blake3 import blake3

from smile_pipe.pipeline.common.expressions import EXPRESSIONS, order_expressions
from smile_pipe.pipeline.rendering.cameras import Rig, View
from smile_pipe.pipeline.rendering.encoding import DEPTH_SCALE, FLOW_SCALE
from smile_pipe.shards.images import CHANNELS, encode_image
from smile_pipe.shards.index import (
    CODED,
    INDEX_SCHEMA,
    FailureRow,
    IndexRow,
    SampleRow,
    SourceFile,
    write_failures,
    write_index,
)
from smile_pipe.shards.manifest import ShardManifest, TextSource, fingerprint
from smile_pipe.shards.sample import DynamicScale, Frame, MeshStatistics, Sample, SampleRecord, Temporal, Timeline
from smile_pipe.shards.sample_table import COLUMNS, SampleTable
from smile_pipe.shards.writer import Location, write_shard

NOWHERE = Location(0, 512, "")
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
    text_source: TextSource = "label",
    timeline: Timeline | None = None,
) -> Sample:
    """Make a sample whose images are noise around a grey value of its expression; equal keys give equal images."""
    rng = np.random.default_rng(np.frombuffer(blake3(key.encode()).digest(), np.uint32))
    text = text or f"a face of {EXPRESSIONS.get(expression, expression)}"
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
        text_source=text_source,
        concept=expression if text_source == "label" else text,
        cameras=rig.cameras,
        channels=tuple(channels),
        frame=Frame(method="bounds", scale=0.01, R=((1, 0, 0), (0, 1, 0), (0, 0, 1)), T=(0, 0, 0)),
        depth=DEPTH_SCALE if "depth" in channels else None,
        flow=FLOW_SCALE if "flow" in channels else None,
        mesh=MeshStatistics(num_vertices=4, num_faces=2, surface="plain", num_landmarks=0),
        timeline=timeline,
    )
    middle = 40 + 25 * list(EXPRESSIONS).index(expression) if expression in EXPRESSIONS else 128
    images = {(view, name): encode_image(name, make_pixels(rng, name, size, middle)) for view, name in record.images}
    return Sample(record, text, images)


def make_timeline(num_frames: int = 2, temporal: Temporal = "frames", channels: Sequence[str] = CHANNELS) -> Timeline:
    """Make the timeline of a sequence of 30 source frames."""
    return Timeline(
        frame_rate=25.0,
        num_source_frames=30,
        frames=tuple(range(0, 30, 30 // num_frames))[:num_frames],
        sampling="uniform",
        temporal=temporal,
        onset=0,
        apex=None,
        magnify=1.0,
        dynamic={} if temporal == "frames" else {channel: DynamicScale(step=1.0) for channel in channels},
    )


def make_pixels(rng: np.random.Generator, name: str, size: int, middle: int = 128) -> np.ndarray:
    """Make noise around a grey value, in the format of an image."""
    channel, _, moment = name.partition(".")
    noise = rng.integers(middle - 20, middle + 20, (size, size, 3))
    if moment == "dynamic":
        return (noise[..., 0] if channel == "depth" else noise).astype(np.uint8)
    wide = {"depth": 257 * noise[..., 0], "flow": 257 * noise}
    return wide[channel].astype(np.uint16) if channel in wide else noise.astype(np.uint8)


def make_samples(
    num_subjects: int,
    expressions: Sequence[str] = ("HA", "SA", "NE"),
    size: int = 16,
    channels: Sequence[str] = CHANNELS,
    timelines: Sequence[Timeline | None] = (None,),
    text_source: TextSource = "label",
    views: Sequence[View] = VIEWS,
) -> list[Sample]:
    """Make one sample per subject and expression, in the order of their keys.

    Expressions take the timelines in turn; None makes a scan.
    """
    samples = [
        make_sample(
            f"F{number:04d}_{expression}{0 if expression == 'NE' else 4:02d}WH",
            f"F{number:04d}",
            expression,
            level=None if expression == "NE" else 4,
            size=size,
            channels=channels,
            timeline=timelines[n % len(timelines)],
            text_source=text_source,
            views=views,
        )
        for number in range(1, num_subjects + 1)
        for n, expression in enumerate(expressions)
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
    timelines: Sequence[Timeline | None] = (None,),
    text_source: TextSource = "label",
    prompts: Mapping[str, tuple[str, ...]] | None = None,
    views: Sequence[View] = VIEWS,
) -> list[Sample]:
    """Write a shard directory as a render does; returns its samples in order."""
    samples = make_samples(num_subjects, expressions, size, channels, timelines, text_source, views)
    (root / "shards").mkdir(parents=True)
    entries, rows = [], []
    for number, start in enumerate(range(0, len(samples), samples_per_shard)):
        members = samples[start : start + samples_per_shard]
        entry, locations = write_shard(root / "shards" / f"{number:06d}.tar", members)
        entries.append(entry)
        rows += [make_row(s, entry.name, at) for s, at in zip(members, locations, strict=True)]
    write_index(root / "index.parquet", rows)
    write_failures(root / "failures.parquet", failures)
    found = order_expressions(set(expressions))
    default_prompts = {expression: (f"a face of {EXPRESSIONS.get(expression, expression)}",) for expression in found}
    ShardManifest(
        fingerprint=fingerprint([entry.fingerprint for entry in entries]),
        layout="bu3dfe",
        settings={"size": size, "views": [view.model_dump() for view in views]},
        images_fingerprint=fingerprint(size),
        renderer="zbuffer",
        views=tuple(view.name for view in views),
        channels=tuple(channels),
        image_size=size,
        text_source=text_source,
        prompts=default_prompts if prompts is None else prompts,
        expressions=found,
        num_samples=len(samples),
        num_sequences=sum(sample.record.timeline is not None for sample in samples),
        num_subjects=num_subjects,
        num_failures=len(failures),
        shards=tuple(entries),
    ).write(root / "manifest.json")
    return samples


def make_row(sample: Sample, shard: str = "000000.tar", at: Location = NOWHERE) -> IndexRow:
    """Make the index row of a sample at a location."""
    record = sample.record
    return IndexRow(
        key=record.key,
        subject=record.subject,
        expression=record.expression,
        level=record.level,
        num_frames=1 if record.timeline is None else len(record.timeline.frames),
        frame_rate=0.0 if record.timeline is None else record.timeline.frame_rate,
        layout=record.layout,
        labels=record.labels,
        shard=shard,
        offset=at.offset,
        bytes=at.bytes,
        digest=at.digest,
        images=fingerprint("images", record.key),
        fingerprint=record.fingerprint,
        framed_by=record.frame.method,
        surface=record.mesh.surface,
        sources=(SourceFile(record.source, 1000, 1, fingerprint(record.key)),),
    )


def make_table(rows: Iterable[SampleRow]) -> SampleTable:
    """A table of rows, as one that was read."""
    plain = [asdict(row) | {"labels": sorted(row.labels.items())} for row in rows]
    table = pa.Table.from_pylist(plain, pa.schema([INDEX_SCHEMA.field(name) for name in COLUMNS]))
    for name in CODED:
        table = table.set_column(COLUMNS.index(name), name, table[name].dictionary_encode())
    return SampleTable(table.combine_chunks())


def spoil(shards: Path, rows: Iterable[IndexRow]) -> None:
    """Damage samples: change a byte in the middle of each, without changing sizes."""
    for row in rows:
        with open(shards / "shards" / row.shard, "r+b") as file:
            file.seek(row.offset + row.bytes // 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
