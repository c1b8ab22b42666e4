"""Draw a contact sheet: many small images in a labelled grid on white, at most 4,000 pixels a side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

MAX_SIDE = 4000
GUTTER = 4
_MIN_CELL = 16
_WHITE, _INK, _FAINT, _EMPTY = (255, 255, 255), (32, 34, 38), (110, 114, 122), (240, 241, 243)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class _Grid:
    """The layout of the sheet, in pixels; `line` is the height of a line of labels, and the outer margin."""

    num_rows: int
    num_columns: int
    cell: int
    line: int
    left: int
    top: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the upper left corner (x, y) of a cell."""
        step = self.cell + GUTTER
        return self.left + column * step, self.top + row * step

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        x, y = self.corner(self.num_rows, self.num_columns)
        return x - GUTTER + self.line, y - GUTTER + self.line


def contact_sheet(
    cells: Sequence[Sequence[NDArray[np.uint8] | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    cell_size: int = 160,
) -> Image.Image:
    """Draw images in a grid.

    Args:
        cells: rows of images, uint8 [H, W, 3], of any aspect ratio; each is fitted into a square. None and missing
            cells at the end of a row leave a grey square.
        row_labels, column_labels: one for each row and column, or none at all; long ones are truncated.
        title: a line above the grid.
        cell_size: side of a square in pixels; smaller where the sheet would exceed `MAX_SIDE`.

    Raises:
        ValueError: there are no cells, or the number of labels is wrong.
    """
    num_rows, num_columns = len(cells), max((len(row) for row in cells), default=0)
    if num_columns == 0:
        raise ValueError("a contact sheet needs at least one cell")
    if len(row_labels) not in (0, num_rows) or len(column_labels) not in (0, num_columns):
        raise ValueError(
            f"{num_rows} rows and {num_columns} columns, but {len(row_labels)} and {len(column_labels)} labels for them"
        )
    cell_size = max(_MIN_CELL, min(cell_size, MAX_SIDE // max(num_rows, num_columns) - GUTTER))
    text_size = min(max(cell_size // 10, 12), 28)
    font: Font = ImageFont.load_default(text_size)
    line = round(1.6 * text_size)
    label_width = max((font.getlength(label) for label in row_labels), default=0)
    left = line + (min(round(label_width), MAX_SIDE // 5) + line // 2 if row_labels else 0)
    top = line + (2 * line if title else 0) + (line if column_labels else 0)
    # A side consists of labels, cells, gutters and the margin at the end.
    max_cell = min((MAX_SIDE - left - line) // num_columns, (MAX_SIDE - top - line) // num_rows) - GUTTER
    grid = _Grid(num_rows, num_columns, max(_MIN_CELL, min(cell_size, max_cell)), line, left, top)

    sheet = Image.new("RGB", grid.size, _WHITE)
    _write_labels(ImageDraw.Draw(sheet), grid, font, row_labels, column_labels)
    _write_title(ImageDraw.Draw(sheet), grid, title, text_size)
    for row, images in enumerate(cells):
        for column in range(num_columns):
            _paste(sheet, images[column] if column < len(images) else None, grid.corner(row, column), grid.cell)
    # The sheet is still too large only if the cells have the minimum size.
    sheet.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return sheet


def _write_labels(
    draw: ImageDraw.ImageDraw, grid: _Grid, font: Font, row_labels: Sequence[str], column_labels: Sequence[str]
) -> None:
    half, gap = grid.cell // 2, grid.line // 2
    for row, label in enumerate(row_labels):
        x, y = grid.corner(row, 0)
        text = _truncate(label, font, x - gap - grid.line)
        draw.text((x - gap, y + half), text, fill=_FAINT, font=font, anchor="rm")
    for column, label in enumerate(column_labels):
        x, y = grid.corner(0, column)
        draw.text((x + half, y - gap), _truncate(label, font, grid.cell), fill=_FAINT, font=font, anchor="mm")


def _write_title(draw: ImageDraw.ImageDraw, grid: _Grid, title: str, text_size: int) -> None:
    font: Font = ImageFont.load_default(1.4 * text_size)
    text = _truncate(title, font, grid.size[0] - 2 * grid.line)
    draw.text((grid.line, grid.line), text, fill=_INK, font=font, anchor="la")


def _truncate(label: str, font: Font, width: float) -> str:
    """Return the label in one line, truncated with dots to `width` pixels."""
    text = " ".join(label.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..." if text else ""


def _paste(sheet: Image.Image, pixels: NDArray[np.uint8] | None, corner: tuple[int, int], cell: int) -> None:
    x, y = corner
    if pixels is None:
        sheet.paste(_EMPTY, (x, y, x + cell, y + cell))
        return
    image = ImageOps.contain(Image.fromarray(pixels), (cell, cell), Image.Resampling.LANCZOS)
    sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))
