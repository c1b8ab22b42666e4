"""Curves of a run: in the terminal, as a picture, and of an unfinished run."""

import io
import json
import math
import re
import shutil

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from helpers import small_runs
from helpers.small_runs import learn
from smile_pipe.cli.main import app
from smile_pipe.cli.tables import curves_table, sparkline
from smile_pipe.pipeline.runs.curves import curve_title, extract_curves

ROWS = [
    {"step": 5, "epoch": 0, "num_steps": 20, "loss_vl": 3.0, "loss_mv": 2.0, "loss_total": 5.0, "learning_rate": 0.1},
    {"step": 8, "epoch": 0, "num_steps": 20, "validation_knn": 0.5},
    {"step": 10, "epoch": 1, "num_steps": 20, "loss_vl": 1.0, "loss_mv": math.nan, "loss_total": 2.5, "margin": 0.3},
]


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "1000"})
    return result.exit_code, result.output


def test_curves_are_ordered_by_importance():
    assert extract_curves(ROWS) == {
        "loss_total": [(5, 5.0), (10, 2.5)],
        "validation_knn": [(8, 0.5)],
        "loss_mv": [(5, 2.0)],
        "loss_vl": [(5, 3.0), (10, 1.0)],
        "margin": [(10, 0.3)],
        "learning_rate": [(5, 0.1)],
    }
    assert extract_curves([]) == {}
    assert [curve_title(name) for name in extract_curves(ROWS)] == [
        "total loss",
        "validation kNN",
        "multiview decorrelation",
        "vision-language contrast",
        "margin",
        "learning rate",
    ]


class TestSparkline:
    def test_sparkline_scales_from_minimum_to_maximum(self):
        assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
        assert sparkline([7, 0]) == "█▁"

    def test_sparkline_averages_many_values(self):
        assert sparkline([0, 0, 0, 14, 14, 14], width=2) == "▁█"
        assert sparkline([0, 14, 7, 7], width=2) == "▅▅"
        assert len(sparkline(list(range(1000)), width=24)) == 24

    def test_constant_sparkline_is_in_the_middle(self):
        assert sparkline([2.5, 2.5, 2.5]) == "▅▅▅"
        assert sparkline([1.0]) == "▅"


def test_table_has_one_row_per_curve():
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(curves_table(extract_curves(ROWS)))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines[0] == ["first", "last", "least", "most"]
    assert all(len(line) < 80 for line in console.file.getvalue().splitlines())
    assert lines[1] == ["total", "loss", "█▁", "5", "2.5", "2.5", "5"]
    assert lines[2][-5:] == ["▅", "0.5", "0.5", "0.5", "0.5"]
    assert len(lines) == 7


class TestInspect:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("runs")
        small_runs.write_shards(folder)
        learn(folder / "shards", folder / "run", val_fraction=0.4)
        return folder

    @pytest.fixture
    def unfinished(self, folder, tmp_path):
        """A copy that stopped after its first epoch."""
        shutil.copytree(folder / "run", tmp_path / "run")
        (tmp_path / "run" / "manifest.json").unlink()
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
        rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "run" / "metrics.jsonl").write_text("".join(rows[:2]))
        return tmp_path / "run"

    def test_a_run_shows_its_curves(self, folder, tmp_path):
        code, out = invoke("inspect", folder / "run", "--curves", tmp_path / "curves.png")
        assert code == 0, out
        for name in ("total loss", "validation kNN", "learning rate", "samples a second", "waiting for data"):
            assert name in out
        assert re.search(r"trained on +\d+ scans of \d+ subjects *\n", out)
        assert re.search(r"steps +\d+, workers: 1\b", out)
        assert "held back" in out and "2 subjects" in out and f"curves: {tmp_path}/curves.png" in out
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.format == "PNG" and picture.width == 1680

    def test_inspect_unfinished_run(self, unfinished, tmp_path):
        code, out = invoke("inspect", unfinished)
        assert code == 0, out
        assert "not finished: step 5 of 6; `smile-pipe train --resume` continues it" in out
        assert f"{unfinished}/checkpoints/step-000003" in out and "total loss" in out
        code, out = invoke("inspect", unfinished, "--json", "--curves", tmp_path / "curves.png")
        found = json.loads(out[out.index("{\n") :])
        assert (found["state"], found["step"], found["num_steps"]) == ("unfinished", 5, 6)
        assert found["checkpoint"] == "step-000003" and found["train"]["split"] == "kfold:6:0"

    def test_inspect_run_without_metrics(self, unfinished, tmp_path):
        shutil.rmtree(unfinished / "checkpoints")
        (unfinished / "metrics.jsonl").unlink()
        code, out = invoke("inspect", unfinished)
        assert code == 0 and "step 0 of" in out and "none yet" in out
        code, out = invoke("inspect", unfinished, "--curves", tmp_path / "curves.png")
        assert code == 2 and "has no metrics yet" in out and not (tmp_path / "curves.png").exists()

    def test_inspect_curves_of_other_directory_is_refused(self, folder, tmp_path):
        for content in ({}, {"fingerprint": "f", "train": {"num_workers": 1, "batch_size": 4, "split": "all"}}):
            (tmp_path / "config.json").write_text(json.dumps(content))
            code, out = invoke("inspect", tmp_path)
            assert code == 2 and "holds no run" in out
        code, out = invoke("inspect", folder / "shards", "--curves", tmp_path / "curves.png")
        assert code == 2 and "--curves: shows a run, and these are shards" in out
        code, out = invoke("inspect", folder / "run", "--preview", tmp_path / "sheet.png")
        assert code == 2 and "--preview: shows shards; for a run use --curves" in out

    def test_unwritable_picture_is_reported(self, folder, tmp_path):
        code, out = invoke("inspect", folder / "run", "--curves", tmp_path / "nowhere" / "curves.png")
        assert code == 2 and "curves.png: cannot be written" in out
