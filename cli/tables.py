"""Tables of commands: numbers of samples by label, curves of a run in block characters, and one sample in detail."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from smile_pipe.pipeline.common.expressions import order_expressions, word_for
from smile_pipe.pipeline.common.filters import Labelled
from smile_pipe.pipeline.runs.curves import Curve, curve_title
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize, truncate_list
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Camera, Sample

MAX_GROUPS = 12


def expression_table(samples: Sequence[Labelled]) -> Table:
    """Numbers of samples: a row per expression, a column per intensity level."""
    levels = sorted({sample.level or 0 for sample in samples})
    counts = Counter((sample.expression, sample.level or 0) for sample in samples)
    names = [f"level {level}" if level else "no level" for level in levels]
    table = Table("expression", *names, "all", title="samples")
    for expression in order_expressions({sample.expression for sample in samples}):
        cells = [counts[expression, level] for level in levels]
        table.add_row(expression, *(str(cell or "") for cell in cells), str(sum(cells)))
    return table


def subject_lines(samples: Iterable[Labelled]) -> list[str]:
    """Subjects grouped by their number of samples: "98 subjects have 25 samples", "F003, F007 have 24 samples"."""
    groups: dict[int, list[str]] = {}
    for subject, count in sorted(Counter(sample.subject for sample in samples).items()):
        groups.setdefault(count, []).append(subject)
    largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    lines = [
        f"{_subject_names(subjects)} {'have' if len(subjects) > 1 else 'has'} {pluralize(count, 'sample')}"
        for count, subjects in largest
    ]
    return lines[:MAX_GROUPS] + [f"... and {len(lines) - MAX_GROUPS} more groups"] * (len(lines) > MAX_GROUPS)


def counts(samples: Sequence[Labelled]) -> Mapping[str, Mapping[str, int]]:
    """Numbers of samples by subject, by expression and by level."""
    return {
        "subjects": Counter(sample.subject for sample in samples),
        "expressions": Counter(sample.expression for sample in samples),
        "levels": Counter(str(sample.level or 0) for sample in samples),
    }


def _subject_names(subjects: Sequence[str]) -> str:
    return ", ".join(subjects) if len(subjects) < 5 else f"{len(subjects)} subjects ({subjects[0]} to {subjects[-1]})"


BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 24


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Draw values as block characters, scaled from the minimum to the maximum.

    Args:
        values: at least one number, in order.
        width: greatest number of characters. Longer series are split into `width` parts, of which the means are drawn.
    """
    stretches = np.array_split(np.asarray(values, float), min(width, len(values)))
    means = np.array([stretch.mean() for stretch in stretches])
    low, high = means.min(), means.max()
    if low == high:
        return BLOCKS[len(BLOCKS) // 2] * len(means)
    heights = np.round((means - low) / (high - low) * (len(BLOCKS) - 1)).astype(int)
    return "".join(BLOCKS[height] for height in heights)


def curves_table(curves: Mapping[str, Curve]) -> Table:
    """A row per curve: the curve itself, and its first, last, least and greatest value."""
    table = Table(box=None, pad_edge=False)
    for _ in range(2):
        table.add_column("", no_wrap=True)
    for name in ("first", "last", "least", "most"):
        table.add_column(name, justify="right")
    for name, curve in curves.items():
        values = [value for _, value in curve]
        numbers = (values[0], values[-1], min(values), max(values))
        table.add_row(curve_title(name), sparkline(values), *(f"{number:.3g}" for number in numbers))
    return table


def find_row(shards: ShardSet, key: str) -> SampleRow:
    """The index row of a sample.

    Raises:
        UsageError: there is no sample with this key; the message lists similar keys.
    """
    rows = {row.key: row for row in shards.rows}
    if key not in rows:
        near = sorted(name for name in rows if key.lower() in name.lower())
        hint = f"similar keys: {truncate_list(near)}" if near else f"keys: {truncate_list(sorted(rows))}"
        raise UsageError(f"no such sample; {hint}", field="key", value=key)
    return rows[key]


def print_sample(sample: Sample, row: SampleRow, console: Console) -> None:
    """Print labels, text, source, mesh, frames, position in the shard, and cameras of a sample."""
    record = sample.record
    facts = Table(show_header=False, box=None)
    level = f", level {record.level}" if record.level else ""
    facts.add_row("key", record.key)
    facts.add_row("subject", record.subject)
    facts.add_row("expression", f"{word_for(record.expression)}{level}")
    facts.add_row("labels", ", ".join(f"{name}: {value}" for name, value in record.labels.items()) or "none")
    facts.add_row("text", f"{sample.text}  ({record.text_source})")
    facts.add_row("source", f"{record.source}  ({record.layout})")
    mesh = record.mesh
    facts.add_row(
        "mesh",
        f"{pluralize(mesh.num_vertices, 'vertex', 'vertices')}, {pluralize(mesh.num_faces, 'face')}, {mesh.surface}",
    )
    facts.add_row("aligned by", f"{record.frame.method}, {pluralize(mesh.num_landmarks, 'landmark')}")
    if record.timeline is not None:
        time = record.timeline
        frames = ", ".join(map(str, time.frames))
        facts.add_row("frames", f"{frames} of {time.num_source_frames}, {time.frame_rate:g} a second")
    for note in record.notes.splitlines():
        facts.add_row("note", note)
    facts.add_row("stored in", f"{row.shard}, {row.bytes / 1e3:.1f} kB from byte {row.offset}")
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
    """Yaw and pitch of the camera position in degrees, as seen from the face."""
    x, y, z = (-axis[2] for axis in camera.R)
    return math.degrees(math.atan2(x, z)), math.degrees(math.asin(max(-1.0, min(1.0, y))))


def _degrees(angle: float) -> str:
    """An angle to a tenth of a degree; zero has no sign."""
    return f"{round(angle, 1) + 0.0:.1f}"
