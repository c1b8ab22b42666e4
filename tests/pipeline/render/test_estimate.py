"""What a dry run says of time and bytes, against what the run then takes."""

import shutil
from dataclasses import replace

import pytest

from smile_pipe.pipeline.render import estimate as module
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.estimate import estimate


@pytest.fixture
def config(faces_dir, tmp_path) -> RenderConfig:
    return RenderConfig(data_dir=faces_dir, out=f"memory://{tmp_path.name}", size=64, limit=12, samples_per_shard=4)


def told(config: RenderConfig):
    return render.estimate(config, render.plan(config))


def test_the_bytes_are_about_those_that_are_written(config):
    guess = told(config)
    manifest = render.run(config)
    written = sum(entry.bytes for entry in manifest.shards)
    assert guess.num_tried == 4
    assert written * 0.8 < guess.bytes < written * 1.2


def test_the_time_grows_with_what_is_to_be_done(config, monkeypatch):
    """Of samples that take the same time each, by a clock that says so."""
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(module, "_packed_size", lambda *_: next(clock) and 100)
    plan = render.plan(config)
    guess = estimate(plan, config.data_dir, config.resolve())
    # Two ticks a sample, of which one looks at the clock, and one to see the end.
    assert guess.core_seconds == pytest.approx(12 * (2 + 1 / guess.num_tried))
    assert guess.bytes == 1200
    half = estimate(replace(plan, tasks=plan.tasks[:1]), config.data_dir, config.resolve())
    assert half.core_seconds / guess.core_seconds == pytest.approx(1 / 3, abs=0.05)


def test_what_is_kept_or_copied_takes_no_rendering(config):
    render.run(config)
    assert told(config) == module.Estimate(0.0, 0, 0)
    guess = told(config.model_copy(update={"limit": 11}))
    assert (guess.core_seconds, guess.num_tried) == (0.0, 0)
    assert guess.bytes > 0


def test_of_a_shard_that_changes_in_part_the_rest_is_written_too(faces_dir, tmp_path):
    data, out = tmp_path / "faces", f"memory://{tmp_path.name}"
    shutil.copytree(faces_dir, data)
    config = RenderConfig(data_dir=data, out=out, size=64, limit=12)
    (shard,) = render.run(config).shards
    mesh = next(data.rglob("F0001_AN*.wrl"))
    mesh.write_bytes(mesh.read_bytes() + b"\n# seen again\n")
    plan = render.plan(config)
    assert (plan.num_to_render, plan.num_to_copy) == (1, 11)
    assert shard.bytes * 0.9 < render.estimate(config, plan).bytes < shard.bytes * 1.1


def test_a_long_sample_ends_the_trying(config, monkeypatch):
    monkeypatch.setattr(module, "MAX_SECONDS", 0.0)
    assert told(config).num_tried == 1


def test_samples_that_fail_take_time_and_no_bytes(config, monkeypatch):
    monkeypatch.setattr(module, "build_samples", lambda *_: [])
    guess = told(config)
    assert guess.bytes == 0
    assert guess.core_seconds > 0
