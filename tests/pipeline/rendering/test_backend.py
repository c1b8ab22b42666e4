"""The choice of a renderer."""

import pytest

from smile_pipe.pipeline.rendering import backend
from smile_pipe.shards.errors import UsageError


def mock_environment(monkeypatch, *, installed: bool, gpu: bool) -> None:
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(backend, "_has_gpu", lambda: gpu)


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [(True, True, "pytorch3d"), (True, False, "zbuffer"), (False, True, "zbuffer"), (False, False, "zbuffer")],
)
def test_auto_resolves_to_pytorch3d_only_with_a_gpu(monkeypatch, installed, gpu, chosen):
    mock_environment(monkeypatch, installed=installed, gpu=gpu)
    assert backend.choose_renderer("auto") == chosen


def test_named_renderer_is_used_or_rejected(monkeypatch):
    mock_environment(monkeypatch, installed=False, gpu=True)
    assert backend.choose_renderer("zbuffer") == "zbuffer"
    with pytest.raises(UsageError, match="not installed"):
        backend.choose_renderer("pytorch3d")
    assert backend.choose_renderer("zbuffer-cuda") == "zbuffer-cuda"
    mock_environment(monkeypatch, installed=False, gpu=False)
    with pytest.raises(UsageError, match="renderer zbuffer-cuda: PyTorch finds no GPU"):
        backend.choose_renderer("zbuffer-cuda")


def test_version_contains_renderer_and_shading_versions(monkeypatch):
    before = backend.renderer_version("zbuffer")
    monkeypatch.setattr(backend, "SHADING_VERSION", backend.SHADING_VERSION + 1)
    assert backend.renderer_version("zbuffer") != before
    assert backend.renderer_version("zbuffer-cuda") != backend.renderer_version("zbuffer")
