"""The Ray Data job of a render: samples stream through read, render and encode; each full shard is written by a task.

A parcel, a few samples of one shard, is one block, and no operator joins or splits blocks; so blocks leave in the order
of the samples, and the driver tells by counting rows when all of a shard have come. It hands their references, not
their bytes, to the task that writes the shard. On CPUs Ray fuses the three operators into one task, and nothing
travels; with GPUs the reading and encoding stay on CPUs while actors render.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline.layouts.layout import ScanSource
from pipeline.render_operators import SOURCES, encode_samples, read_scans, render_views, sources_table
from pipeline.render_output import RenderOutput, ShardReceipt
from pipeline.render_plan import ShardTask
from pipeline.rendering.settings import RenderSettings
from shards.failures import FailureRow
from shards.index import IndexRow
from shards.sample import Sample, SampleRecord
from shards.writer import write_shard

# Enough samples that a task outweighs its overhead, few enough that the meshes of a parcel fit in memory.
PARCEL = 16
# What the images of a parcel may take before they are encoded: large images and many views make parcels smaller.
PARCEL_BYTES = 256 << 20
BYTES_PER_PIXEL = 19
# Shards being written while others are rendered; bounds what waits in memory.
MAX_WRITES = 4


class RenderOnGpu:
    """`render_views` as an actor, so that a GPU's context is built once."""

    def __init__(self, settings: RenderSettings) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table) -> pa.Table:
        """See `pipeline.render_operators.render_views`."""
        return render_views(table, self.settings)


def render_shards(
    tasks: Sequence[ShardTask], root: Path, layout: str, settings: RenderSettings, output: RenderOutput
) -> Iterator[int | ShardReceipt]:
    """Make the shards of `tasks`: yields a number of samples whenever some are rendered, and each shard's receipt.

    Ray must be connected. A worker that dies has its parcels done again.
    """
    blocks = _encoded_blocks(tasks, root, layout, settings)
    writing: list[ray.ObjectRef] = []
    for task in tasks:
        refs, missing = [], len(task.samples)
        while missing > 0:
            ref, num_rows = next(blocks)
            refs.append(ref)
            missing -= num_rows
            yield num_rows
        if len(writing) >= MAX_WRITES:
            done, writing = ray.wait(writing, num_returns=1)
            yield from ray.get(done)
        writing.append(_write_task.remote(task.name, layout, settings, output.root, *refs))
    yield from ray.get(writing)


def parcel_size(settings: RenderSettings) -> int:
    """Samples in a parcel, so that the renderer's images of one fit in memory."""
    image_bytes = len(settings.views) * settings.size**2 * BYTES_PER_PIXEL
    return max(1, min(PARCEL, PARCEL_BYTES // image_bytes))


def _encoded_blocks(
    tasks: Sequence[ShardTask], root: Path, layout: str, settings: RenderSettings
) -> Iterator[tuple[ray.ObjectRef, int]]:
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    size = parcel_size(settings)
    parcels = [
        sources_table(task.samples[start : start + size])
        for task in tasks
        for start in range(0, len(task.samples), size)
    ]
    arrow: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    dataset = ray.data.from_arrow(parcels).map_batches(read_scans, fn_kwargs={"root": str(root)}, **arrow)
    num_gpus = int(ray.cluster_resources().get("GPU", 0)) if settings.renderer == "pytorch3d" else 0
    if num_gpus:
        pool = ActorPoolStrategy(min_size=1, max_size=num_gpus)
        dataset = dataset.map_batches(RenderOnGpu, fn_constructor_args=(settings,), compute=pool, num_gpus=1, **arrow)
    else:
        dataset = dataset.map_batches(render_views, fn_kwargs={"settings": settings}, **arrow)
    dataset = dataset.map_batches(encode_samples, fn_kwargs={"settings": settings, "layout": layout}, **arrow)
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            yield block.ref, block.metadata.num_rows


# Writing waits for the disk, so it asks for no core: it must not queue behind the operators, which take them all.
@ray.remote(num_cpus=0, max_retries=3)
def _write_task(name: str, layout: str, settings: RenderSettings, out: Path, *blocks: pa.Table) -> ShardReceipt:
    rows = [row for block in blocks for row in block.to_pylist()]
    return write_rows(name, layout, settings, RenderOutput(out), rows)


def write_rows(
    name: str, layout: str, settings: RenderSettings, output: RenderOutput, rows: Sequence[dict[str, Any]]
) -> ShardReceipt:
    """Write the encoded rows of one shard, and its receipt once the shard has its final name."""
    good = [row for row in rows if row["failure"] is None]
    samples = [_sample(row) for row in good]
    # An old receipt beside a new shard would vouch for it, should this task be killed between the two.
    output.forget_receipt(name)
    entry, locations = write_shard(output.shards / name, samples) if samples else (None, [])
    if entry is None:
        (output.shards / name).unlink(missing_ok=True)
    receipt = ShardReceipt(
        name=name,
        settings=settings.fingerprint,
        entry=entry,
        rows=tuple(
            IndexRow(
                **{f: getattr(s.record, f) for f in ("key", "subject", "expression", "level", "labels", "fingerprint")},
                layout=layout,
                shard=name,
                offset=location.offset,
                bytes=location.bytes,
                framed_by=s.record.frame.method,
                surface=s.record.mesh.surface,
                sources=SOURCES.validate_json(row["sources"]),
            )
            for s, location, row in zip(samples, locations, good, strict=True)
        ),
        failures=tuple(_failure_row(name, row) for row in rows if row["failure"] is not None),
    )
    output.write_receipt(receipt)
    return receipt


def _sample(row: dict[str, Any]) -> Sample:
    record = SampleRecord.model_validate_json(row["record"])
    names = [(camera.name, channel) for camera in record.cameras for channel in record.channels]
    return Sample(record, row["text"], dict(zip(names, row["members"], strict=True)))


def _failure_row(shard: str, row: dict[str, Any]) -> FailureRow:
    source = ScanSource(**json.loads(row["source"]))
    failure = json.loads(row["failure"])
    sources = SOURCES.validate_json(row["sources"] or "[]")
    return FailureRow(key=source.key, source=source.mesh, shard=shard, sources=sources, **failure)
