"""The command line: help, exit codes, one-line errors, config files, JSON."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.processes import wait_until
from helpers.samples import make_row, make_sample
from smile_pipe.cli.console import plain_console
from smile_pipe.cli.main import COMMANDS, app, load_command, main
from smile_pipe.cli.panels import COMMON, PANELS
from smile_pipe.cli.progress import StageProgress
from smile_pipe.cli.tables import print_sample
from smile_pipe.shards.reader import ShardSet


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def usage_error(*arguments: object) -> str:
    """The line that invalid arguments print on stderr; the exit code is 2."""
    code, _, stderr = invoke(*arguments)
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert code == 2, stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


@pytest.mark.parametrize("command", ["synth", "render", "train", "evaluate", "export", "inspect"])
def test_help_lists_the_common_options(command):
    code, out, _ = invoke(command, "--help")
    assert code == 0 and "--json" in out and "--config" in out


def test_old_flag_of_train_warns_and_is_hidden(tmp_path):
    code, out, stderr = invoke("train", "--shards", tmp_path / "shards", "--out", tmp_path / "out", "--without", "xx")
    assert code == 2 and out == ""
    assert "--without is now called --drop-loss" in stderr and "no loss 'xx'" in " ".join(stderr.split())
    _, help_text, _ = invoke("train", "--help")
    assert not re.findall(r"--(?:without|accumulate|keep|validation)\b(?!-)", help_text)


@pytest.mark.parametrize("name", COMMANDS)
def test_summary_of_a_command_is_the_start_of_its_help(name):
    assert COMMANDS[name] == load_command(name).help.partition("\n\n")[0]


def test_version_is_printed():
    code, out, _ = invoke("--version")
    assert code == 0 and out.startswith("smile-pipe ")


class TestInvalidArguments:
    """Invalid arguments print one line, exit with 2, and write nothing."""

    @pytest.fixture(autouse=True)
    def _check_that_nothing_is_written(self, tmp_path: Path):
        for name in ("empty", "unknown"):
            (tmp_path / name).mkdir()
        for name, content in {"unknown/face.obj": "v 0 0 0", "file": "", "options.yaml": "sise: 64\n"}.items():
            (tmp_path / name).write_text(content)
        yield
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("render {tmp}/nowhere --out {out}", "no such directory"),
            ("render {tmp}/empty --out {out}", "is empty"),
            ("render {tmp}/unknown --out {out}", "labels.csv"),
            ("render {faces} --out {out} --layout bu5dfe", "bu5dfe.* bu3dfe"),
            ("render {faces} --out {tmp}/file/out", "is a file"),
            ("render {faces} --out {out} --channels rgb,infrared", "infrared"),
            ("render {faces} --out {out} --size 3", "--size"),
            (
                "render {faces} --out {out} --size 2048 --supersample 9",
                "error: --size 2048 with --supersample 9: draws over 4096 pixels a side$",
            ),
            (
                "render {faces} --out {out} --window 3",
                "error: --window 3: not a window; write START:END, two frame numbers$",
            ),
            ("render {faces} --out {out} --rig 7", "--rig"),
            ("render {faces} --out {out} --prompts {tmp}/bank.yaml", r"bank\.yaml"),
            ("render {faces} --out {out} --config {tmp}/options.yaml", "sise"),
            ("synth", "OUT is required"),
            ("train --shards {tmp}/{{000000..000003}}.tar --out {out}", "matches nothing"),
            ("train --shards {tmp} --out {out}", r"manifest\.json"),
        ],
    )
    def test_without_shards(self, faces_dir, tmp_path, arguments, expected):
        words = arguments.format(faces=faces_dir, tmp=tmp_path, out=tmp_path / "out").split()
        assert re.search(expected, usage_error(*words))

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("train --shards {shards} --out {out} --split kfold:10:0", "10 subjects.*there are 5"),
            ("train --shards {shards} --out {out} --split half", "kfold:K:I"),
            ("train --shards {shards} --out {out} --split kfold:5:0 --recipe smile-vlmm", "did you mean smile-"),
            ("train --shards {shards} --out {out} --split kfold:5:0 --arch smile-tyni", "did you mean smile-"),
            ("train --shards {shards} --out {out} --split kfold:5:0 --arch ViT-B-32 --pretrained nobody", "nobody"),
            ("train --shards {shards} --out {out} --split kfold:5:0 --resume", "no run"),
            ("evaluate {out} --shards {shards}", "no such run"),
        ],
    )
    def test_with_shards(self, shards_dir, tmp_path, arguments, expected):
        words = arguments.format(shards=shards_dir, out=tmp_path / "out").split()
        assert re.search(expected, usage_error(*words))


@pytest.mark.parametrize(
    ("stage", "options"),
    [("render", ()), ("train", ("--split", "kfold:5:0")), ("crossval", ("--split-protocol", "kfold:5"))],
)
def test_unwritable_output_is_an_error(faces_dir, shards_dir, tmp_path, monkeypatch, stage, options):
    # Permissions do not restrict root, and tests may run as root.
    monkeypatch.setattr("smile_pipe.shards.storage.os.access", lambda path, mode: not mode & os.W_OK)
    source = (faces_dir,) if stage == "render" else ("--shards", shards_dir)
    assert "cannot be written; check its permissions" in usage_error(
        stage, *source, "--out", tmp_path / "out", *options
    )
    assert not (tmp_path / "out").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(faces_dir, tmp_path):
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "out", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["num_to_render"] == 35 and plan["render"] == ["000000.tar"]
    assert plan["estimate"]["num_tried"] == 5 and plan["estimate"]["bytes"] > 100_000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["size: 40\nchannels: [rgb]\n", 'size = 40\nchannels = "rgb"\n'])
def test_command_line_overrides_the_config_file(faces_dir, ray_cluster, tmp_path, text):
    file = tmp_path / ("options.yaml" if ":" in text else "options.toml")
    file.write_text(text)
    options = ("--config", file, "--limit", 2, "--json")
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "out", *options)
    manifest = json.loads(out)
    assert code == 0 and (manifest["image_size"], manifest["channels"]) == (40, ["rgb"])
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "other", *options, "--size", 24)
    assert json.loads(out)["image_size"] == 24


def test_inspect_prints_shards_and_runs_and_draws_a_contact_sheet(shards_dir, run_dir, tmp_path):
    code, out, _ = invoke("inspect", shards_dir, "--preview", tmp_path / "sheet.png")
    assert code == 0 and "35 of 5 subjects" in out
    from PIL import Image

    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 9 * 100 and sheet.height > 10 * 100
    code, out, _ = invoke("inspect", run_dir, "--json")
    assert code == 0 and json.loads(out)["stage"] == "train"


def test_long_paths_are_piped_complete(shards_dir, run_dir, tmp_path):
    root = tmp_path / ("[a] long " * 20)
    shutil.copytree(run_dir, root / "run")
    options = ("--shards", shards_dir, "--split", "kfold:5:0", "--epochs", 2, "--batch-size", 8)
    for path, *command in (
        (f"{root}/run is finished", "train", "--out", root / "run", *options),
        (f"{root}/run/checkpoints/", "inspect", root / "run"),
        (f"{root}/curves.png", "inspect", root / "run", "--curves", root / "curves.png"),
        (f"{root}/sheet.png", "inspect", shards_dir, "--preview", root / "sheet.png"),
        (f"{root}/clip: see README.md", "export", root / "run", "--open-clip", root / "clip"),
        (f"{root}/run/evaluation/report.html", "evaluate", root / "run", "--shards", shards_dir),
    ):
        code, out, stderr = invoke(*command)
        assert code == 0 and path in out, (command, out, stderr)


def test_failed_job_exits_with_1_and_one_line(shards_dir, run_dir, tmp_path):
    shutil.copytree(shards_dir, tmp_path / "shards")
    for tar in (tmp_path / "shards" / "shards").glob("*.tar"):
        tar.write_bytes(b"\1" * tar.stat().st_size)
    code, _, stderr = invoke("evaluate", run_dir, "--shards", tmp_path / "shards")
    assert code == 1 and stderr.startswith("failed: ") and "Traceback" not in stderr
    code, _, stderr = invoke("evaluate", run_dir, "--shards", tmp_path / "shards", "--debug")
    assert code == 1 and "Traceback" in stderr


def test_render_without_any_sample_fails(ray_cluster, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "face.obj").write_text("v 0 0 zero\n")
    (tmp_path / "data" / "labels.csv").write_text("path,subject,expression\nface.obj,anna,happy\n")
    code, _, stderr = invoke("render", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 1 and "of 1 sample none could be rendered" in stderr and "failures.parquet" in stderr


def test_render_prints_the_load_of_its_workers_and_the_bottleneck(faces_dir, ray_cluster, tmp_path):
    code, out, _ = invoke("render", faces_dir, "--out", tmp_path / "out", "--limit", 5, "--size", 32)
    facts = {line[:18].strip(): line[18:].strip() for line in out.splitlines()}
    assert code == 0 and facts["samples"] == "5 (5 rendered, 0 rewritten)"
    steps = r"\d+%, render \d+%, encode \d+%, write \d+%\)"
    assert re.fullmatch(rf"cores busy \d+% \(read {steps}", facts["workers"])
    assert facts["limited by"] in {"cores", "waiting (storage, or starting up)"}


class TestInspectKey:
    def test_json_and_preview_of_one_sample(self, shards_dir, tmp_path):
        code, out, _ = invoke(
            "inspect", shards_dir, "--key", "F0001_HA04WH", "--preview", tmp_path / "one.png", "--json"
        )
        shown = json.loads(out)
        assert code == 0 and (shown["key"], shown["expression"]) == ("F0001_HA04WH", "HA")
        assert shown["text"] and [camera["name"] for camera in shown["cameras"]] == ["front", "left", "right"]
        from PIL import Image

        with Image.open(tmp_path / "one.png") as sheet:
            assert sheet.width > 9 * 100 and sheet.height < 3 * 160

    def test_table_has_the_angles_of_the_cameras(self, shards_dir):
        code, out, _ = invoke("inspect", shards_dir, "--key", "F0001_HA04WH")
        rows = {line.split()[1]: line for line in out.splitlines() if line.startswith("│")}
        assert code == 0 and "happiness, level 4" in out
        assert rows["front"].split()[3:6:2] == ["0.0", "0.0"]
        assert "30.0" in rows["left"] and "-30.0" not in rows["left"] and "-30.0" in rows["right"]

    def test_number_of_landmarks_is_singular_or_plural(self, capsys):
        for count, text in ((1, "bounds, 1 landmark "), (68, "bounds, 68 landmarks ")):
            sample = make_sample()
            mesh = sample.record.mesh.model_copy(update={"num_landmarks": count})
            shown = replace(sample, record=sample.record.model_copy(update={"mesh": mesh}))
            print_sample(shown, make_row(sample), plain_console())
            assert text in capsys.readouterr().out

    def test_unknown_key_lists_similar_keys(self, shards_dir):
        line = usage_error("inspect", shards_dir, "--key", "f0001_ha")
        assert line == "error: --key f0001_ha: no such sample; similar keys: F0001_HA04WH"
        line = usage_error("inspect", shards_dir, "--key", "x")
        assert "--key x: no such sample; keys: F0001_AN04WH, " in line and line.endswith(", ...")


def run_command(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run the command in a process of its own, with piped output."""
    code = "from smile_pipe.cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)


class TestProcess:
    def test_start_imports_no_heavy_library(self):
        heavy = {"torch", "ray", "open_clip", "sklearn", "pandas", "numpy", "numba", "pyarrow", "pydantic"}
        code = f"import sys, smile_pipe.cli.main; print({heavy} & sys.modules.keys())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"

    def test_a_plan_and_shards_import_no_compiler(self, faces_dir, shards_dir, tmp_path):
        code = (
            "import sys; from smile_pipe.pipeline.render.config import RenderConfig; "
            "from smile_pipe.pipeline.render.stage import run; import smile_pipe.cli.commands.render; "
            f"run(RenderConfig(data_dir={str(faces_dir)!r}, out={str(shards_dir)!r}, size=48, samples_per_shard=8)); "
            "print({'numba', 'torch', 'ray', 'scipy', 'sklearn', 'pandas'} & sys.modules.keys())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"

    @pytest.mark.parametrize(("wrong", "right"), [(["rendr"], "render"), (["render", "--rigg", "3"], "--rig")])
    def test_misspelled_command_or_option_gets_a_suggestion(self, wrong, right):
        done = run_command(*wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.search(rf"(Did you mean|Possible options:) '?{right}\b", done.stderr)

    def test_piped_output_is_the_result_without_colours_or_progress(self, faces_dir, tmp_path):
        done = run_command("render", faces_dir, "--out", tmp_path / "out", "--limit", 2, "--size", 32, NO_COLOR="")
        assert done.returncode == 0 and "layout bu3dfe" in done.stdout
        assert "render: " not in done.stdout and "\x1b" not in done.stdout + done.stderr
        assert "INFO" not in done.stderr

    @pytest.mark.ray
    def test_verbose_shows_the_output_of_ray(self, faces_dir, tmp_path):
        options = ("--out", tmp_path / "out", "--limit", 2, "--size", 32, "--verbose", "--max-frames-without-ray", 0)
        assert "Started a local Ray instance" in run_command("render", faces_dir, *options).stderr

    def test_waits_are_printed_on_stderr_unless_they_are_short(self, capsys):
        with StageProgress("render") as progress:
            progress.wait_for("finding scans", is_short=True)
            progress.wait_for("starting Ray")
            progress.update(0, 10)
        assert capsys.readouterr() == ("", "render: starting Ray\n")

    def test_waits_are_shown_on_a_terminal_until_the_bar(self):
        terminal = Console(file=StringIO(), force_terminal=True, width=80, color_system=None)
        with StageProgress("render", terminal) as progress:
            progress.wait_for("finding scans", is_short=True)
            wait_until(lambda: "render: finding scans" in terminal.file.getvalue())
            progress.clear()
            progress.wait_for("starting Ray")
            wait_until(lambda: "render: starting Ray" in terminal.file.getvalue())
            shown = terminal.file.getvalue()
            assert "finding" not in shown[shown.index("starting Ray") :]
            progress.update(3, 10)
            wait_until(lambda: "3/10" in terminal.file.getvalue())
            shown = terminal.file.getvalue()
            progress.update(4, 10)
        after = terminal.file.getvalue().removeprefix(shown)
        assert "4/10" in after and "starting Ray" not in after

    def test_progress_of_long_work_is_printed_on_stderr(self, monkeypatch, capsys):
        now = [100.0]
        monkeypatch.setattr("smile_pipe.cli.progress.time.monotonic", lambda: now[0])
        with StageProgress("render") as progress:
            for done in range(11):
                progress.update(done, 10)
                now[0] += 0.5
        captured = capsys.readouterr()
        assert captured.out == ""
        assert [line.split()[1] for line in captured.err.splitlines()] == ["5", "6", "7", "8", "9", "10"]


@pytest.mark.parametrize("name", COMMANDS)
class TestHelp:
    """The help page of every command."""

    def test_ends_with_two_examples_that_can_be_parsed(self, name):
        lines = load_command(name).epilog.replace("\\[", "[").split("\n\n")
        assert lines[0] == "Examples:" and len(lines) == 4 and lines[3].startswith("Options can be set by environment")
        for line in lines[1:3]:
            program, command, *arguments = shlex.split(line)
            assert (program, command) == ("smile-pipe", name)
            load_command(name).make_context(name, arguments)

    def test_each_option_is_in_a_panel_of_its_own_kind(self, name):
        command = load_command(name)
        found = [p.rich_help_panel for p in command.params if p.opts[0].startswith("--") and not p.hidden]
        assert found and set(found) <= {*PANELS, COMMON}
        order = list(dict.fromkeys(found))
        assert order == sorted(order, key=[*PANELS, COMMON].index)

    def test_shows_defaults_and_keeps_square_brackets(self, name):
        code, out, _ = invoke(name, "--help")
        assert code == 0 and "(auto)" not in out and "(required)" not in out
        visible = [p.help or "" for p in load_command(name).params if not p.hidden]
        assert out.count("[default:") == sum("[default:" in text for text in visible)


def test_fields_of_panels_exist():
    names = {p.name for name in COMMANDS for p in load_command(name).params}
    assert not {field for fields in PANELS.values() for field in fields.split()} - names


def test_environment_variables_are_named_if_the_parser_refuses_them(monkeypatch, capsys):
    monkeypatch.setenv("SMILE_PIPE_EVALUATE_BATCH_SIZE", "many")
    monkeypatch.setattr(sys, "argv", ["smile-pipe", "evaluate", "run"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith("(from SMILE_PIPE_EVALUATE_BATCH_SIZE)")


class TestDefaultOutput:
    """`train --shards SHARDS` and `render DATA_DIR` without `--out`."""

    def test_run_is_in_a_folder_with_its_fingerprint(self, shards_dir, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        options = ("--shards", shards_dir, "--epochs", 1, "--batch-size", 4, "--split", "all")
        code, plan, _ = invoke("train", *options, "--dry-run", "--json")
        assert code == 0 and not list(tmp_path.iterdir())
        code, out, stderr = invoke("train", *options, "--json")
        assert code == 0, stderr
        manifest, planned = json.loads(out), json.loads(plan)
        assert manifest["fingerprint"] == planned["fingerprint"]
        assert planned["out"] == f"runs/smile-vlm-{manifest['fingerprint'][:8]}"
        assert (tmp_path / planned["out"] / "manifest.json").exists()
        _, out, _ = invoke("train", *options)
        assert f"run: {planned['out']}" in out and "Nothing to do" in out
        _, table, _ = invoke("train", *options, "--dry-run")
        assert "estimate" in table and f"{planned['num_parameters']:,} parameters" in table

    def test_shards_are_next_to_the_dataset(self, faces_dir, tmp_path, monkeypatch):
        faces = shutil.copytree(faces_dir, tmp_path / "scans")
        options = ("--limit", 2, "--size", 32)
        code, _, stderr = invoke("render", f"{faces}/", *options)
        assert code == 0, stderr
        assert ShardSet.open(str(tmp_path / "scans-shards")).manifest.num_samples == 2
        monkeypatch.chdir(faces)
        _, out, _ = invoke("render", ".", *options)
        assert "scans-shards" in " ".join(out.split()) and {p.name for p in tmp_path.iterdir()} == {
            "scans",
            "scans-shards",
        }

    def test_a_dataset_without_a_name_needs_an_output(self):
        assert "--out: is needed, because DATA_DIR has no name" in usage_error("render", "/")
