"""The public interface `smile_pipe`: what it exports, and that importing it is cheap."""

import doctest
import importlib
import inspect
import subprocess
import sys

import pytest

import smile_pipe
from helpers.samples import write_shard_set
from smile_pipe.shards.errors import UsageError

FUNCTIONS = ("evaluate", "open_shards", "render", "train")


def test_import_loads_neither_torch_nor_ray():
    heavy = {"torch", "ray", "open_clip", "sklearn", "pyarrow", "numba"}
    code = f"import sys, smile_pipe; dir(smile_pipe); print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_opening_shards_loads_neither_torch_nor_ray(tmp_path):
    write_shard_set(tmp_path / "shards")
    heavy = {"torch", "ray", "webdataset", "numba"}
    code = f"import sys, smile_pipe; smile_pipe.open_shards({str(tmp_path / 'shards')!r})"
    code += f"; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", smile_pipe.__all__)
def test_every_exported_name_resolves(name):
    value = getattr(smile_pipe, name)
    assert callable(value) and value.__name__ == name
    assert name in dir(smile_pipe)
    assert getattr(smile_pipe, name) is value


def test_all_exported_names_are_imported_by_a_star():
    names: dict[str, object] = {}
    exec("from smile_pipe import *", names)
    assert names.keys() - {"__builtins__"} == set(smile_pipe.__all__) == {*FUNCTIONS, *smile_pipe._MODULES}


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Renderer'"):
        _ = smile_pipe.Renderer


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_example_of_existing_names(name):
    function = getattr(smile_pipe, name)
    doc = inspect.getdoc(function) or ""
    assert all(f"\n{section}:\n" in doc for section in ("Args", "Returns", "Raises", "Example"))
    first, *others = doctest.DocTestParser().get_examples(doc)
    names: dict[str, object] = {}
    exec(first.source, names)
    assert names[name] is function
    for example in others:
        compile(example.source, name, "single")


def test_examples_use_options_that_exist():
    for config in ("RenderConfig", "TrainConfig", "EvaluateConfig"):
        fields = getattr(smile_pipe, config).model_fields
        assert fields.keys() & {"out", "run"}, config
    smile_pipe.RenderConfig(data_dir="BU-3DFE", out="shards", rig="5", size=224)
    smile_pipe.TrainConfig(shards="shards", out="run", split="kfold:10:0", epochs=30)
    smile_pipe.EvaluateConfig(run="run", shards="shards", protocol="knn,probe")


def test_functions_pass_on_errors_of_their_stage(tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(UsageError, match="no such directory"):
        smile_pipe.render(smile_pipe.RenderConfig(data_dir=missing, out=tmp_path / "out"))
    with pytest.raises(UsageError):
        smile_pipe.train(smile_pipe.TrainConfig(shards=missing, out=tmp_path / "out"))
    with pytest.raises(UsageError, match="no such run"):
        smile_pipe.evaluate(smile_pipe.EvaluateConfig(run=missing, shards=missing))
    with pytest.raises(UsageError):
        smile_pipe.open_shards(missing)
    assert not (tmp_path / "out").exists()


def test_public_functions_do_the_work_of_their_stage(shards_dir, run_dir, tmp_path):
    # Both are finished: the stages return their manifests without starting Ray.
    config = smile_pipe.TrainConfig(shards=str(shards_dir), out=run_dir, epochs=2, batch_size=8, split="kfold:5:0")
    assert smile_pipe.train(config).num_steps > 0
    shards = smile_pipe.open_shards(str(shards_dir), cache_dir=str(tmp_path / "cache"), cache_gb=1)
    assert len(shards.rows) == 35 and isinstance(shards, smile_pipe.StreamableShardSet)
    sample = next(iter(shards.torch(channels=["depth"])))
    assert sample["front.depth.png"].shape == (48, 48) and sample["json"]["key"] == sample["__key__"]


def test_type_information_is_marked():
    assert importlib.resources.files("smile_pipe").joinpath("py.typed").is_file()
