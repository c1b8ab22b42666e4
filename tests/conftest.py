"""What tests share: few threads, one Ray, small datasets that are made once, and the shared faces where they lie."""

import importlib.util
import logging
import os

# Before numpy, torch or numba are imported: on few cores the tests' Ray workers would fight over them.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("NO_COLOR", "1")

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smile_pipe.pipeline.rendering.backend import Renderer


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server of our own; whatever asks S3 from now on asks it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "access-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    yield address
    server.stop()


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """The URL of an empty bucket."""
    from smile_pipe.shards.storage import StoragePath

    url = f"s3://bucket-{uuid.uuid4().hex[:12]}"
    bucket = StoragePath(url)
    bucket.fs.mkdir(bucket.path)
    return url


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """One Ray for the whole session: starting it takes seconds. Stages use a connection that exists.

    Its workers inherit the environment, so the S3 server is there before it.
    """
    from smile_pipe.pipeline.common.ray_session import ray_session

    with ray_session("local"):
        yield


@pytest.fixture(scope="session")
def faces_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of each of five parametric subjects, laid out as BU-3DFE."""
    from smile_pipe.pipeline.synth.stage import SynthConfig, run

    out = tmp_path_factory.mktemp("faces")
    run(SynthConfig(out=out, subjects=5, levels=(4,), texture_size=128))
    return out


@pytest.fixture(scope="session")
def shards_dir(faces_dir: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those scans, rendered small into shards of eight samples."""
    from smile_pipe.pipeline.render.config import RenderConfig
    from smile_pipe.pipeline.render.stage import run

    out = tmp_path_factory.mktemp("rendered") / "shards"
    run(RenderConfig(data_dir=faces_dir, out=out, size=48, samples_per_shard=8))
    return out


@pytest.fixture(scope="session")
def run_dir(shards_dir: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on them for two short epochs."""
    from smile_pipe.pipeline.train.config import TrainConfig
    from smile_pipe.pipeline.train.stage import run

    out = tmp_path_factory.mktemp("trained") / "run"
    run(TrainConfig(shards=str(shards_dir), out=out, epochs=2, batch_size=8, split="kfold:5:0"))
    return out


@pytest.fixture(scope="module", params=["zbuffer", "pytorch3d"])
def renderer(request: pytest.FixtureRequest) -> "Renderer":
    """Each renderer that a CPU can run."""
    from smile_pipe.pipeline.rendering.backend import build_renderer

    if request.param == "pytorch3d" and importlib.util.find_spec("pytorch3d") is None:
        pytest.skip("PyTorch3D is not installed")
    return build_renderer(request.param)
