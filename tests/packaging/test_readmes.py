"""The READMEs: every command in them is one that there is, with options that it has, and every link leads to a file."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from helpers.paths import REPOSITORY
from smile_pipe.cli.main import app

PAGES = sorted(
    path
    for path in REPOSITORY.glob("**/README.md")
    if not {".venv", "demo", "out"} & set(path.relative_to(REPOSITORY).parts)
)
ROOT_COMMAND = typer.main.get_command(app)
COMMANDS = ROOT_COMMAND.commands  # type: ignore[attr-defined]


def typed(page: Path) -> list[str]:
    """The commands of a page's blocks of code, and those within its lines that have options or arguments."""
    text = page.read_text()
    lines = [
        line
        for block in re.findall(r"```\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", "").split("\n")
    ]
    lines += [line[4:] for line in text.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`(smile-pipe [^`]+)`", text)
    parts = [part.strip() for line in lines for part in re.split(r"&&|\s#\s", line)]
    return [part for part in parts if part.startswith("smile-pipe ")]


ALL = [(page, command) for page in PAGES for command in typed(page)]


@pytest.mark.parametrize(("page", "command"), ALL, ids=lambda value: str(value)[-60:])
def test_a_command_is_there_with_the_options_that_are_given(page, command):
    words = shlex.split(command)[1:]
    asked = ROOT_COMMAND if words[0].startswith("--") else COMMANDS[words[0]]
    known = {option for parameter in asked.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(("page", "command"), ALL, ids=lambda value: str(value)[-60:])
def test_a_command_that_is_typed_in_a_clone_writes_to_no_folder_of_the_code(page, command):
    words = shlex.split(command)
    written = [value for option, value in pairwise(words) if option in {"--out", "--open-clip", "--save-views"}]
    assert not {Path(value).parts[0] for value in written} & {path.name for path in REPOSITORY.iterdir()} - {"out"}


def test_there_are_commands_of_every_kind():
    assert {shlex.split(command)[1] for _, command in ALL} >= COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings_that_are_there(page):
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


def _anchor(title: str) -> str:
    """What a heading is called in a link."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
