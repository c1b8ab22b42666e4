"""The contact sheet of shards: scans by view and channel, sequences in time, and what `inspect` says of both."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.samples import make_timeline, write_shard_set
from smile_pipe.cli.main import app
from smile_pipe.pipeline.reports import preview
from smile_pipe.pipeline.reports.preview import preview_png
from smile_pipe.shards.images import as_rgb, decode_image
from smile_pipe.shards.reader import ShardSet


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """What each contact sheet was asked to show."""
    asked: list[dict] = []
    plain = preview.contact_sheet
    monkeypatch.setattr(
        preview, "contact_sheet", lambda cells, **o: asked.append({"cells": cells, **o}) or plain(cells, **o)
    )
    return asked


def shards_of(root: Path, *timelines, channels=("rgb", "depth"), expressions=("HA", "SA")) -> ShardSet:
    write_shard_set(root, 1, expressions, channels=channels, timelines=timelines or (None,))
    return ShardSet.open(str(root))


def picture(shards: ShardSet, number: int, view: str, name: str) -> np.ndarray:
    return as_rgb(decode_image(name, shards.read(shards.rows[number]).images[view, name]))


def same(cells, expected) -> bool:
    return len(cells) == len(expected) and all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in zip(cells, expected, strict=True)
    )


def test_a_scan_shows_all_its_views_and_channels(drawn, tmp_path):
    shards = shards_of(tmp_path / "shards")
    assert preview_png(shards).startswith(b"\x89PNG")
    labels = [f"{view} {channel}" for channel in ("rgb", "depth") for view in ("front", "left", "right")]
    assert drawn[0]["column_labels"] == labels and "sequences" not in drawn[0]["title"]
    assert drawn[0]["row_labels"] == ["F0001 happiness 4", "F0001 sadness 4"]
    for number, row in enumerate(drawn[0]["cells"]):
        assert same(row, [picture(shards, number, *label.split()) for label in labels])


def test_a_sequence_shows_its_first_view_in_time_and_then_its_dynamic_image(drawn, tmp_path):
    shards = shards_of(tmp_path / "shards", make_timeline(3, "both"), make_timeline(5, "both"))
    preview_png(shards)
    short = [picture(shards, 0, "front", f"rgb.0{n}") for n in range(3)]
    long = [picture(shards, 1, "front", f"rgb.0{n}") for n in range(5)]
    dynamic = [picture(shards, n, "front", "rgb.dynamic") for n in range(2)]
    assert same(drawn[0]["cells"][0], [*short, None, None, dynamic[0]])
    assert same(drawn[0]["cells"][1], [*long, dynamic[1]])
    assert drawn[0]["column_labels"] == [*(f"moment {n}" for n in range(1, 6)), "dynamic"]
    assert drawn[0]["title"].endswith("; sequences: front rgb in time")


def test_a_long_sequence_shows_eight_frames_evenly_from_first_to_last(drawn, tmp_path):
    shards = shards_of(tmp_path / "shards", make_timeline(30, "frames"), expressions=("HA",))
    preview_png(shards)
    expected = [picture(shards, 0, "front", f"rgb.{n:02d}") for n in (0, 4, 8, 12, 17, 21, 25, 29)]
    assert same(drawn[0]["cells"][0], expected)


def test_a_sequence_of_which_only_the_dynamic_image_is_stored_shows_that(drawn, tmp_path):
    shards = shards_of(tmp_path / "shards", make_timeline(4, "dynamic"), expressions=("HA",))
    preview_png(shards)
    assert same(drawn[0]["cells"][0], [picture(shards, 0, "front", "rgb.dynamic")])
    assert drawn[0]["column_labels"] == ["dynamic"]


def test_scans_and_sequences_stand_on_one_sheet(drawn, tmp_path):
    shards = shards_of(tmp_path / "shards", None, make_timeline(8, "both"))
    with Image.open(io.BytesIO(preview_png(shards))) as sheet:
        assert sheet.width > 9 * preview.CELL
    assert [len(row) for row in drawn[0]["cells"]] == [6, 9] and drawn[0]["column_labels"] == []


def test_a_sequence_does_not_hide_the_scan_of_the_same_face(tmp_path, drawn):
    scans = shards_of(tmp_path / "scans", expressions=("HA",))
    (tmp_path / "both").mkdir()
    write_shard_set(tmp_path / "both" / "shards", 1, ("HA",), timelines=(make_timeline(2),), channels=("rgb", "depth"))
    sequences = ShardSet.open(str(tmp_path / "both" / "shards"))
    assert preview._select([*scans.rows, *sequences.rows], 5) == [*scans.rows, *sequences.rows]


@pytest.mark.parametrize(
    ("timelines", "told"),
    [
        ((None,), "2 scans"),
        ((make_timeline(3),), "2 sequences of 3 frames (6 in all), recorded at 25 fps"),
        ((make_timeline(3), make_timeline(5)), "2 sequences of 3 to 5 frames (8 in all), recorded at 25 fps"),
        ((None, make_timeline(5)), "1 scan and 1 sequence of 5 frames (5 in all), recorded at 25 fps"),
    ],
)
def test_inspect_tells_scans_sequences_frames_and_rates(tmp_path, timelines, told):
    shards_of(tmp_path / "shards", *timelines)
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "shards"), "--preview", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0 and (tmp_path / "sheet.png").exists()
    assert " ".join(result.stdout.split()).count(told) == 1
