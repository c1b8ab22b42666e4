"""Commands and Python code in a user's own project, whose files are called like the folders of this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

COMMAND = Path(sys.executable).parent / "smile-pipe"
USER_FILES = (
    "cli.py",
    "model.py",
    "shards/__init__.py",
    "shards/manifest.py",
    "pipeline/__init__.py",
    "pipeline/render/stage.py",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project. Each of its modules raises when it is imported."""
    for name in USER_FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise RuntimeError('a file of the user was imported: {name}')\n")
    return tmp_path


def run_in(project: Path, *command: object) -> str:
    """Stdout of a command that runs in `project` and starts its own Ray."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=project,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(not COMMAND.exists(), reason="smile-pipe is not installed for this Python")
@pytest.mark.parametrize("frames_without_ray", [0, 500])
def test_commands_and_workers_import_no_file_of_the_user(project: Path, frames_without_ray: int):
    run_in(project, COMMAND, "synth", "faces", "--subjects", 1, "--levels", 4, "--texture-size", 64)
    options = ("--size", 32, "--channels", "rgb", "--max-frames-without-ray", frames_without_ray, "--json")
    manifest = json.loads(run_in(project, COMMAND, "render", "faces", "--out", "rendered", *options))
    assert (manifest["num_samples"], manifest["num_failures"]) == (7, 0)
    names = {path.name for path in project.iterdir()}
    assert names == {"cli.py", "model.py", "shards", "pipeline", "faces", "rendered"}
    assert {str(path.relative_to(project)) for path in project.rglob("*.py")} == set(USER_FILES)


def test_python_example_of_the_readme_runs_in_the_project(project: Path, faces_dir: Path, run_dir: Path):
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    shutil.copytree(run_dir, project / "demo" / "run")
    first, second, *_ = sorted(faces_dir.rglob("*.wrl"))
    shutil.copytree(second.parent, project / "scans")
    from smile_pipe.pipeline.meshes.reader import read_mesh

    mesh = read_mesh(first)
    lines = [f"v {x} {y} {z}" for x, y, z in mesh.vertices] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in mesh.faces]
    (project / "face.obj").write_text("\n".join(lines))
    (project / "example.py").write_text(code)
    lines = run_in(project, sys.executable, "example.py").splitlines()
    assert lines[0].startswith("face.obj ") and len(lines) > 1
    assert all(re.search(r" (AN|DI|FE|HA|NE|SA|SU) \{'", line) for line in lines), lines
