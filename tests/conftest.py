"""Fixtures and markers of all tests: a Ray cluster, an S3 server, and small datasets built once per session."""

import importlib.util
import logging
import os

# Set before numpy, torch or numba are imported. With more threads, Ray workers on few cores slow each other down.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("NO_COLOR", "1")
# pytest-xdist sets it for its processes; commands then fold what they print.
os.environ.pop("COLUMNS", None)

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from helpers.faulty_server import FaultyServer
    from smile_pipe.pipeline.rendering.backend import Renderer


# Other processes of the test run slow single examples down; the time limit of the whole test still holds.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the shared cluster as `ray` and tests by hypothesis as `fuzz`, before `-m` selects.

    If several processes run the tests, all tests with the shared cluster run in one of them, so that there is one
    cluster. The other tests of a file run in one process, so that they share the fixtures of their module.
    """
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")
        group = "ray" if "ray_cluster" in getattr(item, "fixturenames", ()) else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def cache_of_shards(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Copies of remote shards are not kept in the home of the user who runs the tests."""
    os.environ["SMILE_PIPE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a local S3 server (moto). The environment makes all S3 clients of the session use it."""
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
    """URL of a new, empty S3 bucket."""
    from smile_pipe.shards.storage import StoragePath

    url = f"s3://bucket-{uuid.uuid4().hex[:12]}"
    bucket = StoragePath(url)
    bucket.fs.mkdir(bucket.path)
    return url


@pytest.fixture
def faulty(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> "Iterator[FaultyServer]":
    """A proxy of the S3 server that all S3 clients of the test use, whose faults the test sets."""
    from s3fs import S3FileSystem

    from helpers.faulty_server import FaultyServer

    with FaultyServer(s3_server) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        S3FileSystem.clear_instance_cache()
        yield server
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """One local Ray cluster for the whole session, because a start takes seconds. Stages use an open connection.

    Ray's workers inherit the environment, so the S3 server starts first.
    """
    from smile_pipe.pipeline.common.ray_session import ray_session

    with ray_session("local"):
        yield


@pytest.fixture(scope="session")
def faces_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset in the BU-3DFE layout: seven synthetic scans of each of five subjects."""
    from smile_pipe.pipeline.synth.config import SynthConfig
    from smile_pipe.pipeline.synth.stage import run

    out = tmp_path_factory.mktemp("faces")
    run(SynthConfig(out=out, subjects=5, levels=(4,), texture_size=128))
    return out


@pytest.fixture(scope="session")
def shards_dir(faces_dir: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `faces_dir`: 35 samples of 48 px, eight in a shard."""
    from smile_pipe.pipeline.render.config import RenderConfig
    from smile_pipe.pipeline.render.stage import run

    out = tmp_path_factory.mktemp("rendered") / "shards"
    run(RenderConfig(data_dir=faces_dir, out=out, size=48, samples_per_shard=8))
    return out


@pytest.fixture(scope="session")
def run_dir(shards_dir: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run trained on `shards_dir` for two epochs; the test side is fold 0 of 5."""
    from smile_pipe.pipeline.train.config import TrainConfig
    from smile_pipe.pipeline.train.stage import run

    out = tmp_path_factory.mktemp("trained") / "run"
    run(TrainConfig(shards=str(shards_dir), out=out, epochs=2, batch_size=8, split="kfold:5:0"))
    return out


@pytest.fixture(scope="module", params=["zbuffer", "pytorch3d"])
def renderer(request: pytest.FixtureRequest) -> "Renderer":
    """Each rendering backend that runs on a CPU."""
    from smile_pipe.pipeline.rendering.choose_backend import build_renderer

    if request.param == "pytorch3d" and importlib.util.find_spec("pytorch3d") is None:
        pytest.skip("PyTorch3D is not installed")
    return build_renderer(request.param)
