"""The worked examples of the contributing guide: their code is executed, and does what the guide says."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from helpers import tiny_arch
from smile_pipe.model import config as recipe_config
from smile_pipe.model import recipes
from smile_pipe.model.config import RecipeConfig
from smile_pipe.pipeline import datasets
from smile_pipe.pipeline.meshes import reader
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.shards.storage import StoragePath

GUIDE = Path(__file__).parents[2] / ".github" / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def examples() -> dict[str, ModuleType]:
    """The code blocks as modules, by the file that they are for."""
    found = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        name = re.match(r"# (\S+)\n", block)[1]
        module = ModuleType(f"guide_{Path(name).stem}")
        exec(compile(block, str(GUIDE), "exec"), module.__dict__)
        found[name] = module
    return found


def test_dataset_is_found(examples, monkeypatch, tmp_path):
    adapter = examples["pipeline/datasets/studio.py"].Studio()
    monkeypatch.setattr(datasets, "_DATASET_ADAPTERS", (*datasets._DATASET_ADAPTERS, adapter))
    monkeypatch.setitem(datasets.LAYOUTS, adapter.name, adapter)
    for name in ("person07/happy_3.obj", "person08/angry_1.obj", "person08/angry_1.png", "person8/angry_1.obj"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = datasets.find_samples(StoragePath(tmp_path), "auto")
    assert found.layout == "studio" and "2 meshes" in found.match_reason
    assert [(s.key, s.subject, s.expression, s.level) for s in found.samples] == [
        ("person07_happy_3", "person07", "HA", 3),
        ("person08_angry_1", "person08", "AN", 1),
    ]
    assert found.samples[1].frames[0].texture == "person08/angry_1.png"


def test_mesh_format_is_read(examples, monkeypatch, tmp_path):
    monkeypatch.setitem(reader._PARSERS, ".tri", ("tri", "parse_tri"))
    monkeypatch.setitem(sys.modules, "smile_pipe.pipeline.meshes.tri", examples["pipeline/meshes/tri.py"])
    path = tmp_path / "face.tri"
    path.write_text("v 0 0 0\nv 1 0 0\n\nv 0 1 0.5\nt 0 1 2\n")
    mesh = reader.read_mesh(path)
    assert np.array_equal(mesh.vertices, [[0, 0, 0], [1, 0, 0], [0, 1, 0.5]]) and mesh.faces.tolist() == [[0, 1, 2]]
    for text, message in (("v 0 0\n", "line 1: expected"), ("v 0 0 a\n", "expected numbers"), ("\n", "empty mesh")):
        path.write_text(text)
        with pytest.raises(MeshError, match=message):
            reader.read_mesh(path)


def test_recipe_is_built_and_learns(examples, monkeypatch, tmp_path):
    module = examples["model/objectives.py"]
    monkeypatch.setattr(recipe_config, "RECIPES", {**recipe_config.RECIPES, "compact-vlm": module.SPEC})
    monkeypatch.setattr(recipes, "RECIPES", recipe_config.RECIPES)
    monkeypatch.setitem(recipes._SYSTEMS, "CompactVLM", module.CompactVLM)
    torch.manual_seed(0)
    model = recipes.build_model(RecipeConfig(name="compact-vlm", arch=tiny_arch.register(tmp_path), joint_dim=5))
    views, directions, tokens, concepts = tiny_arch.faces(4)
    embeddings = model(views, directions, tokens)
    losses = model.losses(embeddings, concepts, torch.arange(4))
    assert list(losses) == ["mv", "vl", "near", "total"]
    total = 0.0
    for face, fused in zip(embeddings.views, embeddings.fused, strict=True):
        for view in face:
            total += float((view / view.norm() - fused / fused.norm()).square().sum().detach()) / 4 / len(face)
    assert losses["near"].item() == pytest.approx(total, rel=1e-5)
    losses["total"].backward()
    assert model.project_image[0].weight.grad.abs().max() > 0


def test_examples_name_registers_that_exist():
    text = GUIDE.read_text()
    for name, module in (("_DATASET_ADAPTERS", datasets), ("_PARSERS", reader), ("_SYSTEMS", recipes)):
        assert f"`{name}`" in text and hasattr(module, name)
