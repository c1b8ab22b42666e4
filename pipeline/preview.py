"""Contact sheets of shards: a few samples a row, so that a person can see what was rendered."""

import io
from collections.abc import Sequence

from pipeline.contact_sheet import contact_sheet
from pipeline.expressions import EXPRESSIONS
from shards.images import as_rgb, decode_image
from shards.index import IndexRow
from shards.reader import ShardSet

MAX_ROWS = 14
CELL = 160


def preview_png(shards: ShardSet, rows: Sequence[IndexRow] = (), max_rows: int = MAX_ROWS) -> bytes:
    """A contact sheet as PNG: samples down, all views and channels across.

    The samples are chosen to show the range: each expression of a subject at its highest level, subject after subject.
    """
    chosen = _choose(rows or shards.rows, max_rows)
    samples = [shards.read(row) for row in chosen]
    columns = [(view, channel) for channel in shards.manifest.channels for view in shards.manifest.views]
    sheet = contact_sheet(
        [[as_rgb(decode_image(c, sample.images[v, c])) for v, c in columns] for sample in samples],
        row_labels=[_label(row) for row in chosen],
        column_labels=[f"{view} {channel}" for view, channel in columns],
        title=f"{shards.manifest.num_samples} samples, {shards.manifest.renderer}, {shards.manifest.image_size} px",
        cell_size=CELL,
    )
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()


def _choose(rows: Sequence[IndexRow], count: int) -> list[IndexRow]:
    strongest: dict[tuple[str, str], IndexRow] = {}
    for row in rows:
        kept = strongest.get((row.subject, row.expression))
        if kept is None or (row.level or 0) > (kept.level or 0):
            strongest[row.subject, row.expression] = row
    order = [*EXPRESSIONS]

    def rank(row: IndexRow) -> tuple[str, int, str]:
        known = order.index(row.expression) if row.expression in order else len(order)
        return row.subject, known, row.expression

    return sorted(strongest.values(), key=rank)[:count]


def _label(row: IndexRow) -> str:
    words = EXPRESSIONS.get(row.expression, row.expression)
    return f"{row.subject} {words}" + (f" {row.level}" if row.level else "")
