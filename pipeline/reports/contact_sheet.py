"""Contact sheets of shards: one sample per row, so that people can look at what was rendered."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from smile_pipe.pipeline.common.expressions import order_expressions, word_for
from smile_pipe.pipeline.data.input_images import depth_levels
from smile_pipe.pipeline.data.temporal import is_sequence
from smile_pipe.pipeline.sequences.sampling import evenly_spaced
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import DYNAMIC, as_rgb, decode_image
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Sample

MAX_ROWS = 14
MAX_FRAMES = 8
CELL, GUTTER = 160, 4
MAX_WIDTH = 4000
"""Maximum width of the cells of a row together, in pixels: many views and channels are drawn smaller."""

_MIN_CELL, _MAX_LABEL = 16, 400
_LINE, _TEXT_LINE, _TEXT_SIZE, _TITLE_SIZE = 26, 20, 16, 22
_WHITE, _INK, _FAINT, _EMPTY = (255, 255, 255), (32, 34, 38), (110, 114, 122), (240, 241, 243)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Cells = Mapping[str, NDArray[np.uint8]]
"""Images of a row by column label."""


def preview_png(shards: ShardSet, rows: Sequence[SampleRow] = ()) -> bytes:
    """Draw a contact sheet with one sample per row, at most `MAX_ROWS`.

    A row shows all views and channels of a scan, or one view of a sequence over time. The samples show the range: each
    expression of a subject at its highest level, subject after subject.

    Args:
        shards: the shard set.
        rows: samples to select from; empty for all.

    Returns:
        The image as PNG.
    """
    selected, manifest = select_rows(rows or shards.rows), shards.manifest
    samples = [shards.read(row) for row in selected]
    title = f"{pluralize(manifest.num_samples, 'sample')}, {manifest.renderer}, {manifest.image_size} px"
    if sequence := next((sample.record for sample in samples if sample.record.timeline), None):
        title += f"; sequences: {sequence.cameras[0].name} {sequence.channels[0]} in time"
    labels = [f"{row.subject} {word_for(row.expression)}" + (f" {row.level}" if row.level else "") for row in selected]
    buffer = io.BytesIO()
    draw_sheet(title, labels, [sample_cells(sample, manifest) for sample in samples]).save(buffer, "png")
    return buffer.getvalue()


def select_rows(rows: Sequence[SampleRow]) -> list[SampleRow]:
    """Select the rows to draw: the strongest scan and sequence of each expression of each subject."""
    strongest: dict[tuple[str, int, bool], SampleRow] = {}
    order = order_expressions(row.expression for row in rows)
    for row in sorted(rows, key=lambda row: -(row.level or 0)):
        strongest.setdefault((row.subject, order.index(row.expression), is_sequence(row)), row)
    return [strongest[key] for key in sorted(strongest)][:MAX_ROWS]


def sample_cells(sample: Sample, manifest: ShardManifest) -> Cells:
    """Decode the images of a row: all of a scan; of a sequence, the first view of the first channel over time."""
    timeline = sample.record.timeline
    if timeline is None:
        names = {f"{view} {channel}": (view, channel) for channel in manifest.channels for view in manifest.views}
    else:
        view, channel = sample.record.cameras[0].name, sample.record.channels[0]
        frames = [moment for moment in timeline.moments if moment != DYNAMIC]
        shown = evenly_spaced(range(len(frames)), min(len(frames), MAX_FRAMES)) if frames else ()
        names = {f"moment {n}": (view, f"{channel}.{frames[frame]}") for n, frame in enumerate(shown, 1)}
        if DYNAMIC in timeline.moments:
            names[DYNAMIC] = view, f"{channel}.{DYNAMIC}"
    return {label: image_for_display(sample, view, name) for label, (view, name) in names.items()}


def image_for_display(sample: Sample, view: str, name: str) -> NDArray[np.uint8]:
    """Decode an image of a sample as people see it, [H, W, 3]; depth has the levels of the input of a model."""
    pixels, scale = decode_image(name, sample.images[view, name]), sample.record.depth
    if scale is None or name.split(".")[0] != "depth" or pixels.dtype.itemsize != 2:
        return as_rgb(pixels)
    return as_rgb(depth_levels(scale.near, scale.step)[pixels.astype(np.uint16)])


def draw_sheet(title: str, row_labels: Sequence[str], rows: Sequence[Cells]) -> Image.Image:
    """Draw square images in a grid on white, with a label for each row and column; a missing cell is grey."""
    columns = sorted({label: None for cells in rows for label in cells}, key=lambda label: label == DYNAMIC)
    cell = max(_MIN_CELL, min(CELL, MAX_WIDTH // len(columns) - GUTTER))
    font, step = ImageFont.load_default(_TEXT_SIZE), cell + GUTTER
    label_width = min(round(max(font.getlength(label) for label in row_labels)), _MAX_LABEL)
    left, top = 3 * _LINE // 2 + label_width, 4 * _LINE
    right, bottom = left + len(columns) * step - GUTTER, top + len(rows) * step - GUTTER
    sheet = Image.new("RGB", (right + _LINE, bottom + _LINE), _WHITE)
    draw, title_font = ImageDraw.Draw(sheet), ImageFont.load_default(_TITLE_SIZE)
    draw.text((_LINE, _LINE), _truncate(title, title_font, right - _LINE), fill=_INK, font=title_font, anchor="la")
    for column, label in enumerate(columns):
        center = left + column * step + cell // 2, top - _LINE // 2
        draw.text(center, _truncate(label, font, cell), fill=_FAINT, font=font, anchor="mm")
    for row, (label, cells) in enumerate(zip(row_labels, rows, strict=True)):
        y = top + row * step
        right_end = left - _LINE // 2, y + cell // 2
        lines = _wrap(label, font, label_width, max(1, cell // _TEXT_LINE))
        draw.multiline_text(right_end, lines, fill=_FAINT, font=font, anchor="rm", align="right")
        for x, name in zip(range(left, right, step), columns, strict=True):
            sheet.paste(_EMPTY, (x, y, x + cell, y + cell))
            if name in cells:
                sheet.paste(Image.fromarray(cells[name]).resize((cell, cell), Image.Resampling.LANCZOS), (x, y))
    return sheet


def _wrap(label: str, font: Font, width: float, max_lines: int) -> str:
    """Return the label in lines of at most `width` pixels; what does not fit into the last one is cut off."""
    lines, words = list[str](), label.split()
    while words and len(lines) < max_lines - 1:
        count = len(words)
        while count > 1 and font.getlength(" ".join(words[:count])) > width:
            count -= 1
        lines.append(_truncate(" ".join(words[:count]), font, width))
        del words[:count]
    return "\n".join([*lines, _truncate(" ".join(words), font, width)] if words else lines)


def _truncate(label: str, font: Font, width: float) -> str:
    """Return the label in one line, truncated with dots to `width` pixels."""
    text = whole = " ".join(label.split())
    while text and font.getlength(text) > width:
        whole = whole[:-1]
        text = f"{whole.rstrip()}..." if whole else ""
    return text
