"""Container files, checked as text: pinned versions, no privileges, and options and paths that exist."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel
from typer.testing import CliRunner

from helpers.paths import REPOSITORY
from smile_pipe.cli.commands.render import RenderOptions
from smile_pipe.cli.main import app
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.rendering.choose_backend import choose_renderer
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError

DOCKERFILES = [REPOSITORY / "docker" / name for name in ("cpu.Dockerfile", "cuda.Dockerfile")]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
ENVIRONMENT = yaml.safe_load((REPOSITORY / "docker" / "environment.yml").read_text())
CONFIGS: dict[str, type[BaseModel]] = {"render": RenderOptions, "train": TrainConfig, "evaluate": EvaluateConfig}
# Each was found, with its type, in the schemas of RayJob and RayCluster (ray.io/v1) of KubeRay 1.6.1, 1.6.2 and 1.7.0.
# Look up a new field there (helm-chart/kuberay-operator/crds), because Kubernetes drops fields that it does not know.
JOB_FIELDS = {
    "entrypoint": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
}
CLUSTER_FIELDS = {"rayVersion": str, "authOptions.mode": str}
GROUP_FIELDS = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams.num-cpus": str,
}
POD_FIELDS = {
    "securityContext.runAsNonRoot": bool,
    "securityContext.runAsUser": int,
    "securityContext.fsGroup": int,
    "securityContext.seccompProfile.type": str,
    "containers.name": str,
    "restartPolicy": str,
    **{f"tolerations.{name}": str for name in ("key", "operator", "effect")},
    "containers.image": str,
    "containers.imagePullPolicy": str,
    "containers.securityContext.allowPrivilegeEscalation": bool,
    "containers.securityContext.capabilities.drop": str,
    **{f"containers.resources.{kind}.memory": str for kind in ("requests", "limits")},
    **{f"containers.resources.{kind}.nvidia.com/gpu": str for kind in ("requests", "limits")},
    "containers.resources.requests.cpu": str,
    "containers.volumeMounts.name": str,
    "containers.volumeMounts.mountPath": str,
    "volumes.name": str,
    "volumes.persistentVolumeClaim.claimName": str,
}
each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction; continued lines are joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def constraints() -> dict[str, str]:
    lines = (REPOSITORY / "docker" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def conda_packages() -> dict[str, tuple[str, ...]]:
    """Packages of `environment.yml` from conda-forge, with version and build as far as they are given."""
    return {name: tuple(rest) for name, *rest in (line.split("=") for line in ENVIRONMENT["dependencies"][:-1])}


def needed(name: str) -> Requirement:
    (requirement,) = (r for r in map(Requirement, PROJECT["project"]["dependencies"]) if r.name == name)
    return requirement


def spec(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / "docker" / name).read_text())["spec"]


def ray_job() -> dict:
    return spec("rayjob.yaml")


def pods() -> list[dict]:
    cluster = ray_job()["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def submitter() -> dict:
    return ray_job()["submitterPodTemplate"]["spec"]


def fields(value: object, *path: str) -> dict[str, type]:
    """Dotted paths of the values in a manifest, with their types; items of a list have the path of the list."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else [(None, item) for item in value]
        return {k: v for key, item in items for k, v in fields(item, *path, *([key] if key else [])).items()}
    return {".".join(path): type(value)}


def commands() -> list[list[str]]:
    """The `smile-pipe` commands in the entrypoint of the job, as lists of arguments."""
    shell, option, script = shlex.split(ray_job()["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    return [shlex.split(command) for command in script.split("&&")]


class TestDockerfiles:
    @each_dockerfile
    def test_base_images_are_pinned_to_full_versions(self, path):
        stages = set()
        for keyword, arguments in instructions(path):
            if keyword == "FROM":
                image, *alias = arguments.split(" AS ")
                assert image in stages or re.search(r":[\w.-]*\d+\.\d+\.\d+", image), image
                stages.update(alias)

    @each_dockerfile
    def test_installed_packages_are_pinned(self, path):
        for _, arguments in instructions(path):
            for install in re.findall(r"pip install [^&]+", arguments):
                named = [word for word in shlex.split(install)[2:] if re.match(r"[a-z]", word) and "://" not in word]
                assert "--constraint constraints.txt" in install or all("==" in word for word in named), install
            for install in re.findall(r"apt-get install [^&]+", arguments):
                named = [word for word in install.split()[2:] if not word.startswith("-")]
                assert named and all("=" in word for word in named), install

    @each_dockerfile
    def test_container_runs_as_an_unprivileged_user(self, path):
        users = [arguments for keyword, arguments in instructions(path) if keyword == "USER"]
        assert users[-1] == "1000"

    @each_dockerfile
    def test_all_folders_of_the_package_are_copied(self, path):
        copied = " ".join(arguments for keyword, arguments in instructions(path) if keyword == "COPY").split()
        folders = {folder.split("/")[0] for folder in PROJECT["tool"]["setuptools"]["package-dir"].values()}
        assert {"pyproject.toml", PROJECT["project"]["readme"], "docker/constraints.txt", *folders} <= set(copied)

    @each_dockerfile
    def test_build_command_has_the_version_of_the_package(self, path):
        tag = f"smile-pipe:{PROJECT['project']['version']}-{path.name.removesuffix('.Dockerfile')}"
        for text in (path.read_text(), (REPOSITORY / "docker" / "README.md").read_text()):
            assert f"docker build -f docker/{path.name} -t {tag} ." in text

    def test_constraints_cover_all_dependencies_with_accepted_versions(self):
        project = PROJECT["project"]
        extras = project["optional-dependencies"]
        dependencies = [*project["dependencies"], *extras["app"], *extras["s3"]]
        requirements = {r.name.lower(): r for r in map(Requirement, dependencies)}
        assert constraints().keys() == requirements.keys() - {"torch", "torchvision"}
        for name, version in constraints().items():
            assert requirements[name].specifier.contains(version), name

    @pytest.mark.parametrize("name", ["torch", "torchvision"])
    def test_version_of_pytorch_in_the_cpu_image_is_accepted(self, name):
        version = re.search(rf" {name}==([\d.]+)", DOCKERFILES[0].read_text()).group(1)
        assert needed(name).specifier.contains(version)

    def test_context_of_the_build_is_what_the_images_copy(self):
        copied = set()
        for path in DOCKERFILES:
            for keyword, arguments in instructions(path):
                if keyword == "COPY" and "--from" not in arguments:
                    copied |= {word for word in arguments.split()[:-1] if not word.startswith("--")}
        ignored, *lines = [
            line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")
        ]
        assert ignored == "*"
        assert {line[1:] for line in lines if line.startswith("!")} == copied

    def test_dependencies_of_the_cpu_image_are_in_a_layer_before_the_code(self):
        steps = [arguments for _, arguments in instructions(DOCKERFILES[0])]
        script = next(arguments for arguments in steps if "requirements.txt" in arguments)
        code = re.search(r'python -c "(.+?)" >', script)[1]
        listed = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        extras = PROJECT["project"]["optional-dependencies"]
        expected = [*PROJECT["project"]["dependencies"], *extras["app"], *extras["s3"]]
        assert listed.stdout.splitlines() == expected
        install, copies = steps.index(script), [n for n, arguments in enumerate(steps) if arguments == "cli cli"]
        assert [install] < copies and "--no-deps ." in steps[copies[0] + 4]

    @each_dockerfile
    def test_labels_name_title_and_version(self, path):
        (labels,) = (arguments for keyword, arguments in instructions(path) if keyword == "LABEL")
        assert 'title="smile-pipe"' in labels and f'version="{PROJECT["project"]["version"]}"' in labels

    def test_cpu_image_has_the_compiler_that_torch_compile_calls(self):
        assert any(re.search(r"apt-get install .* g\+\+=", arguments) for _, arguments in instructions(DOCKERFILES[0]))


class TestEnvironment:
    """docker/environment.yml, from which conda installs smile-pipe on a machine with a GPU, and the CUDA image."""

    CUDA = DOCKERFILES[1].read_text()

    def test_versions_are_pinned(self):
        # The versions of these follow from the others; they compile code and compute nothing.
        pinned = {
            name: rest for name, rest in conda_packages().items() if name not in {"cxx-compiler", "cuda-cudart-dev"}
        }
        assert pinned.keys() == {"python", "pip", "cuda-version", "pytorch", "pytorch3d"}
        assert all(re.match(r"\d+\.\d+", version) for version, *_ in pinned.values())

    def test_python_and_pytorch_are_accepted(self):
        python, torch = conda_packages()["python"][0], conda_packages()["pytorch"][0].removesuffix(".*")
        assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(python)
        assert needed("torch").specifier.contains(torch)

    def test_python_is_that_of_the_cpu_image(self):
        assert f"FROM python:{conda_packages()['python'][0]}." in DOCKERFILES[0].read_text()

    def test_cuda_is_the_same_everywhere(self):
        (cuda,) = conda_packages()["cuda-version"]
        builds = {conda_packages()[name][1] for name in ("pytorch", "pytorch3d")}
        assert builds == {f"cuda{cuda.replace('.', '')}*"}
        assert f"CONDA_OVERRIDE_CUDA={cuda}\n" in self.CUDA and f"FROM nvidia/cuda:{cuda}." in self.CUDA
        assert f'torch.version.cuda == "{cuda}"' in self.CUDA

    def test_it_contains_what_triton_and_torch_compile_need(self):
        assert {"cxx-compiler", "cuda-cudart-dev"} <= conda_packages().keys()

    def test_pip_installs_this_project_with_the_versions_of_the_images(self):
        # conda and micromamba write these lines to a file in the folder of environment.yml, and run pip there.
        options, project, *others = ENVIRONMENT["dependencies"][-1]["pip"]
        folder = REPOSITORY / "docker"
        assert (folder / options.removeprefix("-c ")).samefile(folder / "constraints.txt")
        path, extras = re.fullmatch(r"-e (.+)\[([\w,]+)\]", project).groups()
        assert (folder / path).samefile(REPOSITORY) and extras.split(",") == ["app", "s3"]
        assert others == ["ray[default]"]

    def test_nothing_asks_pypi_for_pytorch3d(self):
        extras = PROJECT["project"]["optional-dependencies"]
        assert "pytorch3d" not in extras
        for requirements in (PROJECT["project"]["dependencies"], *extras.values()):
            assert "pytorch3d" not in {Requirement(text).name for text in requirements}

    def test_readme_image_and_error_message_name_this_file(self, monkeypatch):
        assert "`conda env create -f docker/environment.yml`" in (REPOSITORY / "README.md").read_text()
        assert "--file docker/environment.yml" in self.CUDA
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"create the environment of `docker/environment\.yml`"):
            choose_renderer("pytorch3d")


class TestRayJob:
    def test_job_renders_trains_and_evaluates(self):
        assert [command[:2] for command in commands()] == [["smile-pipe", name] for name in CONFIGS]

    @pytest.mark.parametrize("command", commands(), ids=lambda command: command[1])
    def test_options_exist(self, command):
        result = CliRunner().invoke(app, [command[1], "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
        known = set(re.findall(r"--[a-z][a-z-]+", result.stdout))
        given = {word for word in command if word.startswith("--")}
        assert result.exit_code == 0 and given and given <= known

    @pytest.mark.parametrize("command", commands(), ids=lambda command: command[1])
    def test_values_of_options_are_accepted(self, command):
        _, name, *words = command
        values = {} if words[0].startswith("--") else {{"render": "data_dir", "evaluate": "run"}[name]: words.pop(0)}
        for option, value in zip(words, [*words[1:], "--"], strict=True):
            if option.startswith("--"):
                values[option[2:].replace("-", "_")] = True if value.startswith("--") else value
        CONFIGS[name].model_validate(values)

    def test_each_stage_reads_the_output_of_the_one_before_on_the_shared_volume(self):
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

    def test_render_and_train_join_the_cluster(self):
        for command in commands()[:2]:
            assert command[-2:] == ["--address", "auto"]

    def test_each_training_worker_has_a_gpu(self):
        train = commands()[1]
        (group,) = ray_job()["rayClusterSpec"]["workerGroupSpecs"]
        gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        assert group["replicas"] * gpus >= int(train[train.index("--num-workers") + 1])

    def test_versions_of_image_and_ray_match_the_images(self):
        # Names under `.example` are reserved (RFC 2606), so nobody can offer an image there.
        image = f"registry.example/smile-pipe:{PROJECT['project']['version']}-cuda"
        containers = [pod["containers"][0] for pod in (*pods(), submitter())]
        assert {(each["image"], each["imagePullPolicy"]) for each in containers} == {(image, "IfNotPresent")}
        assert ray_job()["rayClusterSpec"]["rayVersion"] == constraints()["ray"]

    def test_fields_exist_in_the_schema_of_kuberay(self):
        job = ray_job()
        cluster = job.pop("rayClusterSpec")
        assert fields(job.pop("submitterPodTemplate")["spec"]).items() <= POD_FIELDS.items()
        groups = [cluster.pop("headGroupSpec"), *cluster.pop("workerGroupSpecs")]
        assert fields(job).items() <= JOB_FIELDS.items()
        assert fields(cluster).items() <= CLUSTER_FIELDS.items()
        for group in groups:
            assert fields(group.pop("template")["spec"]).items() <= POD_FIELDS.items()
            assert fields(group).items() <= GROUP_FIELDS.items()

    def test_containers_cannot_run_as_root(self):
        for pod in (*pods(), submitter()):
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    def test_cluster_requires_a_token(self):
        assert ray_job()["rayClusterSpec"]["authOptions"] == {"mode": "token"}

    def test_manifest_contains_no_secret(self):
        names = {name for pod in pods() for container in pod["containers"] for name in container}
        assert names == {"name", "image", "imagePullPolicy", "securityContext", "resources", "volumeMounts"}

    def test_job_ends_also_if_it_never_starts(self):
        job = ray_job()
        assert job["activeDeadlineSeconds"] > 0 and submitter()["restartPolicy"] == "Never"
        # A second try without `train --resume` would fail at the unfinished run.
        assert job["backoffLimit"] == 0

    def test_workers_may_run_on_nodes_that_are_kept_for_gpus(self):
        head, worker = pods()
        assert "tolerations" not in head
        (toleration,) = worker["tolerations"]
        assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


class TestRayCluster:
    def test_pods_are_equal_to_those_of_the_job(self):
        assert spec("raycluster.yaml") == ray_job()["rayClusterSpec"]


class TestReadme:
    """docker/README.md."""

    PAGE = (REPOSITORY / "docker" / "README.md").read_text()
    NAMED = re.findall(r"(?<!tests/)docker/([\w.-]+)", PAGE) + re.findall(r"^\| `([\w.-]+)` \|", PAGE, re.MULTILINE)

    def test_named_files_are_those_of_the_folder(self):
        here = {path.name for path in (REPOSITORY / "docker").iterdir()} - {"README.md"}
        assert set(self.NAMED) == here

    def test_version_of_ray_matches_the_images(self):
        assert set(re.findall(r"ray(?:\[default\])?==([\d.]+)", self.PAGE)) == {constraints()["ray"]}

    def test_versions_of_pytorch_are_those_of_the_images(self):
        (cpu,) = re.findall(r" torch==(\d+\.\d+)", DOCKERFILES[0].read_text())
        cuda = conda_packages()["pytorch"][0].removesuffix(".*")
        assert f"the CPU image has {cpu}," in self.PAGE and f"the CUDA image has {cuda}," in self.PAGE

    def test_named_tests_exist(self):
        named = set(re.findall(r"`(?:tests/[\w/]*/)?(test_\w+\.py)`", self.PAGE))
        assert named and named <= {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")}
