"""Where a render needs GPUs, the cluster is asked for them and not the machine of the command."""

import pytest
import ray

from helpers.worlds import content
from smile_pipe.pipeline.common.ray_session import cluster_has_gpu
from smile_pipe.pipeline.render import config as module
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.job import workers_of
from smile_pipe.pipeline.render.stage import run
from smile_pipe.pipeline.render.timings import Workers
from smile_pipe.pipeline.rendering import choose_backend
from smile_pipe.shards.errors import UsageError

OPTIONS = {"size": 16, "limit": 3, "channels": ("rgb",)}


@pytest.fixture
def declare_gpus(ray_cluster: None, monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets the number of GPUs of the connected cluster."""

    def declare(gpus: int) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0} | ({"GPU": float(gpus)} if gpus else {}))

    return declare


@pytest.fixture
def pytorch3d(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch3D appears to be installed, and there is a GPU on this machine."""
    monkeypatch.setattr(choose_backend.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "has_local_gpu", lambda: True)
    monkeypatch.setattr(module, "renderer_version", lambda name: "1")


@pytest.mark.parametrize(("gpus", "chosen"), [(0, "zbuffer"), (2, "pytorch3d")])
def test_auto_asks_the_cluster(declare_gpus, pytorch3d, faces_dir, tmp_path, gpus, chosen):
    declare_gpus(gpus)
    assert cluster_has_gpu("auto") == bool(gpus)
    assert RenderConfig(data_dir=faces_dir, out=tmp_path, address="auto").resolve().renderer == chosen
    assert RenderConfig(data_dir=faces_dir, out=tmp_path).resolve().renderer == "pytorch3d"


@pytest.mark.parametrize("renderer", ["zbuffer", "zbuffer-cuda"])
def test_a_named_renderer_needs_no_cluster_before_there_is_work(monkeypatch, faces_dir, tmp_path, renderer):
    monkeypatch.setattr(module, "has_local_gpu", lambda: False)
    monkeypatch.setattr(module, "cluster_has_gpu", lambda address: pytest.fail("connected"))
    config = RenderConfig(data_dir=faces_dir, out=tmp_path, renderer=renderer, address="auto")
    assert config.resolve().renderer == renderer


def test_a_cluster_without_gpus_is_refused_before_anything_is_removed(declare_gpus, faces_dir, tmp_path):
    out = tmp_path / "out"
    run(RenderConfig(data_dir=faces_dir, out=out, **OPTIONS))
    before = content(out)
    declare_gpus(0)
    with pytest.raises(UsageError, match=r"renderer zbuffer-cuda: the Ray cluster has no GPU; use `renderer=zbuffer`"):
        run(RenderConfig(data_dir=faces_dir, out=out, renderer="zbuffer-cuda", address="auto", **OPTIONS))
    assert content(out) == before


def test_workers_share_the_gpus_of_a_cluster(declare_gpus, faces_dir, tmp_path):
    config = RenderConfig(data_dir=faces_dir, out=tmp_path, renderer="zbuffer-cuda", address="auto")
    declare_gpus(2)
    assert workers_of(config.resolve(), 3) == Workers(cores=8, gpus=2, workers_per_gpu=3)
    assert workers_of(config.resolve()).gpu_workers == 2
    zbuffer = config.model_copy(update={"renderer": "zbuffer"})
    assert workers_of(zbuffer.resolve(), 3) == Workers(cores=8)
