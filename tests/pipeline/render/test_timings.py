"""Seconds by step of a render, the utilization of its workers, and the resource that limits it."""

import time

import pytest

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.process import process_units, read_units, render_units
from smile_pipe.pipeline.render.stage import plan
from smile_pipe.pipeline.render.timings import StepSeconds, Utilization, Workers
from smile_pipe.pipeline.render.units import WorkUnit, batch_units


def test_seconds_add_up_by_step():
    assert StepSeconds(1, 2, 3) + StepSeconds(0.5, 0.25, 0.125, 4) == StepSeconds(1.5, 2.25, 3.125, 4)


def test_utilization_of_cores_that_do_all_steps():
    utilization = Utilization.of(StepSeconds(read=4, render=8, encode=3, write=1), Workers(cores=2), seconds=10)
    assert utilization.cores == pytest.approx(0.8) and utilization.gpus is None
    assert utilization.steps == pytest.approx({"read": 0.2, "render": 0.4, "encode": 0.15, "write": 0.05})
    assert utilization.limit == "cores"


@pytest.mark.parametrize(
    ("spent", "cores", "gpus", "limit"),
    [
        (StepSeconds(read=2, render=38, encode=2), 0.05, 0.95, "GPUs"),
        (StepSeconds(read=50, render=12, encode=20, write=2), 0.9, 0.3, "cores"),
        (StepSeconds(read=8, render=12, encode=8), 0.2, 0.3, "waiting (storage, or starting up)"),
    ],
)
def test_utilization_of_gpus_that_render_and_cores_that_do_the_other_steps(spent, cores, gpus, limit):
    utilization = Utilization.of(spent, Workers(cores=8, gpus=4), seconds=10)
    assert utilization.gpus == pytest.approx(gpus) and utilization.cores == pytest.approx(cores)
    assert "render" not in utilization.steps and utilization.limit == limit


def test_utilization_of_a_gpu_is_the_mean_over_the_workers_that_share_it():
    utilization = Utilization.of(StepSeconds(render=30), Workers(cores=8, gpus=2, workers_per_gpu=3), seconds=10)
    assert utilization.gpus == pytest.approx(0.5)


@pytest.mark.parametrize("count", range(1, 17))
def test_workers_that_share_a_gpu_reserve_no_more_than_it(count):
    assert 0.99 < count * Workers(cores=1, gpus=1, workers_per_gpu=count).gpus_per_worker <= 1


def test_units_that_are_rendered_in_one_call_share_its_time(faces_dir, tmp_path):
    config = RenderConfig(data_dir=faces_dir, out=tmp_path / "out", size=32, limit=6)
    (task,) = plan(config).tasks
    (batch,) = batch_units(task.samples, config.resolve())
    read = list(read_units(batch, faces_dir, config.resolve()))
    began = time.perf_counter()
    rendered = list(render_units(read, config.resolve()))
    wall_time = time.perf_counter() - began
    assert len(rendered) == 6 and 0 < sum(unit.seconds.render for unit in rendered) <= wall_time
    assert all(unit.seconds.render > 0 and unit.seconds.encode == 0 for unit in rendered)
    assert [unit.seconds.read for unit in rendered] == [unit.seconds.read for unit in read]


def test_a_unit_that_fails_has_the_time_of_the_steps_before(tmp_path):
    (tmp_path / "broken.obj").write_text("f 1 2 3\n")
    settings = RenderConfig(data_dir=tmp_path, out=tmp_path / "out", size=32).resolve()
    broken = WorkUnit(SampleSource("broken", "s", "HA", None, (ScanFiles("broken.obj"),)))
    (unit,) = process_units([broken], tmp_path, settings)
    assert unit.failure.stage == "read" and unit.seconds == StepSeconds(read=unit.seconds.read)
    assert unit.seconds.read > 0
