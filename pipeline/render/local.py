"""The render job without Ray, in this process: for places that no other process sees, such as memory://.

The operators are those of the Ray job, and so is what they give. A sample's limits are not kept here, since to break
them ends the process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from smile_pipe.pipeline.render.operators import Row, make_pieces, pieces_table
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import WrittenShard
from smile_pipe.pipeline.render.units import WorkUnit, batch_units, split_into_units
from smile_pipe.pipeline.render.writing import write_task
from smile_pipe.shards.storage import StoragePath


def render_shards_in_process(
    tasks: Sequence[ShardTask], root: StoragePath, layout: str, settings: RenderSettings, output: RenderOutput
) -> Iterator[int | WrittenShard]:
    """Make the shards of `tasks`, one after the other; yields what `job.render_shards` does."""
    for task in tasks:
        rows: list[Row] = []
        for parcel in batch_units(task.samples, settings):
            rows += build_in_process(parcel, root, settings)
            yield sum(piece.stop == split_into_units(piece.sample, settings)[-1].stop for piece in parcel)
        yield write_task(replace(task, samples=()), root, layout, settings, output, rows)


def build_in_process(parcel: Sequence[WorkUnit], root: StoragePath, settings: RenderSettings) -> list[Row]:
    """The encoded rows of a parcel: what the operator gives for it."""
    return make_pieces(pieces_table(parcel), root, settings).to_pylist()
