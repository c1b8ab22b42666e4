"""The Ray Data job of a render: pieces of samples stream through read, render and encode; a task writes each shard.

A parcel, a few pieces of one shard, is one block, and no operator joins or splits blocks; so blocks leave in the order
of the samples, and the driver tells by counting rows when all of a shard have come. It hands their references, not
their bytes, to the task that writes the shard. On CPUs Ray fuses the three operators into one task, and nothing
travels; with GPUs the reading and encoding stay on CPUs while actors render.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayTaskError

from pipeline.making.limits import Limits
from pipeline.making.operators import encode_pieces, pieces_table, read_pieces, render_views
from pipeline.making.pieces import parcels_of, pieces_of
from pipeline.making.writing import write_task
from pipeline.planning.output import RenderOutput, ShardReceipt
from pipeline.planning.plan import ShardTask
from pipeline.render_settings import RenderSettings
from shards.places import Place

# Shards being written while others are rendered; bounds what waits in memory.
MAX_WRITES = 4


class RenderOnGpu:
    """`render_views` as an actor, so that a GPU's context is built once."""

    def __init__(self, settings: RenderSettings) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table) -> pa.Table:
        """See `pipeline.making.operators.render_views`."""
        return render_views(table, self.settings)


def render_shards(
    tasks: Sequence[ShardTask],
    root: Place,
    layout: str,
    settings: RenderSettings,
    output: RenderOutput,
    limits: Limits,
) -> Iterator[int | ShardReceipt]:
    """Make the shards of `tasks`: yields a number of samples whenever some are rendered, and each shard's receipt.

    Ray must be connected. A worker that dies has its parcels done again.
    """
    blocks = _encoded_blocks(tasks, root, settings, {"limits": limits, "marks": str(output.deaths)})
    writing: list[ray.ObjectRef] = []
    for task in tasks:
        refs: list[ray.ObjectRef] = []
        # For each piece, whether its sample is complete with it.
        last = [
            piece.stop == pieces[-1].stop
            for s in task.samples
            for pieces in [pieces_of(s, settings)]
            for piece in pieces
        ]
        while last:
            ref, num_rows = next(blocks)
            refs.append(ref)
            yield sum(last[:num_rows])
            del last[:num_rows]
        if len(writing) >= MAX_WRITES:
            done, writing = ray.wait(writing, num_returns=1)
            yield from _receipts(done)
        writing.append(_write_task.remote(replace(task, samples=()), root, layout, settings, output.root, *refs))
    yield from _receipts(writing)
    # To its end, at which Ray Data puts its threads away.
    next(blocks, None)


def _receipts(refs: Sequence[ray.ObjectRef]) -> list[ShardReceipt]:
    """The receipts of written shards.

    Raises:
        OSError, ShardError: what kept a task from writing, without the trace of the worker that Ray wraps it in.
    """
    try:
        return ray.get(list(refs))
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise cause from None


def _encoded_blocks(
    tasks: Sequence[ShardTask], root: Place, settings: RenderSettings, limits: dict[str, Any]
) -> Iterator[tuple[ray.ObjectRef, int]]:
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    parcels = [pieces_table(parcel) for task in tasks for parcel in parcels_of(task.samples, settings)]
    if not parcels:
        return
    arrow: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    dataset = ray.data.from_arrow(parcels).map_batches(
        read_pieces, fn_kwargs={"root": str(root), "settings": settings, **limits}, **arrow
    )
    num_gpus = int(ray.cluster_resources().get("GPU", 0)) if settings.renderer == "pytorch3d" else 0
    if num_gpus:
        pool = ActorPoolStrategy(min_size=1, max_size=num_gpus)
        dataset = dataset.map_batches(RenderOnGpu, fn_constructor_args=(settings,), compute=pool, num_gpus=1, **arrow)
    else:
        dataset = dataset.map_batches(render_views, fn_kwargs={"settings": settings}, **arrow)
    dataset = dataset.map_batches(encode_pieces, fn_kwargs={"settings": settings}, **arrow)
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            yield block.ref, block.metadata.num_rows


# Writing waits for the disk, so it asks for no core: it must not queue behind the operators, which take them all.
@ray.remote(num_cpus=0, max_retries=3)
def _write_task(
    task: ShardTask, root: Place, layout: str, settings: RenderSettings, out: Place, *blocks: pa.Table
) -> ShardReceipt:
    rows = [row for block in blocks for row in block.to_pylist()]
    return write_task(task, root, layout, settings, RenderOutput(out), rows)
