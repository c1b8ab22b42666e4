"""Draw contact sheets of shards, so that people can look at what was rendered."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.data.temporal import is_sequence
from smile_pipe.pipeline.reports.contact_sheet import contact_sheet
from smile_pipe.pipeline.sequences.sampling import evenly_spaced
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import DYNAMIC, as_rgb, decode_image
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Sample, Timeline

MAX_ROWS = 14
MAX_FRAMES = 8
CELL = 160

Cells = list[NDArray[np.uint8] | None]


def preview_png(shards: ShardSet, rows: Sequence[IndexRow] = (), max_rows: int = MAX_ROWS) -> bytes:
    """Draw a contact sheet with one sample per row.

    A row shows all views and channels of a scan, or one view of a sequence over time. The samples show the range: each
    expression of a subject at its highest level, subject after subject.

    Args:
        shards: the shard set.
        rows: samples to select from; empty for all.
        max_rows: maximum number of samples.

    Returns:
        The image as PNG.
    """
    selected = _select(rows or shards.rows, max_rows)
    samples = [shards.read(row) for row in selected]
    manifest = shards.manifest
    sheet = contact_sheet(
        _cells(samples, manifest),
        row_labels=[_label(row) for row in selected],
        column_labels=_column_labels(samples, manifest),
        title=f"{pluralize(manifest.num_samples, 'sample')}, "
        f"{manifest.renderer}, {manifest.image_size} px{_sequence_note(samples)}",
        cell_size=CELL,
    )
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()


def _cells(samples: Sequence[Sample], manifest: ShardManifest) -> list[Cells]:
    width = max((len(_frames(s.record.timeline)) for s in samples if s.record.timeline is not None), default=0)
    columns = [(view, channel) for channel in manifest.channels for view in manifest.views]
    return [
        [_decode(sample, view, name) for view, name in columns]
        if sample.record.timeline is None
        else _sequence_cells(sample, sample.record.timeline, width)
        for sample in samples
    ]


def _sequence_cells(sample: Sample, timeline: Timeline, width: int) -> Cells:
    """Return the first view of the first channel: frames in time order, padded to `width`, and the dynamic image."""
    view, channel = sample.record.cameras[0].name, sample.record.channels[0]
    cells: Cells = [_decode(sample, view, f"{channel}.{moment}") for moment in _frames(timeline)]
    cells += [None] * (width - len(cells))
    return [*cells, _decode(sample, view, f"{channel}.{DYNAMIC}")] if DYNAMIC in timeline.moments else cells


def _frames(timeline: Timeline) -> list[str]:
    """Return the moments of the frames to draw."""
    numbers = [moment for moment in timeline.moments if moment != DYNAMIC]
    return [numbers[n] for n in evenly_spaced(range(len(numbers)), min(len(numbers), MAX_FRAMES))] if numbers else []


def _decode(sample: Sample, view: str, name: str) -> NDArray[np.uint8]:
    return as_rgb(decode_image(name, sample.images[view, name]))


def _column_labels(samples: Sequence[Sample], manifest: ShardManifest) -> list[str]:
    """Return views and channels of scans, or moments of sequences; none if there are rows of both kinds."""
    timelines = [sample.record.timeline for sample in samples]
    sequences = [timeline for timeline in timelines if timeline is not None]
    if not sequences:
        return [f"{view} {channel}" for channel in manifest.channels for view in manifest.views]
    if len(sequences) < len(timelines):
        return []
    width = max(len(_frames(timeline)) for timeline in sequences)
    dynamic = [DYNAMIC] if any(DYNAMIC in timeline.moments for timeline in sequences) else []
    return [*(f"moment {n + 1}" for n in range(width)), *dynamic]


def _sequence_note(samples: Sequence[Sample]) -> str:
    """Describe the rows of sequences for the title."""
    record = next((sample.record for sample in samples if sample.record.timeline is not None), None)
    return "" if record is None else f"; sequences: {record.cameras[0].name} {record.channels[0]} in time"


def _select(rows: Sequence[IndexRow], count: int) -> list[IndexRow]:
    strongest: dict[tuple[str, str, bool], IndexRow] = {}
    for row in rows:
        key = row.subject, row.expression, is_sequence(row)
        kept = strongest.get(key)
        if kept is None or (row.level or 0) > (kept.level or 0):
            strongest[key] = row
    order = [*EXPRESSIONS]

    def sort_key(row: IndexRow) -> tuple[str, int, str, bool]:
        position = order.index(row.expression) if row.expression in order else len(order)
        return row.subject, position, row.expression, is_sequence(row)

    return sorted(strongest.values(), key=sort_key)[:count]


def _label(row: IndexRow) -> str:
    name = EXPRESSIONS.get(row.expression, row.expression)
    return f"{row.subject} {name}" + (f" {row.level}" if row.level else "")
