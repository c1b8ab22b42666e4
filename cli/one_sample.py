"""One sample of a shard set as tables: labels, text, where it is from, and its cameras."""

import math

from rich.console import Console
from rich.table import Table

from pipeline.expressions import word_for
from shards.errors import UsageError
from shards.index import IndexRow
from shards.reader import ShardSet
from shards.sample import Camera, Sample
from shards.words import counted, some_of


def row_of(shards: ShardSet, key: str) -> IndexRow:
    """The row of a key.

    Raises:
        UsageError: there is none; keys that are like it are named.
    """
    rows = {row.key: row for row in shards.rows}
    if key not in rows:
        near = sorted(name for name in rows if key.lower() in name.lower())
        named = f"like it are {some_of(near)}" if near else f"there are {some_of(sorted(rows))}"
        raise UsageError(f"--key {key}: no such sample; {named}")
    return rows[key]


def print_sample(sample: Sample, row: IndexRow, console: Console) -> None:
    """All that a person may want to know of it but its images."""
    record = sample.record
    facts = Table(show_header=False, box=None)
    level = f", level {record.level}" if record.level else ""
    facts.add_row("key", record.key)
    facts.add_row("subject", record.subject)
    facts.add_row("expression", f"{word_for(record.expression)}{level}")
    facts.add_row("labels", ", ".join(f"{name}: {value}" for name, value in record.labels.items()) or "none")
    facts.add_row("text", f"{sample.text}  ({record.text_source})")
    facts.add_row("from", f"{record.source}  ({record.layout})")
    mesh = record.mesh
    facts.add_row(
        "mesh", f"{counted(mesh.num_vertices, 'vertex', 'vertices')}, {counted(mesh.num_faces, 'face')}, {mesh.surface}"
    )
    facts.add_row("framed by", f"{record.frame.method}, {counted(mesh.num_landmarks, 'landmark')}")
    if record.timeline is not None:
        time = record.timeline
        frames = ", ".join(map(str, time.frames))
        facts.add_row("frames", f"{frames} of {time.num_source_frames}, {time.frame_rate:g} a second")
    facts.add_row("in", f"{row.shard}, {row.bytes / 1e3:.1f} kB from byte {row.offset}")
    console.print(facts)
    console.print(_cameras(sample))


def _cameras(sample: Sample) -> Table:
    record = sample.record
    table = Table("view", "yaw", "pitch", "focal length", "images", title="cameras (degrees, pixels)")
    for camera in record.cameras:
        yaw, pitch = _angles(camera)
        sizes = [len(content) for (view, _), content in sample.images.items() if view == camera.name]
        images = f"{len(sizes)}, {sum(sizes) / 1e3:.1f} kB"
        table.add_row(camera.name, _degrees(yaw), _degrees(pitch), f"{camera.K[0][0]:.1f}", images)
    return table


def _angles(camera: Camera) -> tuple[float, float]:
    """Yaw and pitch, in degrees, of where a camera stands as seen from the face."""
    x, y, z = (-axis[2] for axis in camera.R)
    return math.degrees(math.atan2(x, z)), math.degrees(math.asin(max(-1.0, min(1.0, y))))


def _degrees(angle: float) -> str:
    """To a tenth; what rounds to nothing has no sign."""
    return f"{round(angle, 1) + 0.0:.1f}"
