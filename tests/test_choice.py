"""Which renderer is taken."""

import pytest

from pipeline.rendering import choice
from shards.errors import UsageError


def pretend(monkeypatch, *, installed: bool, gpu: bool) -> None:
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(choice, "_has_gpu", lambda: gpu)


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [(True, True, "pytorch3d"), (True, False, "zbuffer"), (False, True, "zbuffer"), (False, False, "zbuffer")],
)
def test_auto_takes_pytorch3d_only_with_a_gpu(monkeypatch, installed, gpu, chosen):
    pretend(monkeypatch, installed=installed, gpu=gpu)
    assert choice.choose_renderer("auto") == chosen


def test_what_is_asked_for_is_taken_or_refused(monkeypatch):
    pretend(monkeypatch, installed=False, gpu=True)
    assert choice.choose_renderer("zbuffer") == "zbuffer"
    with pytest.raises(UsageError, match="not installed"):
        choice.choose_renderer("pytorch3d")
    assert choice.choose_renderer("zbuffer-cuda") == "zbuffer-cuda"
    pretend(monkeypatch, installed=False, gpu=False)
    with pytest.raises(UsageError, match="--renderer zbuffer-cuda: there is no GPU"):
        choice.choose_renderer("zbuffer-cuda")


def test_a_version_tells_the_renderer_and_the_shading_apart(monkeypatch):
    before = choice.renderer_version("zbuffer")
    monkeypatch.setattr(choice, "SHADING_VERSION", choice.SHADING_VERSION + 1)
    assert choice.renderer_version("zbuffer") != before
    assert choice.renderer_version("zbuffer-cuda") != choice.renderer_version("zbuffer")
