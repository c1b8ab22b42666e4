"""The contact sheet of shards: scans by view and channel, sequences over time, and the counts of `inspect`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageDraw, ImageFont
from typer.testing import CliRunner

from helpers.samples import make_timeline, write_shard_set
from smile_pipe.cli.main import app
from smile_pipe.pipeline.data.input_images import fit_view
from smile_pipe.pipeline.reports import contact_sheet
from smile_pipe.pipeline.reports.contact_sheet import CELL, MAX_WIDTH, draw_sheet, preview_png, select_rows
from smile_pipe.shards.images import as_rgb, decode_image
from smile_pipe.shards.reader import ShardSet

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def make_shards(root: Path, *timelines, channels=("rgb", "depth"), expressions=("HA", "SA")) -> ShardSet:
    root.parent.mkdir(exist_ok=True)
    write_shard_set(root, 1, expressions, channels=channels, timelines=timelines or (None,))
    return ShardSet.open(str(root))


def decode(shards: ShardSet, number: int, view: str, name: str) -> np.ndarray:
    sample = shards.read(shards.rows[number])
    pixels = decode_image(name, sample.images[view, name])
    if not name.startswith("depth"):
        return as_rgb(pixels)
    # As the input of a model: 8 bits over the depth of a face.
    out = np.empty((3, *pixels.shape), np.uint8)
    fit_view(pixels, sample.record, "depth", out)
    return out.transpose(1, 2, 0)


class TestRows:
    """What is drawn of each sample."""

    @pytest.fixture
    def drawn(self, monkeypatch) -> list:
        """The arguments of the last sheet: title, labels of rows, and images of rows by column."""
        calls: list = []
        draw = contact_sheet.draw_sheet
        monkeypatch.setattr(contact_sheet, "draw_sheet", lambda *given: calls.extend(given) or draw(*given))
        return calls

    def check(self, drawn, shards, *rows: dict[str, str]) -> None:
        """Check the columns of each row, given as view and image name by label."""
        for number, (cells, expected) in enumerate(zip(drawn[2], rows, strict=True)):
            assert list(cells) == list(expected)
            for label, name in expected.items():
                assert np.array_equal(cells[label], decode(shards, number, *name.split()))

    def test_scan_shows_all_views_and_channels(self, drawn, tmp_path):
        shards = make_shards(tmp_path / "shards")
        assert preview_png(shards).startswith(b"\x89PNG")
        names = [f"{view} {channel}" for channel in ("rgb", "depth") for view in ("front", "left", "right")]
        assert drawn[:2] == ["2 samples, zbuffer, 16 px", ["F0001 happiness 4", "F0001 sadness 4"]]
        self.check(drawn, shards, *[{name: name for name in names}] * 2)

    def test_sequence_shows_its_first_view_over_time_and_dynamic_image(self, drawn, tmp_path):
        shards = make_shards(tmp_path / "shards", make_timeline(3, "both"), None)
        preview_png(shards)
        moments = {f"moment {n + 1}": f"front rgb.0{n}" for n in range(3)}
        scan = [f"{view} {channel}" for channel in ("rgb", "depth") for view in ("front", "left", "right")]
        self.check(drawn, shards, moments | {"dynamic": "front rgb.dynamic"}, {name: name for name in scan})
        assert drawn[0].endswith("; sequences: front rgb in time")

    def test_long_sequence_shows_eight_evenly_spaced_frames(self, drawn, tmp_path):
        shards = make_shards(tmp_path / "shards", make_timeline(30, "frames"), expressions=("HA",))
        preview_png(shards)
        shown = (0, 4, 8, 12, 17, 21, 25, 29)
        self.check(drawn, shards, {f"moment {n}": f"front rgb.{frame:02d}" for n, frame in enumerate(shown, 1)})

    def test_sequence_with_only_a_dynamic_image_shows_it(self, drawn, tmp_path):
        shards = make_shards(tmp_path / "shards", make_timeline(4, "dynamic"), expressions=("HA",))
        preview_png(shards)
        self.check(drawn, shards, {"dynamic": "front rgb.dynamic"})

    def test_strongest_scan_and_sequence_of_each_face_are_drawn(self, tmp_path):
        scans = make_shards(tmp_path / "scans", expressions=("SA", "HA")).rows
        (sequence,) = make_shards(tmp_path / "both" / "shards", make_timeline(2), expressions=("HA",)).rows
        weaker = replace(sequence, key="weaker", level=1)
        by_expression = {row.expression: row for row in scans}
        assert select_rows([weaker, sequence, *scans]) == [by_expression["HA"], sequence, by_expression["SA"]]


class TestDrawing:
    """The layout of a sheet."""

    def solid(self, color, size=8):
        return np.full((size, size, 3), color, np.uint8)

    def box(self, sheet, color) -> tuple[int, int, int, int]:
        """The bounding box of a colour: left, top, right, bottom."""
        ys, xs = np.nonzero((np.asarray(sheet) == color).all(axis=2))
        return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1

    def has_text(self, sheet, *box: int) -> bool:
        return bool((np.asarray(sheet.crop(box)) < 150).any())

    def test_cells_are_aligned_and_missing_ones_are_grey(self):
        rows = [{"a": self.solid(RED), "dynamic": self.solid(GREEN)}, {"a": self.solid(BLUE), "b": self.solid(BLUE)}]
        sheet = draw_sheet("", ["", ""], rows)
        red, green, blue = (self.box(sheet, color) for color in (RED, GREEN, BLUE))
        assert red[2] - red[0] == red[3] - red[1] == CELL
        assert red[1] == green[1] and blue[0] == red[0] and blue[1] > red[3]
        # The dynamic image is in the last column.
        assert green[0] > blue[2]
        assert sheet.getpixel((blue[2] - 1, red[1])) == sheet.getpixel((green[0], blue[1])) == (240, 241, 243)

    def test_labels_and_title_are_outside_of_the_cells(self):
        sheet = draw_sheet("A title", ["", "row"], [{"": self.solid(RED), "w" * 200: self.solid(GREEN)}, {}])
        red, green = self.box(sheet, RED), self.box(sheet, GREEN)
        width, height = sheet.size
        assert self.has_text(sheet, 0, 0, width, 60)
        # The long label is truncated to its column.
        assert self.has_text(sheet, green[0], 60, green[2], green[1])
        assert not self.has_text(sheet, 0, 60, red[2], red[1]) and not self.has_text(sheet, green[2], 60, width, red[1])
        assert self.has_text(sheet, 0, red[3], red[0], height) and not self.has_text(sheet, 0, red[1], red[0], red[3])

    def test_long_labels_of_rows_are_whole_in_several_lines(self, monkeypatch):
        drawn = []
        monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", lambda *given, **more: drawn.append(given[2]))
        label = " ".join(f"word{n}" for n in range(40))
        draw_sheet("", [label, "short"], [{"a": self.solid(RED)}] * 2)
        lines, font = drawn[0].split("\n"), ImageFont.load_default(16)
        assert " ".join(lines) == label and drawn[1] == "short"
        assert 1 < len(lines) <= CELL // 20 and all(font.getlength(line) <= 400 for line in lines)
        # What does not fit next to a cell is cut off, at the end of the last line only.
        draw_sheet("", [label * 9], [{"a": self.solid(RED)}])
        *whole, last = drawn[2].split("\n")
        assert len(whole) == CELL // 20 - 1 and last.endswith("...") and (label * 9).startswith(" ".join(whole))

    @pytest.mark.parametrize("columns", [1, 60, 150])
    def test_many_columns_are_drawn_smaller(self, columns):
        sheet = draw_sheet("t", ["row " * 9], [{f"c{n}": self.solid(RED) for n in range(columns)}])
        left, top, right, bottom = self.box(sheet, RED)
        assert right - left <= MAX_WIDTH and bottom - top >= 16 and sheet.width < MAX_WIDTH + 1000


@pytest.mark.parametrize(
    ("timelines", "summary"),
    [
        ((None,), "2 scans"),
        ((make_timeline(3),), "2 sequences of 3 frames (6 in all), recorded at 25 fps"),
        ((make_timeline(3), make_timeline(5)), "2 sequences of 3 to 5 frames (8 in all), recorded at 25 fps"),
        ((None, make_timeline(5)), "1 scan and 1 sequence of 5 frames (5 in all), recorded at 25 fps"),
    ],
)
def test_inspect_prints_scans_sequences_frames_and_rates(tmp_path, timelines, summary):
    make_shards(tmp_path / "shards", *timelines)
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "shards"), "--preview", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0 and (tmp_path / "sheet.png").exists()
    assert " ".join(result.stdout.split()).count(summary) == 1
