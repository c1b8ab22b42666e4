"""What tests share: few threads, one Ray, small datasets that are made once, and the shared faces where they lie."""

import os

# Before numpy, torch or numba are imported: on few cores the tests' Ray workers would fight over them.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("NO_COLOR", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for the whole session: starting it takes seconds. Stages use a connection that exists."""
    from pipeline.ray_session import ray_session

    with ray_session("local"):
        yield


@pytest.fixture(scope="session")
def faces_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of each of five parametric subjects, laid out as BU-3DFE."""
    from pipeline.synth import SynthConfig, run

    out = tmp_path_factory.mktemp("faces")
    run(SynthConfig(out=out, subjects=5, levels=(4,), texture_size=128))
    return out


@pytest.fixture(scope="session")
def shards_dir(faces_dir: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those scans, rendered small into shards of eight samples."""
    from pipeline.render import run
    from pipeline.render_config import RenderConfig

    out = tmp_path_factory.mktemp("rendered") / "shards"
    run(RenderConfig(data_dir=faces_dir, out=out, size=48, samples_per_shard=8))
    return out


@pytest.fixture(scope="session")
def run_dir(shards_dir: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on them for two short epochs."""
    from pipeline.train import run
    from pipeline.training.config import TrainConfig

    out = tmp_path_factory.mktemp("trained") / "run"
    run(TrainConfig(shards=str(shards_dir), out=out, epochs=2, batch_size=8, split="kfold:5:0"))
    return out
