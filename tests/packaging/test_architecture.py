"""The structure of the source: which package may import which, and what no module below the command line may contain.

Each rule is a function from the sources to violations, one line each. The last test breaks each rule once, so that no
rule is one that cannot fail.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

STAGES = ("render", "train", "evaluate", "crossval", "predict", "export", "synth", "app", "landmark_training")
# Each library may import those before it.
LIBRARIES = (
    "common",
    "meshes",
    "rendering",
    "landmarks",
    "face_model",
    "datasets",
    "sequences",
    "captions",
    "data",
    "runs",
    "classifiers",
    "reports",
)
# What each top-level package may import of the others. `api` is the package `smile_pipe` itself (pipeline/api).
ALLOWED = {
    "api": {"pipeline", "shards"},
    "cli": {"pipeline", "model", "shards"},
    "pipeline": {"model", "shards"},
    "model": set(),
    "shards": set(),
}
# Modules of a stage, besides its `config` and `stage`, that other stages may import.
PUBLIC_MODULES = {
    "pipeline.render.settings": "the settings that decide the bytes of an image; predict renders with those of the run",
    "pipeline.render.process": "renders one scan without Ray, as predict does",
    "pipeline.predict.predictor": "loads a run and predicts; the page of app is built on it",
    "pipeline.predict.examples": "classes that are defined by example faces; app makes them from uploads",
    "pipeline.predict.inputs": "finds the scans in files and folders; app finds them in uploads",
}
# Modules below `cli` whose strings hold `--word` for another reason than naming an option in a message.
MODULES_WITH_FLAGS = {
    "pipeline.common.ray_session": "`ray start --head`, a command of Ray",
    "pipeline.runs.cards": "shell lines in the README.md of shards and runs",
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80

Sources = Mapping[str, str]
Rule = Callable[[Sources], Iterator[str]]


def read_sources() -> dict[str, str]:
    """Source text of each module by its name below `smile_pipe`, such as `pipeline.render.stage`."""
    sources = {}
    for top in ("cli", "model", "pipeline", "shards"):
        for path in sorted((REPOSITORY / top).glob("**/*.py")):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            sources["api" if name == "pipeline.api" else name] = path.read_text()
    return sources


@cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def type_checking_nodes(tree: ast.Module) -> set[ast.AST]:
    """All nodes below `if TYPE_CHECKING:`, which do not run."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    return {node for block in blocks for part in block.body for node in ast.walk(part)}


@cache
def imported_names(source: str, *, with_types: bool = True) -> frozenset[str]:
    """Full names of what a module imports at any place, each with the name that is taken from a module."""
    tree = parse(source)
    skipped = set() if with_types else type_checking_nodes(tree)
    names = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import: write the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def imported_modules(sources: Sources, module: str, *, with_types: bool = True) -> set[str]:
    """Modules of smile_pipe that `module` imports."""
    found = set()
    for name in imported_names(sources[module], with_types=with_types):
        top, _, rest = name.partition(".")
        if top != "smile_pipe":
            continue
        while rest and rest not in sources:
            rest = rest.rpartition(".")[0]
        found.add(rest or "api")
    return found - {module}


def part_of_pipeline(module: str) -> str:
    """The stage or library of a module, "" for modules outside of `pipeline`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "pipeline" and len(parts) > 1 else ""


def imports_upwards(sources: Sources) -> Iterator[str]:
    """Between top-level packages: cli -> pipeline -> model, shards."""
    for module in sources:
        for target in imported_modules(sources, module):
            top, target_top = module.split(".")[0], target.split(".")[0]
            if target_top != top and target_top not in ALLOWED[top]:
                yield f"{module} imports {target}"


def library_imports_stage_or_later_library(sources: Sources) -> Iterator[str]:
    """Within pipeline: a library imports libraries before it, and no stage."""
    for module in sources:
        part = part_of_pipeline(module)
        if part not in LIBRARIES:
            continue
        before = LIBRARIES[: LIBRARIES.index(part) + 1]
        for target in imported_modules(sources, module):
            if target.startswith("pipeline.") and part_of_pipeline(target) not in before:
                yield f"{module} imports {target}"


def stage_imports_internals_of_another(sources: Sources) -> Iterator[str]:
    """Within pipeline: a stage imports `config`, `stage` and PUBLIC_MODULES of other stages only."""
    for module in sources:
        part = part_of_pipeline(module)
        if part not in STAGES:
            continue
        for target in imported_modules(sources, module):
            is_public = target in PUBLIC_MODULES or target.endswith((".config", ".stage"))
            if part_of_pipeline(target) in STAGES and part_of_pipeline(target) != part and not is_public:
                yield f"{module} imports {target}"


def import_cycle(sources: Sources) -> Iterator[str]:
    """No module imports itself through others, also not within functions; imports for types alone do not count."""
    graph = {module: imported_modules(sources, module, with_types=False) for module in sources}

    def reachable(module: str) -> set[str]:
        found, waiting = set[str](), [module]
        while waiting:
            new = graph.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    reached = {module: reachable(module) for module in graph}
    cycles = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    for cycle in sorted(cycles):
        yield f"import cycle: {', '.join(cycle)}"


def ray_outside_pipeline(sources: Sources) -> Iterator[str]:
    """Only pipeline imports ray."""
    for module, source in sources.items():
        if module.split(".")[0] != "pipeline" and any(n.split(".")[0] == "ray" for n in imported_names(source)):
            yield f"{module} imports ray"


def pytorch3d_outside_its_backend(sources: Sources) -> Iterator[str]:
    """Only `pipeline/rendering/pytorch3d.py` imports pytorch3d."""
    for module, source in sources.items():
        imports_it = any(name.split(".")[0] == "pytorch3d" for name in imported_names(source))
        if imports_it and module != "pipeline.rendering.pytorch3d":
            yield f"{module} imports pytorch3d"


def flag_below_cli(sources: Sources) -> Iterator[str]:
    """No string below `cli` contains a command-line flag: an error carries the name of the field instead."""
    for module, source in sources.items():
        if module.split(".")[0] == "cli" or module in MODULES_WITH_FLAGS:
            continue
        strings = (n.value for n in ast.walk(parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        for flag in sorted({flag for text in strings for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)}):
            yield f"{module} contains {flag}"


def folder_neither_stage_nor_library(sources: Sources) -> Iterator[str]:
    """A folder of pipeline is a stage (`stage.py` and `config.py`) or a library (no `stage.py`)."""
    for part in sorted({part_of_pipeline(module) for module in sources} - {""}):
        if part in STAGES:
            for name in ("stage", "config"):
                if f"pipeline.{part}.{name}" not in sources:
                    yield f"pipeline/{part} has no {name}.py"
        elif part not in LIBRARIES:
            yield f"pipeline/{part} is neither a stage nor a library of this test"
        elif f"pipeline.{part}.stage" in sources:
            yield f"pipeline/{part} is a library and has a stage.py"


def too_long(sources: Sources) -> Iterator[str]:
    """No file has over 400 lines, and no function over 80."""
    for module, source in sources.items():
        if (lines := source.count("\n")) > MAX_FILE_LINES:
            yield f"{module} has {lines} lines"
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    yield f"{module}.{node.name} has {lines} lines"


RULES: tuple[Rule, ...] = (
    imports_upwards,
    library_imports_stage_or_later_library,
    stage_imports_internals_of_another,
    import_cycle,
    ray_outside_pipeline,
    pytorch3d_outside_its_backend,
    flag_below_cli,
    folder_neither_stage_nor_library,
    too_long,
)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_sources()


@each_rule
def test_sources_follow_the_rule(rule: Rule, sources: Sources):
    violations = set(rule(sources))
    assert not violations, f"{rule.__doc__} Violations: {sorted(violations)}"


def test_packages_of_the_project_are_the_packages_of_the_tree(sources: Sources):
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        path.parent for top in ("cli", "model", "pipeline", "shards") for path in (REPOSITORY / top).rglob("*.py")
    }
    names = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders} - {"pipeline.api"}
    assert sorted(setuptools["packages"]) == sorted(["smile_pipe", *(f"smile_pipe.{name}" for name in names)])
    for name, folder in setuptools["package-dir"].items():
        assert (REPOSITORY / Path(folder) / "__init__.py").is_file(), name


def test_every_package_has_an_init_file(sources: Sources):
    packages = {module.rpartition(".")[0] for module in sources} - {""}
    assert packages <= sources.keys()


BROKEN: tuple[tuple[Rule, dict[str, str], str], ...] = (
    (imports_upwards, {"shards.reader": "import smile_pipe.pipeline.x", "pipeline.x": ""}, "imports pipeline.x"),
    (imports_upwards, {"model.a": "from smile_pipe.shards.b import c", "shards.b": ""}, "model.a imports shards.b"),
    (imports_upwards, {"pipeline.a": "from smile_pipe.cli import b", "cli": ""}, "pipeline.a imports cli"),
    (imports_upwards, {"cli.a": "from smile_pipe import Predictor", "api": ""}, "cli.a imports api"),
    (
        library_imports_stage_or_later_library,
        {
            "pipeline.meshes.a": "def f():\n    from smile_pipe.pipeline.render.stage import run",
            "pipeline.render.stage": "",
        },
        "pipeline.meshes.a imports pipeline.render.stage",
    ),
    (
        library_imports_stage_or_later_library,
        {"pipeline.data.a": "from smile_pipe.pipeline.runs import b", "pipeline.runs.b": ""},
        "pipeline.data.a imports pipeline.runs.b",
    ),
    (
        stage_imports_internals_of_another,
        {"pipeline.train.a": "from smile_pipe.pipeline.render.plan import b", "pipeline.render.plan": ""},
        "pipeline.train.a imports pipeline.render.plan",
    ),
    (
        import_cycle,
        {
            "model.b": "from smile_pipe.model.c import x",
            "model.c": "def f():\n    import smile_pipe.model.a",
            "model.a": "from smile_pipe.model import b",
        },
        "import cycle: model.a, model.b, model.c",
    ),
    (ray_outside_pipeline, {"cli.a": "def f():\n    from ray.data import Dataset"}, "cli.a imports ray"),
    (pytorch3d_outside_its_backend, {"pipeline.rendering.a": "import pytorch3d.io"}, "imports pytorch3d"),
    (flag_below_cli, {"model.a": "raise ValueError(f'--num-workers {1}')"}, "model.a contains --num-workers"),
    (folder_neither_stage_nor_library, {"pipeline.utils.a": ""}, "pipeline/utils is neither"),
    (folder_neither_stage_nor_library, {"pipeline.export.stage": ""}, "pipeline/export has no config.py"),
    (folder_neither_stage_nor_library, {"pipeline.meshes.stage": ""}, "pipeline/meshes is a library"),
    (too_long, {"model.a": "x = 1\n" * (MAX_FILE_LINES + 1)}, "model.a has 401 lines"),
    (too_long, {"model.a": "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES}, "model.a.f has 81 lines"),
)


@pytest.mark.parametrize(("rule", "broken", "violation"), BROKEN, ids=[f"{b[0].__name__}-{b[2]}" for b in BROKEN])
def test_each_rule_can_fail(rule: Rule, broken: dict[str, str], violation: str):
    (found,) = rule(broken)
    assert violation in found


def test_imports_for_types_alone_make_no_cycle():
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from smile_pipe.model.b import x"
    assert not list(import_cycle({"model.a": lazy, "model.b": "import smile_pipe.model.a"}))
