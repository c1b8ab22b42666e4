"""The render job without Ray, in this process: for places that no other process sees, such as memory://.

The operators are those of the Ray job, and so is what they give. A sample's limits are not kept here, since to break
them ends the process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.making.operators import Row, make_pieces, pieces_table
from pipeline.making.pieces import Piece, parcels_of, pieces_of
from pipeline.making.workers import Written
from pipeline.making.writing import write_task
from pipeline.planning.output import RenderOutput
from pipeline.planning.plan import ShardTask
from pipeline.render_settings import RenderSettings
from shards.places import Place


def render_shards_here(
    tasks: Sequence[ShardTask], root: Place, layout: str, settings: RenderSettings, output: RenderOutput
) -> Iterator[int | Written]:
    """Make the shards of `tasks`, one after the other; yields what `pipeline.making.job.render_shards` does."""
    for task in tasks:
        rows: list[Row] = []
        for parcel in parcels_of(task.samples, settings):
            rows += made_here(parcel, root, settings)
            yield sum(piece.stop == pieces_of(piece.sample, settings)[-1].stop for piece in parcel)
        yield write_task(replace(task, samples=()), root, layout, settings, output, rows)


def made_here(parcel: Sequence[Piece], root: Place, settings: RenderSettings) -> list[Row]:
    """The encoded rows of a parcel: what the operator gives for it."""
    return make_pieces(pieces_table(parcel), root, settings).to_pylist()
