"""The contact sheet: positions of cells, labels, and its size."""

import numpy as np
import pytest

from smile_pipe.pipeline.reports.contact_sheet import GUTTER, MAX_SIDE, contact_sheet

RED, GREEN, BLUE, GOLD = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 160, 0)


def solid(color, height=32, width=32):
    return np.full((height, width, 3), color, np.uint8)


def bounding_box(sheet, color):
    """Bounding box of a colour: left, top, right, bottom, with exclusive ends."""
    rows, columns = np.nonzero((np.asarray(sheet) == color).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def has_dark_pixels(region):
    return (np.asarray(region).min(axis=2) < 200).any()


def test_cells_are_in_rows_and_columns_with_a_gutter():
    sheet = contact_sheet([[solid(RED), solid(GREEN)], [solid(BLUE), solid(GOLD)]], cell_size=32)
    left, top, right, bottom = bounding_box(sheet, RED)
    assert (right - left, bottom - top) == (32, 32)
    step = 32 + GUTTER
    assert bounding_box(sheet, GREEN) == (left + step, top, right + step, bottom)
    assert bounding_box(sheet, BLUE) == (left, top + step, right, bottom + step)
    assert bounding_box(sheet, GOLD) == (left + step, top + step, right + step, bottom + step)
    assert sheet.getpixel((0, 0)) == sheet.getpixel((right + 1, top + 1)) == (255, 255, 255)


def test_image_of_cell_size_is_not_resampled():
    image = np.random.default_rng(0).integers(1, 200, (40, 40, 3), np.uint8)
    sheet = contact_sheet([[image]], cell_size=40)
    side = (sheet.width - 40) // 2
    assert (np.asarray(sheet)[side : side + 40, side : side + 40] == image).all()


def test_image_keeps_its_aspect_ratio_and_is_centred():
    sheet = contact_sheet([[solid(RED)], [solid(GREEN, 16, 32)]], cell_size=64)
    left, top, right, bottom = bounding_box(sheet, GREEN)
    assert (right - left, bottom - top) == (64, 32)
    assert top == bounding_box(sheet, RED)[3] + GUTTER + 16


def test_missing_images_are_grey_squares():
    sheet = contact_sheet([[solid(RED), solid(GREEN)], [None]], cell_size=32)
    left, top, _, bottom = bounding_box(sheet, RED)
    empty_cells = bounding_box(sheet, (240, 241, 243))
    assert empty_cells == (left, bottom + GUTTER, left + 2 * 32 + GUTTER, bottom + GUTTER + 32)
    assert top < empty_cells[1]


def test_labels_are_left_of_rows_and_above_columns():
    cells = [[solid(RED), solid(GREEN)], [solid(BLUE), solid(GOLD)]]
    sheet = contact_sheet(cells, ["", "sad"], ["", "left"], cell_size=64)
    red, gold = bounding_box(sheet, RED), bounding_box(sheet, GOLD)
    assert has_dark_pixels(sheet.crop((0, gold[1], red[0], gold[3])))
    assert not has_dark_pixels(sheet.crop((0, red[1], red[0], red[3])))
    assert has_dark_pixels(sheet.crop((gold[0], 0, gold[2], red[1])))
    assert not has_dark_pixels(sheet.crop((0, 0, red[2], red[1])))


def test_title_is_above_column_labels():
    bare = contact_sheet([[solid(RED)]], (), ["x"], cell_size=200)
    titled = contact_sheet([[solid(RED)]], (), ["x"], "A title", cell_size=200)
    added = titled.height - bare.height
    assert added > 0
    assert has_dark_pixels(titled.crop((0, 0, titled.width, added)))


def test_long_label_is_truncated_to_its_column():
    sheet = contact_sheet([[solid(RED), solid(GREEN)]], (), ["", "w" * 200], cell_size=64)
    red, green = bounding_box(sheet, RED), bounding_box(sheet, GREEN)
    assert has_dark_pixels(sheet.crop((green[0], 0, green[2], green[1])))
    assert not has_dark_pixels(sheet.crop((0, 0, red[2], red[1])))
    assert not has_dark_pixels(sheet.crop((green[2], 0, sheet.width, green[1])))


@pytest.mark.parametrize(("rows", "columns"), [(3, 60), (60, 3), (300, 2), (1, 1)])
def test_sheet_has_a_maximum_size(rows, columns):
    sheet = contact_sheet([[solid(RED, 8, 8)] * columns] * rows, ["a row"] * rows, ["c"] * columns, "t", cell_size=300)
    assert max(sheet.size) <= MAX_SIDE
    assert min(sheet.size) > 20


def test_cells_are_reduced_before_drawing():
    sheet = contact_sheet([[solid(RED, 8, 8)] * 20], ["a row with a long name"], cell_size=300)
    left, top, right, bottom = bounding_box(sheet, RED)
    # Shrinking the finished sheet would blur the edges of the cells.
    colours = np.unique(np.asarray(sheet.crop((left, top, right, bottom))).reshape(-1, 3), axis=0)
    assert colours.tolist() == [[*RED], [255, 255, 255]]


def test_invalid_input_raises():
    with pytest.raises(ValueError, match="at least one cell"):
        contact_sheet([])
    with pytest.raises(ValueError, match="but 2 and 0 labels"):
        contact_sheet([[solid(RED)]], ["a", "b"])
