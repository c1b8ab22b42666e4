"""The estimate of a dry run against the bytes and the time of the run."""

import shutil
from dataclasses import replace

import pytest

from smile_pipe.pipeline.render import config as render_config
from smile_pipe.pipeline.render import estimate as module
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.estimate import estimate
from smile_pipe.pipeline.rendering import choose_backend


@pytest.fixture
def config(faces_dir, tmp_path) -> RenderConfig:
    return RenderConfig(data_dir=faces_dir, out=f"memory://{tmp_path.name}", size=64, limit=12, samples_per_shard=4)


def estimate_of(config: RenderConfig):
    return render.estimate(config, render.plan(config))


def test_estimated_bytes_are_close_to_written_bytes(config):
    result = estimate_of(config)
    manifest = render.run(config)
    written = sum(entry.bytes for entry in manifest.shards)
    assert result.num_tried == 4
    assert written * 0.8 < result.bytes < written * 1.2


def test_estimated_time_is_proportional_to_the_number_of_samples(config, monkeypatch):
    """With a fake clock, by which all samples take the same time."""
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(module, "_packed_size", lambda *_: next(clock) and 100)
    plan = render.plan(config)
    result = estimate(plan, config.data_dir, config.resolve())
    # Each sample takes two ticks, one of which is the check of the time limit; the last reading of the clock takes one.
    assert result.core_seconds == pytest.approx(12 * (2 + 1 / result.num_tried))
    assert result.bytes == 1200
    half = estimate(replace(plan, tasks=plan.tasks[:1]), config.data_dir, config.resolve())
    assert half.core_seconds / result.core_seconds == pytest.approx(1 / 3, abs=0.05)


def test_a_machine_without_a_gpu_estimates_a_render_on_the_gpus_of_a_cluster(config, monkeypatch):
    monkeypatch.setattr(module, "has_local_gpu", lambda: False)
    result = estimate_of(config.model_copy(update={"renderer": "zbuffer-cuda", "address": "auto"}))
    assert (result.renderer, result.num_tried) == ("zbuffer", 4)
    assert result.bytes > 0 and result.core_seconds > 0


def test_a_dry_run_connects_to_a_cluster_once(config, monkeypatch):
    addresses = []
    monkeypatch.setattr(choose_backend.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(render_config, "cluster_has_gpu", addresses.append)
    assert estimate_of(config.model_copy(update={"address": "ray://head:10001"})).renderer == "zbuffer"
    assert addresses == ["ray://head:10001"]


def test_kept_and_copied_samples_need_no_rendering(config):
    render.run(config)
    assert estimate_of(config) == module.Estimate(0.0, 0, 0, "zbuffer")
    result = estimate_of(config.model_copy(update={"limit": 11}))
    assert (result.core_seconds, result.num_tried) == (0.0, 0)
    assert result.bytes > 0


def test_a_partly_changed_shard_counts_with_its_copied_samples(faces_dir, tmp_path):
    data, out = tmp_path / "faces", f"memory://{tmp_path.name}"
    shutil.copytree(faces_dir, data)
    config = RenderConfig(data_dir=data, out=out, size=64, limit=12)
    (shard,) = render.run(config).shards
    mesh = next(data.rglob("F0001_AN*.wrl"))
    mesh.write_bytes(mesh.read_bytes() + b"\n# seen again\n")
    plan = render.plan(config)
    assert (plan.num_to_render, plan.num_to_copy) == (1, 11)
    assert shard.bytes * 0.9 < render.estimate(config, plan).bytes < shard.bytes * 1.1


def test_no_sample_is_tried_after_the_time_limit(config, monkeypatch):
    monkeypatch.setattr(module, "MAX_SECONDS", 0.0)
    assert estimate_of(config).num_tried == 1


def test_failing_samples_count_time_but_no_bytes(config, monkeypatch):
    monkeypatch.setattr(module, "build_samples", lambda *_: [])
    result = estimate_of(config)
    assert result.bytes == 0
    assert result.core_seconds > 0
