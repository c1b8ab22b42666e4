"""The contact sheet of shards: scans by view and channel, sequences over time, and the counts of `inspect`."""

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
def sheet_calls(monkeypatch) -> list[dict]:
    """Records the arguments of each contact sheet."""
    calls: list[dict] = []
    draw = preview.contact_sheet
    monkeypatch.setattr(
        preview, "contact_sheet", lambda cells, **o: calls.append({"cells": cells, **o}) or draw(cells, **o)
    )
    return calls


def make_shards(root: Path, *timelines, channels=("rgb", "depth"), expressions=("HA", "SA")) -> ShardSet:
    write_shard_set(root, 1, expressions, channels=channels, timelines=timelines or (None,))
    return ShardSet.open(str(root))


def decode(shards: ShardSet, number: int, view: str, name: str) -> np.ndarray:
    return as_rgb(decode_image(name, shards.read(shards.rows[number]).images[view, name]))


def are_equal(cells, expected) -> bool:
    return len(cells) == len(expected) and all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in zip(cells, expected, strict=True)
    )


def test_scan_shows_all_views_and_channels(sheet_calls, tmp_path):
    shards = make_shards(tmp_path / "shards")
    assert preview_png(shards).startswith(b"\x89PNG")
    labels = [f"{view} {channel}" for channel in ("rgb", "depth") for view in ("front", "left", "right")]
    assert sheet_calls[0]["column_labels"] == labels and "sequences" not in sheet_calls[0]["title"]
    assert sheet_calls[0]["row_labels"] == ["F0001 happiness 4", "F0001 sadness 4"]
    for number, row in enumerate(sheet_calls[0]["cells"]):
        assert are_equal(row, [decode(shards, number, *label.split()) for label in labels])


def test_sequence_shows_its_first_view_over_time_and_dynamic_image(sheet_calls, tmp_path):
    shards = make_shards(tmp_path / "shards", make_timeline(3, "both"), make_timeline(5, "both"))
    preview_png(shards)
    short = [decode(shards, 0, "front", f"rgb.0{n}") for n in range(3)]
    long = [decode(shards, 1, "front", f"rgb.0{n}") for n in range(5)]
    dynamic = [decode(shards, n, "front", "rgb.dynamic") for n in range(2)]
    assert are_equal(sheet_calls[0]["cells"][0], [*short, None, None, dynamic[0]])
    assert are_equal(sheet_calls[0]["cells"][1], [*long, dynamic[1]])
    assert sheet_calls[0]["column_labels"] == [*(f"moment {n}" for n in range(1, 6)), "dynamic"]
    assert sheet_calls[0]["title"].endswith("; sequences: front rgb in time")


def test_long_sequence_shows_eight_evenly_spaced_frames(sheet_calls, tmp_path):
    shards = make_shards(tmp_path / "shards", make_timeline(30, "frames"), expressions=("HA",))
    preview_png(shards)
    expected = [decode(shards, 0, "front", f"rgb.{n:02d}") for n in (0, 4, 8, 12, 17, 21, 25, 29)]
    assert are_equal(sheet_calls[0]["cells"][0], expected)


def test_sequence_with_only_a_dynamic_image_shows_it(sheet_calls, tmp_path):
    shards = make_shards(tmp_path / "shards", make_timeline(4, "dynamic"), expressions=("HA",))
    preview_png(shards)
    assert are_equal(sheet_calls[0]["cells"][0], [decode(shards, 0, "front", "rgb.dynamic")])
    assert sheet_calls[0]["column_labels"] == ["dynamic"]


def test_scans_and_sequences_share_a_sheet(sheet_calls, tmp_path):
    shards = make_shards(tmp_path / "shards", None, make_timeline(8, "both"))
    with Image.open(io.BytesIO(preview_png(shards))) as sheet:
        assert sheet.width > 9 * preview.CELL
    assert [len(row) for row in sheet_calls[0]["cells"]] == [6, 9] and sheet_calls[0]["column_labels"] == []


def test_sequence_and_scan_of_the_same_face_are_both_shown(tmp_path, sheet_calls):
    scans = make_shards(tmp_path / "scans", expressions=("HA",))
    (tmp_path / "both").mkdir()
    write_shard_set(tmp_path / "both" / "shards", 1, ("HA",), timelines=(make_timeline(2),), channels=("rgb", "depth"))
    sequences = ShardSet.open(str(tmp_path / "both" / "shards"))
    assert preview._select([*scans.rows, *sequences.rows], 5) == [*scans.rows, *sequences.rows]


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
