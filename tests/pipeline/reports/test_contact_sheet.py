"""The contact sheet: where cells stand, what labels do, how large it grows."""

import numpy as np
import pytest

from smile_pipe.pipeline.reports.contact_sheet import GUTTER, MAX_SIDE, contact_sheet

RED, GREEN, BLUE, GOLD = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 160, 0)


def plain(color, height=32, width=32):
    return np.full((height, width, 3), color, np.uint8)


def where(sheet, color):
    """Bounding box of a colour: left, top, right, bottom, ends excluded."""
    rows, columns = np.nonzero((np.asarray(sheet) == color).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def dark_boxes(region):
    return (np.asarray(region).min(axis=2) < 200).any()


def test_cells_stand_in_rows_and_columns_with_a_gutter_between():
    sheet = contact_sheet([[plain(RED), plain(GREEN)], [plain(BLUE), plain(GOLD)]], cell_size=32)
    left, top, right, bottom = where(sheet, RED)
    assert (right - left, bottom - top) == (32, 32)
    step = 32 + GUTTER
    assert where(sheet, GREEN) == (left + step, top, right + step, bottom)
    assert where(sheet, BLUE) == (left, top + step, right, bottom + step)
    assert where(sheet, GOLD) == (left + step, top + step, right + step, bottom + step)
    assert sheet.getpixel((0, 0)) == sheet.getpixel((right + 1, top + 1)) == (255, 255, 255)


def test_pixels_of_the_right_size_are_not_touched():
    image = np.random.default_rng(0).integers(1, 200, (40, 40, 3), np.uint8)
    sheet = contact_sheet([[image]], cell_size=40)
    side = (sheet.width - 40) // 2
    assert (np.asarray(sheet)[side : side + 40, side : side + 40] == image).all()


def test_an_oblong_image_keeps_its_shape_and_stands_in_the_middle():
    sheet = contact_sheet([[plain(RED)], [plain(GREEN, 16, 32)]], cell_size=64)
    left, top, right, bottom = where(sheet, GREEN)
    assert (right - left, bottom - top) == (64, 32)
    assert top == where(sheet, RED)[3] + GUTTER + 16


def test_a_missing_image_leaves_a_pale_square_and_a_short_row_leaves_more():
    sheet = contact_sheet([[plain(RED), plain(GREEN)], [None]], cell_size=32)
    left, top, _, bottom = where(sheet, RED)
    pale = where(sheet, (240, 241, 243))
    assert pale == (left, bottom + GUTTER, left + 2 * 32 + GUTTER, bottom + GUTTER + 32)
    assert top < pale[1]


def test_labels_stand_beside_their_row_and_above_their_column():
    cells = [[plain(RED), plain(GREEN)], [plain(BLUE), plain(GOLD)]]
    sheet = contact_sheet(cells, ["", "sad"], ["", "left"], cell_size=64)
    red, gold = where(sheet, RED), where(sheet, GOLD)
    assert dark_boxes(sheet.crop((0, gold[1], red[0], gold[3])))
    assert not dark_boxes(sheet.crop((0, red[1], red[0], red[3])))
    assert dark_boxes(sheet.crop((gold[0], 0, gold[2], red[1])))
    assert not dark_boxes(sheet.crop((0, 0, red[2], red[1])))


def test_a_title_stands_above_the_column_labels():
    bare = contact_sheet([[plain(RED)]], (), ["x"], cell_size=200)
    titled = contact_sheet([[plain(RED)]], (), ["x"], "A title", cell_size=200)
    added = titled.height - bare.height
    assert added > 0
    assert dark_boxes(titled.crop((0, 0, titled.width, added)))


def test_a_label_that_is_too_long_is_cut_before_it_leaves_its_column():
    sheet = contact_sheet([[plain(RED), plain(GREEN)]], (), ["", "w" * 200], cell_size=64)
    red, green = where(sheet, RED), where(sheet, GREEN)
    assert dark_boxes(sheet.crop((green[0], 0, green[2], green[1])))
    assert not dark_boxes(sheet.crop((0, 0, red[2], red[1])))
    assert not dark_boxes(sheet.crop((green[2], 0, sheet.width, green[1])))


@pytest.mark.parametrize(("rows", "columns"), [(3, 60), (60, 3), (300, 2), (1, 1)])
def test_a_sheet_is_never_larger_than_the_bound(rows, columns):
    sheet = contact_sheet([[plain(RED, 8, 8)] * columns] * rows, ["a row"] * rows, ["c"] * columns, "t", cell_size=300)
    assert max(sheet.size) <= MAX_SIDE
    assert min(sheet.size) > 20


def test_cells_are_drawn_smaller_rather_than_shrunk_with_their_labels():
    sheet = contact_sheet([[plain(RED, 8, 8)] * 20], ["a row with a long name"], cell_size=300)
    left, top, right, bottom = where(sheet, RED)
    # Shrinking the finished sheet would blur the edges of the cells.
    colours = np.unique(np.asarray(sheet.crop((left, top, right, bottom))).reshape(-1, 3), axis=0)
    assert colours.tolist() == [[*RED], [255, 255, 255]]


def test_what_cannot_be_laid_out_is_refused():
    with pytest.raises(ValueError, match="at least one cell"):
        contact_sheet([])
    with pytest.raises(ValueError, match="but 2 and 0 labels"):
        contact_sheet([[plain(RED)]], ["a", "b"])
