"""What a render has to do: which shards are kept as they are, which are (re)made, which go.

Goes in: the samples found, the settings, and what an earlier run left. Comes out: a `RenderPlan`. It looks at names,
sizes and times of files, never into them, and does not need Ray.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pipeline.layouts.layout import SampleSource
from pipeline.render_output import RenderOutput, ShardReceipt
from shards.index import SourceFile


@dataclass(frozen=True)
class ShardTask:
    """One shard to make: the unit of work, safe to do twice."""

    name: str
    samples: tuple[SampleSource, ...]


@dataclass(frozen=True)
class RenderPlan:
    """The work of one run.

    Attributes:
        layout: the layout that found the samples.
        samples: all samples that the output shall hold.
        tasks: shards to make.
        kept: receipts of the shards that stay untouched.
        removed: names of shards that no sample belongs to any more.
        reasons: why tasks are there, as reason -> number of samples.
        evidence: why this layout.
        ignored: what of the data directory is left out, in a few lines.
    """

    layout: str
    samples: tuple[SampleSource, ...]
    tasks: tuple[ShardTask, ...]
    kept: tuple[ShardReceipt, ...]
    removed: tuple[str, ...]
    reasons: Mapping[str, int]
    evidence: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def num_to_render(self) -> int:
        """Samples that the tasks hold."""
        return sum(len(task.samples) for task in self.tasks)


def plan_shards(
    root: Path,
    layout: str,
    samples: Sequence[SampleSource],
    settings_fingerprint: str,
    output: RenderOutput,
    samples_per_shard: int,
    weight: Callable[[SampleSource], int] = lambda sample: 1,
) -> RenderPlan:
    """Compare what is wanted with what an earlier run left.

    `weight` says how many scans a sample counts for when a shard is filled.

    A sample stays in the shard where it is; new samples go to new shards, so that existing ones keep their bytes.
    """
    wanted = {sample.key: sample for sample in samples}
    kept, tasks, removed, reasons = [], [], [], dict[str, int]()
    placed: set[str] = set()
    known = output.receipts()
    receipts = {r.name: r for r in known if r.settings == settings_fingerprint}
    outdated = [name for name in output.shard_names() if name not in receipts]
    for name, receipt in receipts.items():
        members = tuple(wanted[key] for key in receipt.keys if key in wanted)
        placed.update(sample.key for sample in members)
        if not members:
            removed.append(name)
        elif reason := _why_stale(root, layout, receipt, members, output):
            tasks.append(ShardTask(name, members))
            reasons[reason] = reasons.get(reason, 0) + len(members)
        else:
            kept.append(receipt)
    new = [sample for sample in samples if sample.key not in placed]
    if new:
        reasons["the settings changed" if len(known) > len(receipts) else "new"] = len(new)
    # Gaps are filled first: several shards are written at a time, so an interrupted run may have left out one between
    # others, and whoever goes on shall arrive at the same files as who was never interrupted.
    free = (name for number in count() if (name := f"{number:06d}.tar") not in receipts)
    tasks += [ShardTask(next(free), members) for members in _filled(new, samples_per_shard, weight)]
    taken = {task.name for task in tasks}
    removed += [name for name in outdated if name not in taken]
    tasks.sort(key=lambda task: task.name)
    return RenderPlan(layout, tuple(samples), tuple(tasks), tuple(kept), tuple(removed), reasons)


def _filled(
    samples: Sequence[SampleSource], capacity: int, weight: Callable[[SampleSource], int]
) -> Iterator[tuple[SampleSource, ...]]:
    """Samples in groups whose weights are within `capacity`, or that have one member."""
    group: list[SampleSource] = []
    filled = 0
    for sample in samples:
        if group and filled + weight(sample) > capacity:
            yield tuple(group)
            group, filled = [], 0
        group.append(sample)
        filled += weight(sample)
    if group:
        yield tuple(group)


def stat_source(root: Path, path: str) -> tuple[int, int]:
    """Size and modification time of a source; (-1, -1) where it cannot be had."""
    try:
        status = os.stat(root / path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _why_stale(
    root: Path, layout: str, receipt: ShardReceipt, members: Sequence[SampleSource], output: RenderOutput
) -> str | None:
    if not output.holds(receipt):
        return "their shard is missing or of another size"
    if len(members) < len(receipt.keys):
        return "samples left their shard"
    rows = {row.key: row for row in receipt.rows}
    failures = {failure.key: failure for failure in receipt.failures}
    for sample in members:
        row = rows.get(sample.key)
        if row is not None and (row.layout, row.subject, row.expression, row.level, dict(row.labels)) != (
            layout,
            sample.subject,
            sample.expression,
            sample.level,
            dict(sample.labels),
        ):
            return "labels changed"
        sources = row.sources if row is not None else failures[sample.key].sources
        if _changed(root, sample, sources):
            return "source files changed"
    return None


def _changed(root: Path, sample: SampleSource, sources: Sequence[SourceFile]) -> bool:
    if [source.path for source in sources if not source.named] != list(sample.paths):
        return True
    return any((source.size, source.mtime_ns) != stat_source(root, source.path) for source in sources)
