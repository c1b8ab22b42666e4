"""The command line as a user types it: help, exit codes, one-line errors, config files, JSON."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.samples import make_row, make_sample
from smile_pipe.cli.console import plain_console
from smile_pipe.cli.main import app
from smile_pipe.cli.progress import StageProgress
from smile_pipe.cli.tables import print_sample


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def complaint(*arguments: object) -> str:
    """The one line that a wrong request gets; nothing else is printed, and the code is 2."""
    code, _, stderr = invoke(*arguments)
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert code == 2, stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


@pytest.mark.parametrize("command", ["synth", "render", "train", "evaluate", "export", "inspect"])
def test_every_option_is_explained(command):
    code, out, _ = invoke(command, "--help")
    assert code == 0 and "--json" in out and "--config" in out


def test_the_version_is_told():
    code, out, _ = invoke("--version")
    assert code == 0 and out.startswith("smile-pipe ")


class TestBadInput:
    """What the user got wrong is said in one line, with code 2, and nothing is written."""

    @pytest.fixture(autouse=True)
    def _nothing_is_written(self, tmp_path: Path):
        self.out = tmp_path / "out"
        yield
        assert not self.out.exists()

    def test_a_missing_directory(self, tmp_path):
        assert "no such directory" in complaint("render", tmp_path / "nowhere", "--out", self.out)

    def test_an_empty_directory(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "is empty" in complaint("render", tmp_path / "empty", "--out", self.out)

    def test_an_unknown_layout(self, faces_dir):
        line = complaint("render", faces_dir, "--out", self.out, "--layout", "bu5dfe")
        assert "bu5dfe" in line and "bu3dfe" in line

    def test_a_directory_of_no_known_layout(self, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "face.obj").write_text("v 0 0 0")
        assert "labels.csv" in complaint("render", tmp_path / "data", "--out", self.out)

    def test_an_output_that_is_below_a_file(self, faces_dir, tmp_path):
        (tmp_path / "file").write_text("")
        assert "is a file" in complaint("render", faces_dir, "--out", tmp_path / "file" / "out")

    def test_an_unknown_channel(self, faces_dir):
        assert "infrared" in complaint("render", faces_dir, "--out", self.out, "--channels", "rgb,infrared")

    def test_a_number_out_of_range(self, faces_dir):
        assert "--size" in complaint("render", faces_dir, "--out", self.out, "--size", "3")

    def test_two_options_that_do_not_go_together(self, faces_dir):
        line = complaint("render", faces_dir, "--out", self.out, "--size", 2048, "--samples", 9)
        assert line == "error: --size 2048 with --samples 9: draws over 4096 pixels a side"

    def test_a_value_that_is_not_understood(self, faces_dir):
        line = complaint("render", faces_dir, "--out", self.out, "--window", 3)
        assert line == "error: --window 3: a window is START:END, two numbers of frames"

    def test_a_rig_that_is_not_there(self, faces_dir):
        assert "--rig" in complaint("render", faces_dir, "--out", self.out, "--rig", "7")

    def test_a_prompt_bank_that_is_not_there(self, faces_dir, tmp_path):
        assert "bank.yaml" in complaint("render", faces_dir, "--out", self.out, "--prompts", tmp_path / "bank.yaml")

    def test_a_required_option_that_is_missing(self, faces_dir):
        assert "--out is required" in complaint("render", faces_dir)

    def test_shards_that_match_nothing(self, tmp_path):
        line = complaint("train", "--shards", tmp_path / "{000000..000003}.tar", "--out", self.out)
        assert "matches nothing" in line

    def test_a_directory_without_a_manifest(self, tmp_path):
        assert "manifest.json" in complaint("train", "--shards", tmp_path, "--out", self.out)

    def test_too_few_subjects_for_the_split(self, shards_dir):
        line = complaint("train", "--shards", shards_dir, "--out", self.out, "--split", "kfold:10:0")
        assert "10 subjects" in line and "there are 5" in line

    def test_a_split_that_is_not_understood(self, shards_dir):
        assert "kfold:K:I" in complaint("train", "--shards", shards_dir, "--out", self.out, "--split", "half")

    @pytest.mark.parametrize(("option", "value"), [("--recipe", "smile-vlmm"), ("--arch", "smile-tyni")])
    def test_an_unknown_recipe_or_arch_gets_a_suggestion(self, shards_dir, option, value):
        line = complaint("train", "--shards", shards_dir, "--out", self.out, "--split", "kfold:5:0", option, value)
        assert "did you mean smile-" in line

    def test_weights_that_cannot_be_had(self, shards_dir):
        options = ("--split", "kfold:5:0", "--arch", "ViT-B-32", "--pretrained", "nobody")
        assert "nobody" in complaint("train", "--shards", shards_dir, "--out", self.out, *options)

    def test_resuming_where_nothing_was_begun(self, shards_dir):
        options = ("--split", "kfold:5:0", "--resume")
        assert "no run" in complaint("train", "--shards", shards_dir, "--out", self.out, *options)

    def test_a_run_that_is_not_one(self, shards_dir, tmp_path):
        assert "no such run" in complaint("evaluate", self.out, "--shards", shards_dir)

    def test_a_config_file_with_an_option_that_is_not_known(self, faces_dir, tmp_path):
        (tmp_path / "options.yaml").write_text("sise: 64\n")
        assert "sise" in complaint("render", faces_dir, "--out", self.out, "--config", tmp_path / "options.yaml")


@pytest.mark.parametrize(
    ("stage", "options"),
    [("render", ()), ("train", ("--split", "kfold:5:0")), ("crossval", ("--split-protocol", "kfold:5"))],
)
def test_an_unwritable_output_is_refused(faces_dir, shards_dir, tmp_path, monkeypatch, stage, options):
    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr("smile_pipe.shards.storage.os.access", lambda path, mode: not mode & os.W_OK)
    source = (faces_dir,) if stage == "render" else ("--shards", shards_dir)
    assert "cannot be written; check its permissions" in complaint(stage, *source, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(faces_dir, tmp_path):
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "out", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["num_to_render"] == 35 and plan["render"] == ["000000.tar"]
    assert plan["estimate"]["num_tried"] == 5 and plan["estimate"]["bytes"] > 100_000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["size: 40\nchannels: [rgb]\n", 'size = 40\nchannels = "rgb"\n'])
def test_options_come_from_a_file_and_the_command_line_stands_over_it(faces_dir, ray_cluster, tmp_path, text):
    file = tmp_path / ("options.yaml" if ":" in text else "options.toml")
    file.write_text(text)
    options = ("--config", file, "--limit", 2, "--json")
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "out", *options)
    manifest = json.loads(out)
    assert code == 0 and (manifest["image_size"], manifest["channels"]) == (40, ["rgb"])
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "other", *options, "--size", 24)
    assert json.loads(out)["image_size"] == 24


def test_inspect_tells_what_is_there_and_draws_it(shards_dir, run_dir, tmp_path):
    code, out, _ = invoke("inspect", shards_dir, "--preview", tmp_path / "sheet.png")
    assert code == 0 and "35 of 5 subjects" in out
    from PIL import Image

    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 9 * 100 and sheet.height > 10 * 100
    code, out, _ = invoke("inspect", run_dir, "--json")
    assert code == 0 and json.loads(out)["stage"] == "train"


def test_a_long_path_is_piped_whole(shards_dir, run_dir, tmp_path):
    root = tmp_path / ("[a] long " * 20)
    shutil.copytree(run_dir, root / "run")
    options = ("--shards", shards_dir, "--split", "kfold:5:0", "--epochs", 2, "--batch-size", 8)
    for path, *command in (
        (f"{root}/run is finished", "train", "--out", root / "run", *options),
        (f"{root}/run/checkpoints/", "inspect", root / "run"),
        (f"{root}/curves.png", "inspect", root / "run", "--curves", root / "curves.png"),
        (f"{root}/sheet.png", "inspect", shards_dir, "--preview", root / "sheet.png"),
        (f"{root}/clip: README.md", "export", root / "run", "--open-clip", root / "clip"),
        (f"{root}/run/evaluation/report.html", "evaluate", root / "run", "--shards", shards_dir),
    ):
        code, out, stderr = invoke(*command)
        assert code == 0 and path in out, (command, out, stderr)


def test_a_job_that_fails_exits_with_1_and_one_line(shards_dir, run_dir, tmp_path):
    shutil.copytree(shards_dir, tmp_path / "shards")
    for tar in (tmp_path / "shards" / "shards").glob("*.tar"):
        tar.write_bytes(b"\1" * tar.stat().st_size)
    code, _, stderr = invoke("evaluate", run_dir, "--shards", tmp_path / "shards")
    assert code == 1 and stderr.startswith("failed: ") and "Traceback" not in stderr
    code, _, stderr = invoke("evaluate", run_dir, "--shards", tmp_path / "shards", "--debug")
    assert code == 1 and "Traceback" in stderr


def test_a_render_of_which_nothing_comes_has_failed(ray_cluster, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "face.obj").write_text("v 0 0 zero\n")
    (tmp_path / "data" / "labels.csv").write_text("path,subject,expression\nface.obj,anna,happy\n")
    code, _, stderr = invoke("render", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 1 and "of 1 sample none could be rendered" in stderr and "failures.parquet" in stderr


def test_a_render_ends_with_what_its_workers_did_and_what_limited_it(faces_dir, ray_cluster, tmp_path):
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "out", "--limit", 5, "--size", 32)
    said = {line[:18].strip(): line[18:].strip() for line in out.splitlines()}
    assert code == 0 and said["samples"] == "5 (5 rendered, 0 rewritten)"
    steps = r"\d+%, render \d+%, encode \d+%, write \d+%\)"
    assert re.fullmatch(rf"cores busy \d+% \(read {steps}", said["workers"])
    assert said["limited by"] in {"cores", "waiting (storage, or starting up)"}


class TestOneSample:
    def test_is_shown_with_its_text_its_cameras_and_its_views(self, shards_dir, tmp_path):
        code, out, _ = invoke(
            "inspect", shards_dir, "--key", "F0001_HA04WH", "--preview", tmp_path / "one.png", "--json"
        )
        shown = json.loads(out)
        assert code == 0 and (shown["key"], shown["expression"]) == ("F0001_HA04WH", "HA")
        assert shown["text"] and [camera["name"] for camera in shown["cameras"]] == ["front", "left", "right"]
        from PIL import Image

        with Image.open(tmp_path / "one.png") as sheet:
            assert sheet.width > 9 * 100 and sheet.height < 3 * 160

    def test_stands_in_a_table_with_the_angles_of_its_cameras(self, shards_dir):
        code, out, _ = invoke("inspect", shards_dir, "--key", "F0001_HA04WH")
        rows = {line.split()[1]: line for line in out.splitlines() if line.startswith("│")}
        assert code == 0 and "happiness, level 4" in out
        assert rows["front"].split()[3:6:2] == ["0.0", "0.0"]
        assert "30.0" in rows["left"] and "-30.0" not in rows["left"] and "-30.0" in rows["right"]

    def test_has_one_landmark_or_several(self, capsys):
        for count, said in ((1, "bounds, 1 landmark "), (68, "bounds, 68 landmarks ")):
            sample = make_sample()
            mesh = sample.record.mesh.model_copy(update={"num_landmarks": count})
            shown = replace(sample, record=sample.record.model_copy(update={"mesh": mesh}))
            print_sample(shown, make_row(sample), plain_console())
            assert said in capsys.readouterr().out

    def test_that_is_not_there_is_missed_with_names_like_it(self, shards_dir):
        line = complaint("inspect", shards_dir, "--key", "f0001_ha")
        assert line.endswith("no such sample; like it are F0001_HA04WH")
        line = complaint("inspect", shards_dir, "--key", "x")
        assert "no such sample; there are F0001_AN04WH, " in line and line.endswith(", ...")


def typed(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, its output piped."""
    code = "from smile_pipe.cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)


class TestManners:
    def test_no_command_waits_for_what_only_others_need(self):
        heavy = {"torch", "ray", "open_clip", "sklearn", "pandas"}
        code = f"import sys, smile_pipe.cli.main; print({heavy} & sys.modules.keys())"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert told.stdout == "set()\n"

    @pytest.mark.parametrize(("wrong", "right"), [(["rendr"], "render"), (["render", "--rigg", "3"], "--rig")])
    def test_what_is_typed_wrong_gets_a_suggestion(self, wrong, right):
        done = typed(*wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.search(rf"(Did you mean|Possible options:) '?{right}\b", done.stderr)

    def test_what_is_piped_is_the_result_alone_without_colours(self, faces_dir, tmp_path):
        done = typed("render", faces_dir, "--out", tmp_path / "out", "--limit", 2, "--size", 32, NO_COLOR="")
        assert done.returncode == 0 and "layout bu3dfe" in done.stdout
        assert "render: " not in done.stdout and "\x1b" not in done.stdout + done.stderr
        assert "INFO" not in done.stderr

    def test_ray_is_heard_when_it_is_asked_for(self, faces_dir, tmp_path):
        options = ("--out", tmp_path / "out", "--limit", 2, "--size", 32, "--verbose")
        assert "Started a local Ray instance" in typed("render", faces_dir, *options).stderr

    def test_progress_on_long_work_is_told_on_stderr(self, monkeypatch, capsys):
        now = [100.0]
        monkeypatch.setattr("smile_pipe.cli.progress.time.monotonic", lambda: now[0])
        with StageProgress("render") as progress:
            for done in range(11):
                progress.update(done, 10)
                now[0] += 0.5
        told = capsys.readouterr()
        assert told.out == ""
        assert [line.split()[1] for line in told.err.splitlines()] == ["5", "6", "7", "8", "9", "10"]
