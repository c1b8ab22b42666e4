"""The Ray Data job of a render: pieces of samples stream through read, render and encode; a task writes each shard.

A parcel, a few pieces of one shard, is one block, and no operator joins or splits blocks; so blocks leave in the order
of the samples, and the driver tells by counting rows when all of a shard have come. It hands their references, not
their bytes, to the task that writes the shard. On CPUs Ray fuses the three operators into one task, and nothing
travels; with GPUs the reading and encoding stay on CPUs while actors render.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayTaskError

from pipeline.making.limits import Limits
from pipeline.making.operators import Row, encode_pieces, pieces_table, read_pieces, render_views
from pipeline.making.pieces import parcels_of, pieces_of
from pipeline.making.samples import Made, made_from, rewritten
from pipeline.planning.output import RenderOutput, ShardReceipt
from pipeline.planning.plan import ShardTask
from pipeline.render_settings import RenderSettings
from shards.index import IndexRow
from shards.reader import ShardError, read_members
from shards.sample import SampleRecord, from_members
from shards.writer import PackedSample, digest_of, pack, write_shard

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
    root: Path,
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
    tasks: Sequence[ShardTask], root: Path, settings: RenderSettings, limits: dict[str, Any]
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
    task: ShardTask, root: Path, layout: str, settings: RenderSettings, out: Path, *blocks: pa.Table
) -> ShardReceipt:
    rows = [row for block in blocks for row in block.to_pylist()]
    return write_task(task, root, layout, settings, RenderOutput(out), rows)


def write_task(
    task: ShardTask, root: Path, layout: str, settings: RenderSettings, output: RenderOutput, rows: Sequence[Row]
) -> ShardReceipt:
    """Write one shard from encoded rows and from what is reused of it, and its receipt once it has its final name."""
    made = list(made_from(rows, layout, settings))
    entries: list[tuple[PackedSample, IndexRow]] = [
        (pack(one.sample), _index_row(task.name, one, one.sample.record)) for one in made if one.sample is not None
    ]
    for reused in task.reused:
        content = _content(output.shards / task.name, reused.row)
        if reused.source is None:
            entries.append((PackedSample(content, reused.row.fingerprint), reused.row))
            continue
        before = from_members(read_members(content, task.name))
        again = rewritten(reused.source, reused.row, before, settings, root)
        made.append(again)
        if again.sample is not None:
            entries.append((pack(again.sample), _index_row(task.name, again, again.sample.record)))
    entries.sort(key=lambda entry: entry[1].key)
    # An old receipt beside a new shard would vouch for it, should this task be killed between the two.
    output.forget_receipt(task.name)
    path = output.shards / task.name
    entry, locations = write_shard(path, [packed for packed, _ in entries]) if entries else (None, [])
    if entry is None:
        path.unlink(missing_ok=True)
    failures = [*task.failures, *(one.failure_row(task.name) for one in made if one.sample is None)]
    receipt = ShardReceipt(
        name=task.name,
        settings=settings.images_fingerprint,
        entry=entry,
        rows=tuple(replace(row, **vars(at)) for (_, row), at in zip(entries, locations, strict=True)),
        failures=tuple(sorted(failures, key=lambda failure: failure.key)),
    )
    output.write_receipt(receipt)
    return receipt


def _content(path: Path, row: IndexRow) -> bytes:
    """The bytes of a sample in the shard that is there.

    Raises:
        ShardError: they are not what was written.
    """
    with open(path, "rb") as file:
        file.seek(row.offset)
        content = file.read(row.bytes)
    if digest_of(content) != row.digest:
        raise ShardError(f"{path}: {row.key} is damaged and cannot be used again; delete this shard, then render again")
    return content


def _index_row(shard: str, made: Made, record: SampleRecord) -> IndexRow:
    """The row of a sample; where it lies is filled in when the shard is written."""
    same = ("key", "subject", "expression", "level", "labels", "layout", "fingerprint")
    return IndexRow(
        **{name: getattr(record, name) for name in same},
        num_frames=1 if record.timeline is None else len(record.timeline.frames),
        frame_rate=0.0 if record.timeline is None else record.timeline.frame_rate,
        shard=shard,
        offset=0,
        bytes=0,
        digest="",
        images=made.images,
        framed_by=record.frame.method,
        surface=record.mesh.surface,
        sources=made.files,
    )
