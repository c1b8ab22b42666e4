"""The benchmark of a GPU: all parts, reduced, in Triton's interpreter and without Ray; parts that fail; its budget."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_gpu import PARTS, Part, run_parts
from gpu_rows import Rows

from helpers.shared_faces import ICT_FILE

# The whole benchmark runs in a fixture, which other work on the cores may delay.
pytestmark = pytest.mark.timeout(1200)

FAILING_PARTS = """
import os
import time

def fine(rows):
    rows.measure("row", lambda: {"x": 1})

def raises(rows):
    rows.measure("row", lambda: {"x": 1})
    rows.measure("bad row", lambda: 1 / 0)
    rows.measure("last row", lambda: {"x": 2})
    raise RuntimeError("no such thing")

def dies(rows):
    rows.measure("row", lambda: {"x": 1})
    os._exit(7)

def hangs(rows):
    rows.measure("row", lambda: {"x": 1})
    if child := os.fork():
        rows.add("child", child)
    time.sleep(300)
"""


def is_running(process: int) -> bool:
    """Whether a process exists and has not ended; it is no child of this one."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict:
    """Figures of the whole benchmark, run as a script where Ray is not installed."""
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("figures")
    (folder / "ray.py").write_text("raise ImportError('the benchmark imports Ray')")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    script, file = Path(__file__).with_name("bench_gpu.py"), folder / "figures.json"
    command = [sys.executable, str(script), "--json", str(file), "--seconds", "4000"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(file.read_text())


@pytest.mark.slow
def test_no_part_and_no_row_fails(figures):
    assert figures.keys() == {"benchmark", *PARTS}
    rows = {(part, name): row for part in PARTS for name, row in figures[part].items()}
    assert not [name for name, row in rows.items() if "error" in name or (isinstance(row, dict) and "error" in row)]


@pytest.mark.slow
def test_renderers_agree(figures):
    with_face = {"shared face, textured"} if ICT_FILE.is_file() else set()
    for name in {"20 faces"} | with_face:
        row = figures["agree"][name]["zbuffer-cuda"]
        assert row["agrees"] and row["pixels covered by one only"] == 0 and row["pixels covered by both"] > 50


@pytest.mark.slow
def test_there_are_rates_and_what_limits_them(figures):
    assert figures["rasterise"]["20 faces"]["zbuffer-cuda, ms"] > 0
    for name in ("zbuffer-cuda, 1 workers a GPU", "zbuffer"):
        row = figures["whole_path"][name]
        assert row["scans/s"] > 0 and row["bytes a scan"] > 1000 and not row["failures"] and row["limited by"]
        assert all(row["ms a scan"][step] > 0 for step in ("read", "render", "encode", "pack"))
    assert figures["whole_path"]["zbuffer-cuda, 1 workers a GPU"]["busy share of the workers of the GPU"] > 0
    for name in ("smile-pipe", "open_clip"):
        assert figures["training"][f"operations, {name}"]["FLOP a sample, forward and backward"] > 1e5
        row = figures["training"][f"{name}, batch 4"]
        assert row["samples/s"] > 0 and row["TFLOP/s"] > 0 and row["MFU"] is None
    assert figures["training"]["rate of smile-pipe / open_clip, batch 4"]["ratio"] > 0


@pytest.mark.slow
def test_a_part_that_fails_leaves_its_error_and_costs_no_other(tmp_path, monkeypatch):
    (tmp_path / "failing_parts.py").write_text(FAILING_PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    seconds = {"raises": 40.0, "dies": 40.0, "hangs": 12.0, "fine": 40.0}
    # What a part does not use is for those after it: so that one that hangs has little time, it is the first.
    order = ("hangs", "raises", "dies", "fine")
    parts = {name: Part(f"failing_parts:{name}", seconds[name]) for name in order}
    file = tmp_path / "figures.json"
    run_parts({**parts, "missing": Part("failing_parts:missing", 40.0)}, file, sum(seconds.values()) + 40.0)
    figures = json.loads(file.read_text())
    assert [figures[name].get("row", {}).get("x") for name in order] == [1, 1, 1, 1]
    assert "ZeroDivisionError" in figures["raises"]["bad row"]["error"] and figures["raises"]["last row"]["x"] == 2
    assert "no such thing" in figures["raises"]["error"]
    assert figures["dies"]["error"] == "ended with exit code 7"
    assert figures["hangs"]["error"].startswith("stopped after")
    assert "AttributeError" in figures["missing"]["error"] and "error" not in figures["fine"]
    assert not is_running(figures["hangs"]["child"])


def test_no_row_begins_for_which_too_little_time_is_left(tmp_path):
    rows = Rows(tmp_path / "figures.json", "part", time.time() + 20)
    rows.measure("long", lambda: {"x": 1}, seconds=30)
    rows.measure("short", lambda: {"x": 2}, seconds=10)
    figures = json.loads((tmp_path / "figures.json").read_text())["part"]
    assert "x" not in figures["long"] and "takes about 30 s" in figures["long"]["not measured"]
    assert figures["short"]["x"] == 2


@pytest.mark.parametrize(("answer", "busy"), [("80, 2048", 0.8), ("[N/A], 2048", None)])
def test_the_use_of_a_gpu_is_asked_for_while_it_works(answer, busy):
    from gpu_device import watch_gpu

    with watch_gpu([sys.executable, "-c", f"print('{answer}')"]) as figures:
        time.sleep(1)
    assert figures.get("busy share of the GPU") == busy
    assert ("GPU usage not measured" in figures) is (busy is None)
    if busy is not None:
        assert figures["largest memory of the GPU, GiB"] == 2


def test_a_machine_without_nvidia_smi_gives_the_reason():
    from gpu_device import watch_gpu

    with watch_gpu(["no-such-command-here"]) as figures:
        time.sleep(0.5)
    assert "FileNotFoundError" in figures["GPU usage not measured"]
