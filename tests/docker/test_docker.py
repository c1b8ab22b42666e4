"""The container files, read as text: pinned, unprivileged, and in step with the command line and the package."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import BaseModel
from typer.testing import CliRunner

from helpers.paths import REPOSITORY
from smile_pipe.cli.commands.render import RenderOptions
from smile_pipe.cli.main import app
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.train.config import TrainConfig

DOCKERFILES = [REPOSITORY / "docker" / name for name in ("cpu.Dockerfile", "cuda.Dockerfile")]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CONFIGS: dict[str, type[BaseModel]] = {"render": RenderOptions, "train": TrainConfig, "evaluate": EvaluateConfig}
each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def constraints() -> dict[str, str]:
    lines = (REPOSITORY / "docker" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def spec(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / "docker" / name).read_text())["spec"]


def ray_job() -> dict:
    return spec("rayjob.yaml")


def pods() -> list[dict]:
    cluster = ray_job()["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def commands() -> list[list[str]]:
    """The `smile-pipe` commands of the job's entrypoint, as lists of arguments."""
    shell, option, script = shlex.split(ray_job()["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    return [shlex.split(command) for command in script.split("&&")]


class TestDockerfiles:
    @each_dockerfile
    def test_every_base_is_pinned_to_a_full_version(self, path):
        stages = set()
        for keyword, arguments in instructions(path):
            if keyword == "FROM":
                image, *alias = arguments.split(" AS ")
                assert image in stages or re.search(r":[\w.-]*\d+\.\d+\.\d+", image), image
                stages.update(alias)

    @each_dockerfile
    def test_what_is_installed_is_pinned(self, path):
        for _, arguments in instructions(path):
            for install in re.findall(r"pip install [^&]+", arguments):
                named = [word for word in shlex.split(install)[2:] if re.match(r"[a-z]", word) and "://" not in word]
                assert "--constraint constraints.txt" in install or all("==" in word for word in named), install
            for create in re.findall(r"micromamba create [^&]+", arguments):
                packages = create.split("strict-channel-priority")[1].split()
                assert packages and all(re.search(r"=\d+\.\d+", package) for package in packages)

    @each_dockerfile
    def test_it_runs_as_a_user_without_privileges(self, path):
        users = [arguments for keyword, arguments in instructions(path) if keyword == "USER"]
        assert users[-1] == "1000"

    @each_dockerfile
    def test_all_that_the_package_is_built_from_is_copied(self, path):
        copied = " ".join(arguments for keyword, arguments in instructions(path) if keyword == "COPY").split()
        packages = [name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
        assert {"pyproject.toml", PROJECT["project"]["readme"], "docker/constraints.txt", *packages} <= set(copied)

    @each_dockerfile
    def test_it_says_how_it_is_built_under_the_version_that_it_holds(self, path):
        tag = f"smile-pipe:{PROJECT['project']['version']}-{path.name.removesuffix('.Dockerfile')}"
        for text in (path.read_text(), (REPOSITORY / "docker" / "README.md").read_text()):
            assert f"docker build -f docker/{path.name} -t {tag} ." in text

    def test_constraints_are_versions_that_the_package_accepts_of_all_that_it_needs(self):
        project = PROJECT["project"]
        all_of_them = [*project["dependencies"], *project["optional-dependencies"]["s3"]]
        needed = {r.name.lower(): r for r in map(Requirement, all_of_them)}
        assert constraints().keys() == needed.keys() - {"torch", "torchvision"}
        for name, version in constraints().items():
            assert needed[name].specifier.contains(version), name

    @each_dockerfile
    def test_pytorch_is_a_version_that_the_package_accepts(self, path):
        version = re.search(r"torch==?([\d.]+\d)", path.read_text()).group(1)
        (needed,) = (r for r in map(Requirement, PROJECT["project"]["dependencies"]) if r.name == "torch")
        assert needed.specifier.contains(version)


class TestRayJob:
    def test_it_renders_trains_and_evaluates(self):
        assert [command[:2] for command in commands()] == [["smile-pipe", name] for name in CONFIGS]

    @pytest.mark.parametrize("command", commands(), ids=lambda command: command[1])
    def test_its_options_are_options_of_the_command(self, command):
        result = CliRunner().invoke(app, [command[1], "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
        known = set(re.findall(r"--[a-z][a-z-]+", result.stdout))
        given = {word for word in command if word.startswith("--")}
        assert result.exit_code == 0 and given and given <= known

    @pytest.mark.parametrize("command", commands(), ids=lambda command: command[1])
    def test_their_values_are_accepted(self, command):
        _, name, *words = command
        values = {} if words[0].startswith("--") else {{"render": "data_dir", "evaluate": "run"}[name]: words.pop(0)}
        for option, value in zip(words, [*words[1:], "--"], strict=True):
            if option.startswith("--"):
                values[option[2:].replace("-", "_")] = True if value.startswith("--") else value
        CONFIGS[name].model_validate(values)

    def test_each_stage_reads_what_the_one_before_wrote_on_the_shared_volume(self):
        render, train, evaluate = commands()

        def after(command: list[str], option: str) -> str:
            return command[command.index(option) + 1]

        assert after(train, "--shards") == after(evaluate, "--shards") == after(render, "--out")
        assert evaluate[2] == after(train, "--out")
        paths = [word for command in commands() for word in command if word.startswith("/")]
        for pod in pods():
            (mount,) = pod["containers"][0]["volumeMounts"]
            assert all(path.startswith(f"{mount['mountPath']}/") for path in paths)
            assert mount["name"] in {volume["name"] for volume in pod["volumes"]}

    def test_what_uses_ray_joins_the_cluster(self):
        for command in commands()[:2]:
            assert command[-2:] == ["--address", "auto"]

    def test_there_is_a_gpu_for_each_training_worker(self):
        train = commands()[1]
        (group,) = ray_job()["rayClusterSpec"]["workerGroupSpecs"]
        gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        assert group["replicas"] * gpus >= int(train[train.index("--num-workers") + 1])

    def test_image_and_ray_are_the_versions_that_the_images_hold(self):
        image = f"smile-pipe:{PROJECT['project']['version']}-cuda"
        assert {pod["containers"][0]["image"] for pod in pods()} == {image}
        assert ray_job()["rayClusterSpec"]["rayVersion"] == constraints()["ray"]

    def test_no_container_runs_as_root_or_may_become_it(self):
        for pod in pods():
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    def test_who_lacks_the_token_of_the_cluster_cannot_use_it(self):
        assert ray_job()["rayClusterSpec"]["authOptions"] == {"mode": "token"}

    def test_no_secret_stands_in_it(self):
        names = {name for pod in pods() for container in pod["containers"] for name in container}
        assert names == {"name", "image", "securityContext", "resources", "volumeMounts"}


class TestRayCluster:
    def test_its_pods_are_those_of_the_job(self):
        assert spec("raycluster.yaml") == ray_job()["rayClusterSpec"]


class TestPage:
    """What docker/README.md tells operators to type."""

    PAGE = (REPOSITORY / "docker" / "README.md").read_text()
    NAMED = re.findall(r"docker/([\w.-]+)", PAGE) + re.findall(r"^\| `([\w.-]+)` \|", PAGE, re.MULTILINE)

    def test_every_file_that_it_names_is_there_and_each_that_is_there_is_named(self):
        here = {path.name for path in (REPOSITORY / "docker").iterdir()} - {"README.md"}
        assert set(self.NAMED) == here

    def test_ray_is_named_by_the_version_that_the_images_hold(self):
        assert set(re.findall(r"ray(?:\[default\])?==([\d.]+)", self.PAGE)) == {constraints()["ray"]}
