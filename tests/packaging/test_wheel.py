"""The wheel: what it contains, and that it works in an environment where the sources are not.

The environment already has distributions of others with packages called `cli`, `model`, `pipeline` and `shards`, as
many projects have them.
"""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

pytestmark = pytest.mark.slow

FOLDERS = ("cli", "model", "pipeline", "shards")


def run(*command: object, **options: object) -> str:
    """Stdout of a command. If it fails, the test fails with its output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files that git tracks, so that other files of this checkout have no influence."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in run("git", "ls-files", "-z", cwd=REPOSITORY).split("\0"):
        if name and (REPOSITORY / name).is_file():
            (folder / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / "sources" / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "sources")
    (built,) = folder.glob("*.whl")
    return built


def build_foreign_wheel(folder: Path, package: str) -> Path:
    """A distribution of somebody else that installs the top-level package `package`."""
    info = f"other_{package}-1.0.dist-info"
    files = {
        f"{package}/__init__.py": f"OWNER = 'other-{package}'\n",
        f"{package}/main.py": "def main():\n    return 'other'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: other-{package}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    path = folder / f"other_{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


class Environment:
    """A virtual environment that uses the dependencies of this one, but not its smile-pipe."""

    def __init__(self, root: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", root)
        self.python = root / "bin" / "python"
        self.command = root / "bin" / "smile-pipe"
        self.packages = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        self.dependencies = self.packages / "dependencies.pth"
        self.empty_folder = root / "empty"
        self.empty_folder.mkdir()

    def pip(self, *arguments: object) -> None:
        """Run pip on this environment while it sees no other one, so that it changes nothing there."""
        self.dependencies.unlink(missing_ok=True)
        run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python, *arguments)
        # Python reads no .pth file of a folder that is named in one, so an editable smile-pipe there stays invisible.
        self.dependencies.write_text(sysconfig.get_path("purelib"))

    def install(self, *wheels: Path) -> None:
        self.pip("install", "--no-deps", "--no-index", *wheels)

    def run(self, code: str) -> str:
        """Output of Python code that runs in an empty folder."""
        return run(self.python, "-c", code, cwd=self.empty_folder, env={}).strip()

    def foreign_files(self) -> dict[str, bytes]:
        """Contents of the modules and metadata of the foreign distributions."""
        paths = [path for top in FOLDERS for path in (self.packages / top).rglob("*.py")]
        paths += self.packages.glob("other_*/*")
        return {str(path.relative_to(self.packages)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(*(build_foreign_wheel(environment.empty_folder.parent, package) for package in FOLDERS))
    environment.foreign_before = environment.foreign_files()
    environment.install(wheel)
    return environment


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_contains_one_top_level_package(wheel):
    tops = {name.split("/")[0] for name in contents(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"smile_pipe"}


def test_wheel_contains_every_module_and_data_file(wheel):
    tracked = run("git", "ls-files", "-z", *FOLDERS, cwd=REPOSITORY).split("\0")
    suffixes = (".py", ".json", ".yaml", ".html", ".css", ".jinja", ".npz")
    needed = {name for name in tracked if name.endswith(suffixes) and (REPOSITORY / name).is_file()}
    assert {"model/configs/smile-tiny.json", "pipeline/landmarks/detector.npz"} <= needed
    needed = {f"smile_pipe/{name}" for name in needed} - {"smile_pipe/pipeline/api/__init__.py"}
    assert needed | {"smile_pipe/__init__.py", "smile_pipe/py.typed"} <= contents(wheel)


def test_wheel_installs_one_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(entry_points).decode()
    assert text.split() == ["[console_scripts]", "smile-pipe", "=", "smile_pipe.cli.main:main"]


def test_install_changes_no_file_of_other_distributions(environment):
    assert {f"{name}/main.py" for name in FOLDERS} <= environment.foreign_before.keys()
    assert environment.foreign_files() == environment.foreign_before


def test_packages_of_the_same_names_work_beside_it(environment):
    imports = f"import {', '.join(FOLDERS)}, {', '.join(f'smile_pipe.{name}' for name in FOLDERS)}"
    owners = f"{imports}\nprint({', '.join(f'{name}.OWNER' for name in FOLDERS)})"
    assert environment.run(owners).split() == [f"other-{name}" for name in FOLDERS]
    ours = f"{imports}\nprint({', '.join(f'smile_pipe.{name}.__file__' for name in FOLDERS)})"
    root = environment.packages / "smile_pipe"
    assert environment.run(ours).split() == [str(root / name / "__init__.py") for name in FOLDERS]


def test_installed_command_prints_its_version(environment, wheel):
    version = wheel.name.split("-")[1]
    assert run(environment.command, "--version", cwd=environment.empty_folder, env={}) == f"smile-pipe {version}\n"


def test_installed_package_finds_its_data_files(environment):
    bank = "from smile_pipe.pipeline.captions.bank import load_bank; print(len(load_bank().templates))"
    assert environment.run(bank) == "7"
    arch = "from smile_pipe.model.towers import check_arch; print(check_arch('smile-tiny')['embed_dim'])"
    assert environment.run(arch) == "128"
    templates = "from smile_pipe.pipeline.reports.html import _ENVIRONMENT as e; print(*e.list_templates())"
    assert {"page.html", "style.css"} <= set(environment.run(templates).split())


def test_uninstall_leaves_other_distributions_in_place(environment, wheel):
    environment.pip("uninstall", "--yes", "smile-pipe")
    try:
        assert environment.foreign_files() == environment.foreign_before
        assert environment.run("import cli, model; print(cli.OWNER, model.OWNER)") == "other-cli other-model"
        assert not (environment.packages / "smile_pipe").exists()
    finally:
        environment.install(wheel)
