"""The wheel: what is in it, and that it works where nothing of the sources is near."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

PACKAGES = ("cli", "model", "pipeline", "shards")


def run(*command: object, **options: object) -> str:
    """Stdout of a command; its errors fail the test with what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the files that git tracks, so that strays of this checkout are neither seen nor made."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in run("git", "ls-files", "-z", cwd=REPOSITORY).split("\0"):
        if name and (REPOSITORY / name).is_file():
            (folder / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / "sources" / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "sources")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel)
    return target


@pytest.fixture
def python(installed, tmp_path):
    """Runs code in an empty folder, with the installed packages before all others."""

    def execute(code: str) -> str:
        folder = tmp_path / "empty"
        folder.mkdir()
        return run(sys.executable, "-c", code, cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)}).strip()

    return execute


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_the_four_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in contents(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_it_holds_every_module_and_data_file_of_them(wheel):
    tracked = run("git", "ls-files", "-z", *PACKAGES, cwd=REPOSITORY).split("\0")
    needed = {name for name in tracked if name.endswith((".py", ".json", ".yaml")) and (REPOSITORY / name).is_file()}
    assert {"model/configs/smile-tiny.json", "pipeline/captions/bank.yaml"} <= needed
    assert needed <= contents(wheel)


def test_it_installs_one_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(entry_points).decode()
    assert text.split() == ["[console_scripts]", "smile-pipe", "=", "smile_pipe.cli.main:main"]


def test_what_runs_is_what_was_installed(python, installed):
    code = "import cli, model, pipeline, shards; print(*(p.__file__ for p in (cli, model, pipeline, shards)))"
    assert python(code).split() == [str(installed / package / "__init__.py") for package in PACKAGES]


def test_the_command_tells_its_version(python, wheel):
    version = wheel.name.split("-")[1]
    assert (
        python("import sys; sys.argv[1:] = ['--version']; import smile_pipe.cli.main; smile_pipe.cli.main.main()")
        == f"smile-pipe {version}"
    )


def test_the_prompt_bank_is_found(python):
    assert python("from smile_pipe.pipeline.captions.bank import load_bank; print(len(load_bank().templates))") == "7"


def test_the_small_towers_are_found(python):
    assert (
        python("from smile_pipe.model.towers import check_arch; print(check_arch('smile-tiny')['embed_dim'])") == "128"
    )
