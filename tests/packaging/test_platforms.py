"""Machines that lack modules and calls of Linux: macOS has no /proc, Windows neither `resource` nor `fcntl`."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from helpers.paths import REPOSITORY
from smile_pipe.pipeline.render import stage
from smile_pipe.pipeline.render.config import RenderConfig

# psutil has an implementation for each system, so its implementation for Linux is imported before anything is hidden.
HIDE = """
import os, signal, sys, warnings, psutil
warnings.simplefilter("ignore")
psutil.PROCFS_PATH = "/nowhere"
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in {names!r}:
    delattr(os if name.startswith("os.") else signal, name.partition(".")[2])
"""
# What Python lacks on macOS or Windows.
ABSENT = {
    *("os.fchmod", "os.fork", "os.geteuid", "os.getuid", "os.killpg", "os.pathconf", "os.posix_fadvise", "os.setsid"),
    *("os.sched_getaffinity", "signal.SIGALRM", "signal.SIGHUP", "signal.SIGKILL", "signal.alarm", "signal.setitimer"),
}
ABSENT_MODULES = {"fcntl", "grp", "pwd", "resource", "syslog", "termios"}


@pytest.fixture
def config(tmp_path: Path) -> RenderConfig:
    trimesh.creation.icosphere().export(tmp_path / "scan.obj")
    (tmp_path / "labels.csv").write_text("path,subject,expression\nscan.obj,s1,HA\n")
    return RenderConfig(data_dir=tmp_path, out=tmp_path / "out", size=16)


def run_without_linux(code: str) -> subprocess.CompletedProcess:
    script = HIDE.format(names=sorted(ABSENT)) + code
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)


def test_no_source_uses_what_other_systems_lack():
    for folder in ("cli", "model", "pipeline", "shards"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            guarded = {node for block in ast.walk(tree) if isinstance(block, ast.Try) for node in block.body}
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom) and node not in guarded:
                    names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                    assert not names & ABSENT_MODULES, f"{path}:{node.lineno}"
                if isinstance(node, ast.Attribute):
                    assert ast.unparse(node) not in ABSENT, f"{path}:{node.lineno}"


@pytest.mark.parametrize("command", ["", "render", "train"])
def test_help_is_printed(command):
    done = run_without_linux(f"""
sys.argv = ["smile-pipe", *{command.split()}, "--help"]
from smile_pipe.cli.main import main
main()
""")
    assert done.returncode == 0 and "Usage: smile-pipe" in done.stdout, done.stderr


def test_samples_are_rendered_with_the_limits_that_can_be_enforced(config: RenderConfig):
    done = run_without_linux(f"""
import time
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.limits import Limits, enforce_limits
from smile_pipe.pipeline.render.process import process_units
from smile_pipe.pipeline.render.units import split_into_units

config = RenderConfig.model_validate_json({config.model_dump_json()!r})
settings, deaths = config.resolve(), config.out / "deaths"
(sample,) = find_samples(config.data_dir, "auto").samples
(unit,) = process_units(split_into_units(sample, settings), config.data_dir, settings, config.limits, deaths)
print(unit.failure, len(unit.images), flush=True)
with enforce_limits(Limits(seconds=0.2, megabytes=64), deaths, "slow"):
    time.sleep(20)
""")
    assert (done.stdout, done.returncode) == ("None 9\n", 1), done.stderr


def test_render_warns_that_memory_is_not_limited(config: RenderConfig, monkeypatch: pytest.MonkeyPatch):
    warnings: list[str] = []
    monkeypatch.setattr(stage, "can_limit_memory", lambda: False)
    monkeypatch.setattr(stage._log, "warning", warnings.append)
    stage.run(config)
    assert warnings == ["`sample_memory` has no effect: this system cannot limit the memory of a process"]
