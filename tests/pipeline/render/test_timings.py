"""What a render's workers were busy with, and what of it limited the rate."""

import time

import pytest

from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.operators import pieces_table, read_pieces, render_views
from smile_pipe.pipeline.render.stage import plan
from smile_pipe.pipeline.render.timings import Shares, StepSeconds, Workers
from smile_pipe.pipeline.render.units import batch_units


def row(read: float | None, render: float | None, encode: float | None) -> dict[str, float | None]:
    return {"read_seconds": read, "render_seconds": render, "encode_seconds": encode}


def test_seconds_add_up_over_rows_and_shards():
    first = StepSeconds.of([row(1, 2, 3), row(0.5, 0.25, 0.125)], write=4)
    assert first == StepSeconds(1.5, 2.25, 3.125, 4)
    assert first + StepSeconds(1, 1, 1, 1) == StepSeconds(2.5, 3.25, 4.125, 5)


def test_a_row_that_failed_took_what_it_took_until_then():
    assert StepSeconds.of([row(1, None, None)], write=0) == StepSeconds(read=1)
    assert StepSeconds.of([], write=2) == StepSeconds(write=2)


def test_cores_that_do_all():
    shares = Shares.of(StepSeconds(read=4, render=8, encode=3, write=1), Workers(cores=2), seconds=10)
    assert shares.cores == pytest.approx(0.8) and shares.gpus is None
    assert shares.steps == pytest.approx({"read": 0.2, "render": 0.4, "encode": 0.15, "write": 0.05})
    assert shares.limit == "cores"


@pytest.mark.parametrize(
    ("spent", "cores", "gpus", "limit"),
    [
        (StepSeconds(read=2, render=38, encode=2), 0.05, 0.95, "GPUs"),
        (StepSeconds(read=50, render=12, encode=20, write=2), 0.9, 0.3, "cores"),
        (StepSeconds(read=8, render=12, encode=8), 0.2, 0.3, "waiting (storage, or starting up)"),
    ],
)
def test_gpus_render_and_cores_do_the_rest(spent, cores, gpus, limit):
    shares = Shares.of(spent, Workers(cores=8, gpus=4), seconds=10)
    assert shares.gpus == pytest.approx(gpus) and shares.cores == pytest.approx(cores)
    assert "render" not in shares.steps and shares.limit == limit


def test_rows_that_are_rendered_in_one_call_share_its_time(faces_dir, tmp_path):
    config = RenderConfig(data_dir=faces_dir, out=tmp_path / "out", size=32, limit=6)
    (task,) = plan(config).tasks
    (parcel,) = batch_units(task.samples, config.resolve())
    read = read_pieces(pieces_table(parcel), str(faces_dir), config.resolve())
    began = time.perf_counter()
    rendered = render_views(read, config.resolve())
    took = time.perf_counter() - began
    assert len(rendered) == 6 and 0 < sum(rendered["render_seconds"].to_pylist()) <= took
    assert rendered["read_seconds"] == read["read_seconds"] and rendered["encode_seconds"].null_count == 6
