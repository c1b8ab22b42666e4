"""The benchmark of a GPU, reduced, in Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.slow
def test_all_parts_run_without_an_error(tmp_path):
    script = Path(__file__).with_name("bench_gpu.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), "--json", str(tmp_path / "figures.json")]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    for part in ("rasterise", "agree", "memory"):
        assert "error" not in figures[part], figures[part]["error"]
    assert figures["agree"]["zbuffer-cuda, 20 faces"]["pixels covered by one only"] == 0
