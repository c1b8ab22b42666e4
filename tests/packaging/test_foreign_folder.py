"""The commands in a folder whose files bear our packages' names: what lies there is never imported, not by us, not by
Ray's workers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMILE_PIPE = Path(sys.executable).parent / "smile-pipe"
STRANGERS = (
    "cli.py",
    "model.py",
    "shards/__init__.py",
    "shards/manifest.py",
    "pipeline/__init__.py",
    "pipeline/render/stage.py",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A user's own project, each file of which raises when it is imported."""
    for name in STRANGERS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise RuntimeError('a stranger was imported: {name}')\n")
    return tmp_path


def smile_pipe(folder: Path, *arguments: object) -> str:
    """Stdout of the installed command, run in `folder` as a user would, with a Ray of its own."""
    hidden = ("PYTHONPATH", "RAY_ADDRESS")
    done = subprocess.run(
        [str(SMILE_PIPE), *map(str, arguments)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not SMILE_PIPE.exists(), reason="smile-pipe is not installed beside this Python")
def test_scans_are_made_and_rendered_where_strangers_bear_our_names(folder):
    smile_pipe(folder, "synth", "faces", "--subjects", 1, "--levels", 4, "--texture-size", 64)
    options = ("--size", 32, "--channels", "rgb", "--rig", 3, "--json")
    manifest = json.loads(smile_pipe(folder, "render", "faces", "--out", "rendered", *options))
    assert (manifest["num_samples"], manifest["num_failures"]) == (7, 0)
    found = {path.name for path in folder.iterdir()}
    assert found == {"cli.py", "model.py", "shards", "pipeline", "faces", "rendered"}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.py")} == set(STRANGERS)
