"""READMEs: their commands exist and have the options that are given, and their links lead to files and headings."""

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from helpers.paths import REPOSITORY
from smile_pipe.cli.main import COMMANDS, app, load_command

PAGES = sorted(
    path
    for path in REPOSITORY.glob("**/README.md")
    if not {".venv", ".venv-lowest", "demo", "out"} & set(path.relative_to(REPOSITORY).parts)
)
ROOT_COMMAND = typer.main.get_command(app)


def commands_of(page: Path) -> list[str]:
    """`smile-pipe` commands in blocks of code, and those in backticks that have options or arguments."""
    text = page.read_text()
    lines = [
        line
        for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
        if not language
        for line in block.replace("\\\n", "").split("\n")
    ]
    lines += [line[4:] for line in text.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`(smile-pipe [^`]+)`", text)
    parts = [part.strip() for line in lines for part in re.split(r"&&|\s#\s", line)]
    return [part for part in parts if part.startswith("smile-pipe ")]


ALL = [(page, command) for page in PAGES for command in commands_of(page)]


@pytest.mark.parametrize(("page", "command"), ALL, ids=lambda value: str(value)[-60:])
def test_command_exists_with_its_options(page, command):
    words = shlex.split(command)[1:]
    invoked = ROOT_COMMAND if words[0].startswith("--") else load_command(words[0])
    known = {option for parameter in invoked.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(("page", "command"), ALL, ids=lambda value: str(value)[-60:])
def test_command_writes_to_no_folder_of_the_repository(page, command):
    words = shlex.split(command)
    written = [value for option, value in pairwise(words) if option in {"--out", "--open-clip", "--save-views"}]
    assert not {Path(value).parts[0] for value in written} & {path.name for path in REPOSITORY.iterdir()} - {"out"}


def test_every_command_is_in_a_readme():
    assert {shlex.split(command)[1] for _, command in ALL} >= COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_existing_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            file = file / "README.md" if file.is_dir() else file
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert heading in {_anchor(title) for title in titles}, target


def test_pytorch_without_cuda_comes_from_one_index():
    index = "https://download.pytorch.org/whl/cpu"
    make = ["make", "--dry-run", "--always-make", "demo"]
    default, cpu = (
        subprocess.run([*make, *extra], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for extra in ([], ["TORCH=cpu"])
    )
    assert f"--extra-index-url {index} " in cpu and "index-url" not in default
    for name in ("README.md", "docker/cpu.Dockerfile"):
        assert f"index-url {index}" in (REPOSITORY / name).read_text()


def _anchor(title: str) -> str:
    """The anchor of a heading, as in a link."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
