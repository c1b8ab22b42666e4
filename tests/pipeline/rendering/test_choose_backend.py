"""The choice of a renderer."""

import sys

import pytest

from smile_pipe.pipeline.rendering import choose_backend
from smile_pipe.shards.errors import UsageError


def mock_environment(monkeypatch, *, installed: bool, gpu: bool) -> None:
    monkeypatch.setattr(choose_backend.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(choose_backend, "has_local_gpu", lambda: gpu)


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [(True, True, "pytorch3d"), (True, False, "zbuffer"), (False, True, "zbuffer"), (False, False, "zbuffer")],
)
def test_auto_resolves_to_pytorch3d_only_with_a_gpu(monkeypatch, installed, gpu, chosen):
    mock_environment(monkeypatch, installed=installed, gpu=gpu)
    assert choose_backend.choose_renderer("auto") == chosen


def test_named_renderer_is_used_or_rejected(monkeypatch):
    mock_environment(monkeypatch, installed=False, gpu=True)
    assert choose_backend.choose_renderer("zbuffer") == "zbuffer"
    with pytest.raises(UsageError, match="not installed"):
        choose_backend.choose_renderer("pytorch3d")
    assert choose_backend.choose_renderer("zbuffer-cuda") == "zbuffer-cuda"
    mock_environment(monkeypatch, installed=False, gpu=False)
    with pytest.raises(UsageError, match="renderer zbuffer-cuda: PyTorch finds no GPU on this machine; use `renderer="):
        choose_backend.choose_renderer("zbuffer-cuda")
    mock_environment(monkeypatch, installed=True, gpu=False)
    with pytest.raises(UsageError, match=r"no GPU on this machine \(PyTorch3D takes about 20 s a view on a CPU\)"):
        choose_backend.choose_renderer("pytorch3d")


def test_gpus_of_a_cluster_count_instead_of_those_of_the_machine(monkeypatch):
    mock_environment(monkeypatch, installed=True, gpu=False)
    assert choose_backend.choose_renderer("auto", lambda: True) == "pytorch3d"
    assert choose_backend.choose_renderer("zbuffer-cuda", lambda: True) == "zbuffer-cuda"
    mock_environment(monkeypatch, installed=True, gpu=True)
    assert choose_backend.choose_renderer("auto", lambda: False) == "zbuffer"


def test_gpus_are_not_counted_where_the_answer_does_not_matter(monkeypatch):
    mock_environment(monkeypatch, installed=False, gpu=True)
    for name in ("zbuffer", "auto"):
        assert choose_backend.choose_renderer(name, lambda: pytest.fail("counted")) == "zbuffer"


def test_version_contains_renderer_and_shading_versions(monkeypatch):
    before = choose_backend.renderer_version("zbuffer")
    monkeypatch.setattr(choose_backend, "SHADING_VERSION", choose_backend.SHADING_VERSION + 1)
    assert choose_backend.renderer_version("zbuffer") != before
    assert choose_backend.renderer_version("zbuffer-cuda") != choose_backend.renderer_version("zbuffer")


def test_pytorch3d_in_a_folder_on_the_path_has_a_version(monkeypatch, tmp_path):
    (tmp_path / "pytorch3d").mkdir()
    (tmp_path / "pytorch3d" / "__init__.py").write_text('__version__ = "0.7.8"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pytorch3d", raising=False)
    assert choose_backend.renderer_version("pytorch3d").startswith("0.7.8.")
    del sys.modules["pytorch3d"]
