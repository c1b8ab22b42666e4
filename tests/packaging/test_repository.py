"""Files around the code: workflow, hooks, templates, metadata and changelog fit the project."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from smile_pipe.cli.main import COMMANDS
from smile_pipe.model.config import RECIPES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def load(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def test_workflow_runs_the_checks_on_all_declared_versions():
    (job,) = load(".github/workflows/ci.yml")["jobs"].values()
    prefix = "Programming Language :: Python :: 3."
    declared = [name.removeprefix(prefix[:-2]) for name in PROJECT["classifiers"] if name.startswith(prefix)]
    assert job["strategy"]["matrix"]["python"] == declared and len(declared) == 3
    assert PROJECT["requires-python"] == f">={declared[0]}"
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs == [".ci/run"] and os.access(ROOT / runs[0], os.X_OK)
    assert job["timeout-minutes"] == 90


def test_hooks_call_tools_of_the_development_environment():
    tools = {re.match(r"[\w-]+", name).group() for name in PROJECT["optional-dependencies"]["dev"]}
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert hooks
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/") and Path(program).name in tools


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()), ids=lambda path: path.name)
def test_forms_of_issues_are_complete(path):
    form = load(path)
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in ("input", "textarea") and field["attributes"]["label"]


def test_changelog_names_the_version_all_commands_and_recipes():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## Unreleased: {PROJECT['version']}" in text
    for name in (*COMMANDS, *RECIPES):
        assert f"`{name}`" in text


def test_text_files_follow_the_editor_settings():
    settings = (ROOT / ".editorconfig").read_text()
    assert "max_line_length = 120" in settings
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"] == 120
    for path in (ROOT / ".github").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert text.endswith("\n") and "\t" not in text and not re.search(r" +$", text, re.MULTILINE), path
