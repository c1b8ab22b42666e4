"""The Ray Data job of a render: units stream through read, render and encode, and a task writes each shard.

A few batches of units of one shard are one block, and no operator joins or splits blocks. So blocks arrive in the order
of the samples, and the driver knows by counting rows when all blocks of a shard have arrived. It passes their
references, not their bytes, to the task that writes the shard. On CPUs one operator does all three steps, unit by unit;
with GPUs reading and encoding stay on CPUs and actors render (`gpu_worker.py`).

Ray recomputes what is lost when a worker or a node dies, except blocks of an actor that is gone. Then the shards that
are not written yet are started again.
"""

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
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

from smile_pipe.pipeline.render.build import WrittenShard, build_shard
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.gpu_worker import RenderBatch
from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.prepare import prepare_steps
from smile_pipe.pipeline.render.process import encode_unit, process_units, read_units
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import Workers
from smile_pipe.pipeline.render.units import ProcessedUnit, batch_units, from_table, split_into_units, to_table
from smile_pipe.pipeline.rendering.backend import DeviceError
from smile_pipe.pipeline.rendering.choose_backend import GPU_RENDERERS
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

# Shards that are written while others are rendered; this bounds the blocks that wait in memory.
MAX_PENDING_WRITES = 4
# Attempts in a row in which no shard is written, before the job is given up.
MAX_ATTEMPTS = 3
# A worker waits about 0.2 s for its next task, and several batches in one task make that rare. But each worker needs a
# few tasks, or some would finish long before the others.
MAX_BATCHES_PER_TASK = 4
MIN_TASKS_PER_WORKER = 4
# What Ray raises for blocks that it cannot recompute.
LOST = (NodeDiedError, ObjectLostError, RayActorError, RaySystemError, WorkerCrashedError)


def process_batch(table: pa.Table, **arguments: Any) -> pa.Table:
    """Operator of CPUs; `arguments` are those of `smile_pipe.pipeline.render.process.process_units`."""
    return to_table(process_units((row.work for row in from_table(table)), **arguments))


def read_batch(table: pa.Table, **arguments: Any) -> pa.Table:
    """Operator before GPUs; `arguments` are those of `smile_pipe.pipeline.render.process.read_units`."""
    return to_table(read_units((row.work for row in from_table(table)), **arguments))


def encode_batch(table: pa.Table, **arguments: Any) -> pa.Table:
    """Operator after GPUs; `arguments` are those of `smile_pipe.pipeline.render.process.encode_unit`."""
    return to_table(encode_unit(unit, **arguments) for unit in from_table(table))


def workers_of(settings: RenderSettings, workers_per_gpu: int = 1) -> Workers:
    """Return the resources of the connected cluster for a render.

    They are counted once: if no GPU is left for the moment, a new attempt waits for one instead of using CPUs.

    Raises:
        UsageError: the renderer needs a GPU, and the cluster has none.
    """
    resources = ray.cluster_resources()
    cores = max(int(resources.get("CPU", 1)), 1)
    if settings.renderer not in GPU_RENDERERS:
        return Workers(cores)
    if (gpus := int(resources.get("GPU", 0))) < 1:
        raise UsageError(
            "the Ray cluster has no GPU; use `renderer=zbuffer`, or add a node with a GPU",
            field="renderer",
            value=settings.renderer,
        )
    return Workers(cores, gpus, workers_per_gpu)


def render_shards(
    tasks: Sequence[ShardTask],
    root: StoragePath,
    layout: str,
    settings: RenderSettings,
    output: RenderOutput,
    limits: Limits,
    workers: Workers,
) -> Iterator[int | WrittenShard]:
    """Build the shards of `tasks`; Ray must be connected.

    Args:
        tasks: the shards to build.
        root: the data directory.
        layout: name of the layout, for the records.
        settings: how to render.
        output: where shards are written.
        limits: limits on the reading of a unit.
        workers: what `workers_of` returned.

    Yields:
        0 when the kernels are loaded, the number of samples that were just rendered, and each shard once it is written.
        If blocks are lost that Ray cannot recompute, the number of samples that have to be rendered again, negative,
        and the job starts again.

    Raises:
        OSError, ShardError: a shard cannot be written.
        DeviceError: a GPU cannot render anything.
        RayError: nodes die faster than shards are written.
    """
    if not workers.gpus:
        _prepare(tasks, root, settings, limits, output)
    yield 0
    pending, attempts = list(tasks), 0
    while pending:
        written: set[str] = set()
        num_rendered = 0
        try:
            for event in _render_once(pending, root, layout, settings, output, limits, workers):
                if isinstance(event, WrittenShard):
                    written.add(event.record.name)
                else:
                    num_rendered += event
                yield event
            return
        except RayError as error:
            if isinstance(cause := _cause(error), DeviceError):
                # The lines after the first are advice of Ray.
                raise DeviceError(str(cause).partition("\n")[0]) from None
            attempts = 0 if written else attempts + 1
            if attempts >= MAX_ATTEMPTS or not isinstance(cause, LOST):
                raise
        num_rendered -= sum(len(task.samples) for task in pending if task.name in written)
        yield -num_rendered
        pending = [task for task in pending if task.name not in written]


def _prepare(
    tasks: Sequence[ShardTask], root: StoragePath, settings: RenderSettings, limits: Limits, output: RenderOutput
) -> None:
    """Load the kernels in workers that are then idle; on a cluster the other nodes load, or compile, their own."""
    steps = prepare_steps(tasks, root, settings, limits, _deaths_folder(output))
    with suppress(RayError):
        ray.get([_run_step.remote(step) for step in steps])


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
    reading = {"root": str(root), "settings": settings, "limits": limits, "deaths": _deaths_folder(output)}
    with closing(_encoded_blocks(tasks, settings, reading, workers)) as blocks:
        try:
            for task in tasks:
                refs: list[ray.ObjectRef] = []
                is_last = _is_last_unit(task, settings)
                while is_last:
                    ref, num_rows = next(blocks)
                    refs.append(ref)
                    yield sum(is_last[:num_rows])
                    del is_last[:num_rows]
                if len(writing) >= MAX_PENDING_WRITES:
                    done, writing = ray.wait(writing, num_returns=1)
                    yield from _written(done)
                task_without_samples = replace(task, samples=())
                writing.append(_build_shard.remote(task_without_samples, root, layout, settings, output.root, *refs))
            yield from _written(writing)
            # Exhaust the iterator, so that Ray Data stops its threads.
            next(blocks, None)
        except RayError:
            # Wait for them: a shard must not be written by two tasks at a time.
            for ref in writing:
                with suppress(RayError):
                    yield ray.get(ref)
            raise


def _is_last_unit(task: ShardTask, settings: RenderSettings) -> list[bool]:
    """For each unit of the task, whether it is the last of its sample."""
    units_by_sample = (split_into_units(sample, settings) for sample in task.samples)
    return [unit is units[-1] for units in units_by_sample for unit in units]


def _deaths_folder(output: RenderOutput) -> str:
    return output.worker_deaths(ray.get_runtime_context().get_job_id())


def _written(refs: Sequence[ray.ObjectRef]) -> list[WrittenShard]:
    """Wait for tasks and return their shards.

    Raises:
        OSError, ShardError: a shard cannot be written.
    """
    try:
        return ray.get(list(refs))
    except RayTaskError as error:
        raise _cause(error) from None


def _cause(error: RayError) -> Exception:
    """The exception that a worker raised, without the trace that Ray wraps it in."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error


def _encoded_blocks(
    tasks: Sequence[ShardTask], settings: RenderSettings, reading: dict[str, Any], workers: Workers
) -> Generator[tuple[ray.ObjectRef, int], None, None]:
    """Yield a reference to each block of encoded units, in the order of the tasks' samples, and its number of rows.

    Args:
        tasks: the shards to build.
        settings: how to render.
        reading: keyword arguments of the operator that reads.
        workers: CPUs and GPUs of the cluster.
    """
    if not (tables := _input_tables(tasks, settings, workers)):
        return
    with DataContext.current(_data_context()):
        # Not public in Ray 2.60, but all else would copy the blocks to the driver, or wait for all of them.
        for bundle in _dataset(tables, settings, reading, workers).iter_internal_ref_bundles():
            for block in bundle.blocks:
                yield block.ref, block.metadata.num_rows


def _data_context() -> DataContext:
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # So that a `DeviceError` can be recognised.
    context.raise_original_map_exception = True
    return context


def _dataset(
    tables: Sequence[pa.Table], settings: RenderSettings, reading: dict[str, Any], workers: Workers
) -> ray.data.Dataset:
    arrow: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    dataset: ray.data.Dataset = ray.data.from_arrow(list(tables))
    if workers.gpus:
        # The actors of a job that failed are in reference cycles, and have their GPUs until they are collected.
        gc.collect()
        # All start at once; those that have nothing to do end, so that a worker of a node that is lost finds a GPU.
        num_workers = min(workers.gpu_workers, len(tables))
        pool = ActorPoolStrategy(min_size=1, max_size=num_workers, initial_size=num_workers)
        dataset = dataset.map_batches(read_batch, fn_kwargs=reading, **arrow)
        # Not public in Ray 2.60, but `map_batches` requires a batch size with GPUs, and would join blocks up to it.
        # No core is reserved for them: on a node with few cores, none would be left to read.
        dataset = dataset.map_batches_internal(
            RenderBatch,
            fn_constructor_args=(settings, reading["deaths"]),
            compute=pool,
            num_cpus=0,
            num_gpus=workers.gpus_per_worker,
            **arrow,
        )
        return dataset.map_batches(encode_batch, fn_kwargs={"settings": settings}, **arrow)
    return dataset.map_batches(process_batch, fn_kwargs=reading, **arrow)


def _input_tables(tasks: Sequence[ShardTask], settings: RenderSettings, workers: Workers) -> list[pa.Table]:
    """The units of all shards, one table for each task of Ray."""
    batches_by_shard = [list(batch_units(task.samples, settings)) for task in tasks]
    num_batches = 1
    if not workers.gpus:
        num_tasks = MIN_TASKS_PER_WORKER * workers.cores
        num_batches = min(max(sum(map(len, batches_by_shard)) // num_tasks, 1), MAX_BATCHES_PER_TASK)
    return [
        to_table(map(ProcessedUnit, chain.from_iterable(batches[start : start + num_batches])))
        for batches in batches_by_shard
        for start in range(0, len(batches), num_batches)
    ]


@ray.remote(num_cpus=1, max_retries=0)
def _run_step(step: Callable[[], None]) -> None:
    step()


# One core each, though it mostly waits for the disk: with none, Ray would start an additional worker for each shard
# while all cores are busy, which takes seconds, and stop it again.
@ray.remote(num_cpus=1, max_retries=3)
def _build_shard(
    task: ShardTask, root: StoragePath, layout: str, settings: RenderSettings, out: StoragePath, *blocks: pa.Table
) -> WrittenShard:
    units = [unit for block in blocks for unit in from_table(block)]
    return build_shard(task, units, root, settings, SampleFingerprints.of(settings, layout), RenderOutput(out))
