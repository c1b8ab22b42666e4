"""The Ray Data job of a render: pieces of samples stream through read, render and encode; a task writes each shard.

Some parcels of one shard, a few pieces each, are one block, and no operator joins or splits blocks; so blocks leave in
the order of the samples, and the driver tells by counting rows when all of a shard have come. It hands their
references, not their bytes, to the task that writes the shard. On CPUs one operator does all three, a piece at a time;
with GPUs the reading and encoding stay on CPUs while actors render.

Ray makes again what a worker or a node takes with it when it dies, but not what an actor made that is gone: then the
shards that are not written yet are begun anew.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.operators import encode_pieces, make_pieces, pieces_table, read_pieces, render_views
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import Workers, WrittenShard
from smile_pipe.pipeline.render.units import batch_units, split_into_units
from smile_pipe.pipeline.render.writing import write_task
from smile_pipe.pipeline.rendering.backend import ON_GPUS
from smile_pipe.shards.manifest import fingerprint
from smile_pipe.shards.storage import StoragePath

# Shards being written while others are rendered; bounds what waits in memory.
MAX_WRITES = 4
# How often in a row the job is begun without a shard being written, before it is given up.
MAX_ATTEMPTS = 3
# A worker waits about 0.2 s for its next task. With as many parcels in one it seldom does; but each worker shall have a
# few tasks, or some would be done long before the others.
MAX_TOGETHER = 4
TASKS_A_WORKER = 4
# What Ray says of blocks that it cannot make again.
LOST = (NodeDiedError, ObjectLostError, RayActorError, RaySystemError, WorkerCrashedError)


class RenderOnGpu:
    """`render_views` as an actor, so that a GPU's context is built once."""

    def __init__(self, settings: RenderSettings) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table) -> pa.Table:
        """See `smile_pipe.pipeline.render.operators.render_views`."""
        return render_views(table, self.settings)


def workers_of(settings: RenderSettings) -> Workers:
    """What the connected cluster has for a render.

    Counted once: to begin anew where no GPU is left for the moment is to wait for one, not to render on CPUs.
    """
    found = ray.cluster_resources()
    num_gpus = int(found.get("GPU", 0)) if settings.renderer in ON_GPUS else 0
    return Workers(max(int(found.get("CPU", 1)), 1), num_gpus)


def render_shards(
    tasks: Sequence[ShardTask],
    root: StoragePath,
    layout: str,
    settings: RenderSettings,
    output: RenderOutput,
    limits: Limits,
    workers: Workers,
) -> Iterator[int | WrittenShard]:
    """Make the shards of `tasks`: yields a number of samples whenever some are rendered, and each shard once written.

    Ray must be connected. A worker that dies has its parcels done again; where that is not enough, the number of
    samples that have to be rendered again is yielded, negative, and the job begun anew.

    Raises:
        OSError, ShardError: what kept a task from writing.
        RayError: nodes die faster than shards are written.
    """
    left, attempts = list(tasks), 0
    while left:
        written: set[str] = set()
        num_rendered = 0
        try:
            for event in _render_once(left, root, layout, settings, output, limits, workers):
                if isinstance(event, WrittenShard):
                    written.add(event.receipt.name)
                else:
                    num_rendered += event
                yield event
            return
        except RayError as error:
            attempts = 0 if written else attempts + 1
            if attempts >= MAX_ATTEMPTS or not isinstance(_cause(error), LOST):
                raise
        num_rendered -= sum(len(task.samples) for task in left if task.name in written)
        yield -num_rendered
        left = [task for task in left if task.name not in written]


def _render_once(
    tasks: Sequence[ShardTask],
    root: StoragePath,
    layout: str,
    settings: RenderSettings,
    output: RenderOutput,
    limits: Limits,
    workers: Workers,
) -> Iterator[int | WrittenShard]:
    writing: list[ray.ObjectRef] = []
    watched = {"limits": limits, "marks": _marks(output)}
    with closing(_encoded_blocks(tasks, root, settings, watched, workers)) as blocks:
        try:
            for task in tasks:
                refs: list[ray.ObjectRef] = []
                completes = _completes(task, settings)
                while completes:
                    ref, num_rows = next(blocks)
                    refs.append(ref)
                    yield sum(completes[:num_rows])
                    del completes[:num_rows]
                if len(writing) >= MAX_WRITES:
                    done, writing = ray.wait(writing, num_returns=1)
                    yield from _written(done)
                bare = replace(task, samples=())
                writing.append(_write_task.remote(bare, root, layout, settings, output.root, *refs))
            yield from _written(writing)
            # To its end, at which Ray Data puts its threads away.
            next(blocks, None)
        except RayError:
            # To their end, too: nobody may be writing a shard while it is made again.
            for ref in writing:
                with suppress(RayError):
                    yield ray.get(ref)
            raise


def _completes(task: ShardTask, settings: RenderSettings) -> list[bool]:
    """For each piece of the task's samples, whether its sample is complete with it."""
    pieces = (split_into_units(sample, settings) for sample in task.samples)
    return [piece is of_sample[-1] for of_sample in pieces for piece in of_sample]


def _marks(output: RenderOutput) -> str:
    """Where workers note what they are at: beside the shards, or, as a storage would be slow, in Ray's own folder.

    That folder, which is the workers' current one, is a node's own, so there a sample may cost two workers a node.
    """
    if output.deaths.is_local:
        return str(output.deaths)
    return f".deaths-{fingerprint(str(output.root))}"


def _written(refs: Sequence[ray.ObjectRef]) -> list[WrittenShard]:
    """Shards whose tasks are done.

    Raises:
        OSError, ShardError: what kept a task from writing.
    """
    try:
        return ray.get(list(refs))
    except RayTaskError as error:
        raise _cause(error) from None


def _cause(error: RayError) -> Exception:
    """What kept a worker from its work, without the trace that Ray wraps it in."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error


def _encoded_blocks(
    tasks: Sequence[ShardTask], root: StoragePath, settings: RenderSettings, limits: dict[str, Any], workers: Workers
) -> Generator[tuple[ray.ObjectRef, int], None, None]:
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    tables = _tables(tasks, settings, workers)
    if not tables:
        return
    arrow: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    dataset, where = ray.data.from_arrow(tables), {"root": str(root), "settings": settings, **limits}
    if workers.gpus:
        pool = ActorPoolStrategy(min_size=1, max_size=workers.gpus)
        dataset = dataset.map_batches(read_pieces, fn_kwargs=where, **arrow)
        # `map_batches` wants a number of rows with GPUs, and would join blocks until they have as many.
        dataset = dataset.map_batches_internal(
            RenderOnGpu, fn_constructor_args=(settings,), compute=pool, num_gpus=1, **arrow
        )
        dataset = dataset.map_batches(encode_pieces, fn_kwargs={"settings": settings}, **arrow)
    else:
        dataset = dataset.map_batches(make_pieces, fn_kwargs=where, **arrow)
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            yield block.ref, block.metadata.num_rows


def _tables(tasks: Sequence[ShardTask], settings: RenderSettings, workers: Workers) -> list[pa.Table]:
    """The pieces of all shards, as much together as one task of Ray shall do."""
    parcels = [list(batch_units(task.samples, settings)) for task in tasks]
    together = 1
    if not workers.gpus:
        together = min(max(sum(map(len, parcels)) // (TASKS_A_WORKER * workers.cores), 1), MAX_TOGETHER)
    return [
        pieces_table(chain.from_iterable(of_shard[start : start + together]))
        for of_shard in parcels
        for start in range(0, len(of_shard), together)
    ]


# A core each, though it mostly waits for the disk: beside workers that have all cores Ray would start another one for
# each shard, for seconds, and take it away again.
@ray.remote(num_cpus=1, max_retries=3)
def _write_task(
    task: ShardTask, root: StoragePath, layout: str, settings: RenderSettings, out: StoragePath, *blocks: pa.Table
) -> WrittenShard:
    rows = [row for block in blocks for row in block.to_pylist()]
    return write_task(task, root, layout, settings, RenderOutput(out), rows)
