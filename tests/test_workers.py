"""What a render's workers were busy with, and what of it limited the rate."""

import time

import pytest

from pipeline.making.operators import pieces_table, read_pieces, render_views
from pipeline.making.pieces import parcels_of
from pipeline.making.workers import Shares, Spent, Workers
from pipeline.render import plan
from pipeline.render_config import RenderConfig


def row(read: float | None, render: float | None, encode: float | None) -> dict[str, float | None]:
    return {"read_seconds": read, "render_seconds": render, "encode_seconds": encode}


def test_seconds_add_up_over_rows_and_shards():
    first = Spent.of([row(1, 2, 3), row(0.5, 0.25, 0.125)], write=4)
    assert first == Spent(1.5, 2.25, 3.125, 4)
    assert first + Spent(1, 1, 1, 1) == Spent(2.5, 3.25, 4.125, 5)


def test_a_row_that_failed_took_what_it_took_until_then():
    assert Spent.of([row(1, None, None)], write=0) == Spent(read=1)
    assert Spent.of([], write=2) == Spent(write=2)


def test_cores_that_do_all():
    shares = Shares.of(Spent(read=4, render=8, encode=3, write=1), Workers(cores=2), seconds=10)
    assert shares.cores == pytest.approx(0.8) and shares.gpus is None
    assert shares.steps == pytest.approx({"read": 0.2, "render": 0.4, "encode": 0.15, "write": 0.05})
    assert shares.limit == "cores"


@pytest.mark.parametrize(
    ("spent", "cores", "gpus", "limit"),
    [
        (Spent(read=2, render=38, encode=2), 0.05, 0.95, "GPUs"),
        (Spent(read=50, render=12, encode=20, write=2), 0.9, 0.3, "cores"),
        (Spent(read=8, render=12, encode=8), 0.2, 0.3, "waiting (storage, or starting up)"),
    ],
)
def test_gpus_render_and_cores_do_the_rest(spent, cores, gpus, limit):
    shares = Shares.of(spent, Workers(cores=8, gpus=4), seconds=10)
    assert shares.gpus == pytest.approx(gpus) and shares.cores == pytest.approx(cores)
    assert "render" not in shares.steps and shares.limit == limit


def test_rows_that_are_rendered_in_one_call_share_its_time(faces_dir, tmp_path):
    config = RenderConfig(data_dir=faces_dir, out=tmp_path / "out", size=32, limit=6)
    (task,) = plan(config).tasks
    (parcel,) = parcels_of(task.samples, config.resolve())
    read = read_pieces(pieces_table(parcel), str(faces_dir), config.resolve())
    began = time.perf_counter()
    rendered = render_views(read, config.resolve())
    took = time.perf_counter() - began
    assert len(rendered) == 6 and 0 < sum(rendered["render_seconds"].to_pylist()) <= took
    assert rendered["read_seconds"] == read["read_seconds"] and rendered["encode_seconds"].null_count == 6
