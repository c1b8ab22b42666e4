"""Writing one shard: encoded pieces become samples, and stand beside those whose bytes or images are used again."""

import time
from collections.abc import Sequence
from dataclasses import replace

from smile_pipe.pipeline.render.build import BuiltSample, build_samples, rewritten
from smile_pipe.pipeline.render.operators import Row
from smile_pipe.pipeline.render.output import RenderOutput, ShardRecord
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import StepSeconds, WrittenShard
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardError, read_members
from smile_pipe.shards.sample import SampleRecord, from_members
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.writer import PackedSample, digest_of, pack, write_shard


def write_task(
    task: ShardTask, root: StoragePath, layout: str, settings: RenderSettings, output: RenderOutput, rows: Sequence[Row]
) -> WrittenShard:
    """Write one shard from encoded rows and from what is reused of it, and its receipt once it has its final name."""
    began = time.perf_counter()
    made = list(build_samples(rows, layout, settings))
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
    receipt = ShardRecord(
        name=task.name,
        settings=settings.images_fingerprint,
        entry=entry,
        rows=tuple(replace(row, **vars(at)) for (_, row), at in zip(entries, locations, strict=True)),
        failures=tuple(sorted(failures, key=lambda failure: failure.key)),
    )
    output.write_receipt(receipt)
    return WrittenShard(receipt, StepSeconds.of(rows, time.perf_counter() - began))


def _content(path: StoragePath, row: IndexRow) -> bytes:
    """The bytes of a sample in the shard that is there.

    Raises:
        ShardError: they are not what was written.
    """
    content = path.read_range(row.offset, row.bytes)
    if digest_of(content) != row.digest:
        raise ShardError(f"{path}: {row.key} is damaged and cannot be used again; delete this shard, then render again")
    return content


def _index_row(shard: str, made: BuiltSample, record: SampleRecord) -> IndexRow:
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
