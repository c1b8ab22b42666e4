"""What a render has to do: which samples are rendered, which are written anew or copied, which shards stay or go.

Goes in: the samples found, the marks of the settings, and what an earlier run left. Comes out: a `RenderPlan`. It reads
files only where their size or time changed, and does not need Ray.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import Stat
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints, SourceFiles
from smile_pipe.pipeline.render.output import RenderOutput, ShardRecord
from smile_pipe.shards.index import FailureRow, IndexRow, SourceFile
from smile_pipe.shards.storage import StoragePath

NEW = "new"
SETTINGS = "the settings changed"
SHARD_GONE = "their shard is missing or of another size"
FILES = "source files changed"
LABELS = "labels or prompts changed: rewritten, not rendered"
RETRIED = "failed before, tried again"
REMOVED = "no longer there: removed"


@dataclass(frozen=True)
class ReusedSample:
    """A sample whose images an earlier run made; where its record is outdated, that is written anew from `source`."""

    row: IndexRow
    source: SampleSource | None = None


@dataclass(frozen=True)
class ShardTask:
    """One shard to make: the unit of work, safe to do twice.

    Attributes:
        samples: those that are rendered.
        reused: those whose bytes are taken from the shard as it is.
        failures: of samples that failed and are not tried again.
    """

    name: str
    samples: tuple[SampleSource, ...]
    reused: tuple[ReusedSample, ...] = ()
    failures: tuple[FailureRow, ...] = ()


@dataclass(frozen=True)
class RenderPlan:
    """The work of one run.

    Attributes:
        layout: the layout that found the samples.
        samples: all samples that the output shall hold.
        tasks: shards to make.
        kept: receipts of the shards that stay untouched.
        removed: names of shards that no sample belongs to any more.
        reasons: why there is something to do, as reason -> number of samples.
        touched: whether files of kept shards have other times than the index says, and the same content.
        evidence: why this layout.
        ignored: what of the data directory is left out, in a few lines.
    """

    layout: str
    samples: tuple[SampleSource, ...]
    tasks: tuple[ShardTask, ...]
    kept: tuple[ShardRecord, ...]
    removed: tuple[str, ...]
    reasons: Mapping[str, int]
    touched: bool = False
    evidence: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def num_to_render(self) -> int:
        """Samples that are rendered."""
        return sum(len(task.samples) for task in self.tasks)

    @property
    def num_to_rewrite(self) -> int:
        """Samples whose record and prompt are written anew around the images that they have."""
        return sum(reused.source is not None for task in self.tasks for reused in task.reused)

    @property
    def num_to_copy(self) -> int:
        """Samples whose bytes are copied because others of their shard changed."""
        return sum(reused.source is None for task in self.tasks for reused in task.reused)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do but perhaps to note new times."""
        return not self.tasks and not self.removed


def plan_shards(
    root: StoragePath,
    samples: Sequence[SampleSource],
    fingerprints: SampleFingerprints,
    output: RenderOutput,
    samples_per_shard: int,
    weight: Callable[[SampleSource], int] = lambda sample: 1,
    retry_failed: bool = False,
    verify_sources: bool = False,
    known: Sequence[ShardRecord] | None = None,
    stats: Mapping[str, Stat] | None = None,
) -> RenderPlan:
    """Compare what is wanted with what an earlier run left.

    A sample stays in the shard where it is; new samples go to new shards, so that existing ones keep their bytes.

    Args:
        root: the data directory.
        samples: what is wanted, by key.
        marks: of the settings that are wanted.
        output: what is there.
        samples_per_shard: how much a new shard holds.
        weight: how many scans a sample counts for when a shard is filled.
        retry_failed: try what failed again, though nothing changed.
        verify_sources: read all files, whatever their size and time.
        known: the receipts of `output`, where they have been read already.
        stats: size and time of each file, where listing the data directory told.
    """
    known = output.read_records() if known is None else known
    records = {record.name: record for record in known if record.settings == fingerprints.images_settings}
    sizes = output.shard_sizes()
    outdated = [name for name in sorted(sizes) if name not in records]
    shards = _Shards(root, samples, fingerprints, sizes, retry_failed)
    shards.look([*records.values()], verify_sources, stats)
    for record in records.values():
        shards.add(record)
    new = [sample for sample in samples if sample.key not in shards.placed]
    if new:
        shards.reasons[SETTINGS if len(known) > len(records) else NEW] = len(new)
    # Gaps are filled first: several shards are written at a time, so an interrupted run may have left out one between
    # others, and whoever goes on shall arrive at the same files as who was never interrupted.
    free = (name for number in count() if (name := f"{number:06d}.tar") not in records)
    tasks = shards.tasks + [ShardTask(next(free), members) for members in _filled(new, samples_per_shard, weight)]
    taken = {task.name for task in tasks}
    return RenderPlan(
        fingerprints.layout,
        tuple(samples),
        tuple(sorted(tasks, key=lambda task: task.name)),
        tuple(shards.kept),
        (*shards.removed, *(name for name in outdated if name not in taken)),
        shards.reasons,
        shards.touched,
    )


class _Shards:
    """The shards of an earlier run, one after the other: kept, made again in part, or removed."""

    def __init__(
        self,
        root: StoragePath,
        samples: Sequence[SampleSource],
        fingerprints: SampleFingerprints,
        sizes: Mapping[str, int],
        retry_failed: bool,
    ) -> None:
        self.root, self.fingerprints, self.sizes, self.retry_failed = root, fingerprints, sizes, retry_failed
        self.wanted = {sample.key: sample for sample in samples}
        self.placed: set[str] = set()
        self.kept: list[ShardRecord] = []
        self.tasks: list[ShardTask] = []
        self.removed: list[str] = []
        self.reasons: dict[str, int] = {}
        self.touched = False

    def look(self, records: Sequence[ShardRecord], verify: bool, stats: Mapping[str, Stat] | None) -> None:
        """Look at the files of all samples that are wanted and were there before."""
        found = [before for record in records for before in _samples_of(record)]
        self.files = SourceFiles(self.root, (file for before in found for file in before.sources), verify, stats)
        changed = [
            (before, sample)
            for before in found
            if (sample := self.wanted.get(before.key)) is not None and not self._is_as_it_was(before, sample)
        ]
        self.changed = {before.key for before, _ in changed}
        self.files.look(path for before, sample in changed for path in (*sample.paths, *_named(before)))

    def add(self, record: ShardRecord) -> None:
        """Decide what becomes of a shard."""
        before = _samples_of(record)
        there = {row.key: sample for row in before if (sample := self.wanted.get(row.key)) is not None}
        self.placed.update(there)
        if not there:
            self.removed.append(record.name)
            self._because(REMOVED, len(before))
            return
        if record.entry is not None and self.sizes.get(record.name) != record.entry.bytes:
            self._because(SHARD_GONE, len(there))
            self._make(record, [*there.values()], (), ())
            return
        rows = [row for row in record.rows if row.key in there]
        failures = [failure for failure in record.failures if failure.key in there]
        reused = [again for row in rows if (again := self._reused(row, there[row.key])) is not None]
        same = [failure for failure in failures if self._stays_failed(failure, there[failure.key])]
        stay = {again.row.key for again in reused} | {failure.key for failure in same}
        render = [sample for key, sample in there.items() if key not in stay]
        gone = len(before) - len(there)
        self._because(REMOVED, gone)
        # A failure, too, shall know the times that its files have now.
        same = [self._refreshed(failure) for failure in same]
        if render or gone or any(again.source is not None for again in reused):
            self._make(record, render, reused, same)
        else:
            self._keep(record, tuple(again.row for again in reused), tuple(same))

    def _reused(self, row: IndexRow, sample: SampleSource) -> ReusedSample | None:
        """How a sample's images can be used again; None where they have to be rendered."""
        files = self._files_of(row, sample)
        if files == row.sources and self.fingerprints.whole(sample, row.images, files) == row.fingerprint:
            return ReusedSample(row)
        images = self.fingerprints.images(sample, files)
        if images != row.images:
            self._because(FILES)
            return None
        # Times may differ though the content does not; the index shall know of it, or they are read each time.
        current = row if files == row.sources else replace(row, sources=files)
        if self.fingerprints.whole(sample, images, files) == row.fingerprint:
            return ReusedSample(current)
        self._because(LABELS)
        return ReusedSample(current, sample)

    def _stays_failed(self, failure: FailureRow, sample: SampleSource) -> bool:
        files = self._files_of(failure, sample)
        same = self.fingerprints.whole(sample, self.fingerprints.images(sample, files), files) == failure.fingerprint
        if self.retry_failed or not same:
            self._because(RETRIED if same else FILES)
        return same and not self.retry_failed

    def _refreshed(self, failure: FailureRow) -> FailureRow:
        return failure.model_copy(update={"sources": self._files_of(failure, self.wanted[failure.key])})

    def _is_as_it_was(self, before: IndexRow | FailureRow, sample: SampleSource) -> bool:
        """Whether a sample has the files that it had, and all have the size and the time that they had."""
        paths = tuple([file.path for file in before.sources if not file.named])
        return paths == sample.paths and self.files.are_as_recorded(before.sources)

    def _files_of(self, before: IndexRow | FailureRow, sample: SampleSource) -> tuple[SourceFile, ...]:
        if before.key not in self.changed:
            return before.sources
        mine = [self.files[path] for path in sample.paths]
        return (*mine, *(replace(self.files[path], named=True) for path in _named(before)))

    def _keep(self, record: ShardRecord, rows: tuple[IndexRow, ...], failures: tuple[FailureRow, ...]) -> None:
        if (rows, failures) != (record.rows, record.failures):
            self.touched = True
            record = replace(record, rows=rows, failures=failures)
        self.kept.append(record)

    def _make(
        self,
        record: ShardRecord,
        render: Sequence[SampleSource],
        reused: Sequence[ReusedSample],
        failures: Sequence[FailureRow],
    ) -> None:
        samples = tuple(sorted(render, key=lambda sample: sample.key))
        self.tasks.append(ShardTask(record.name, samples, tuple(reused), tuple(failures)))

    def _because(self, reason: str, num_samples: int = 1) -> None:
        if num_samples:
            self.reasons[reason] = self.reasons.get(reason, 0) + num_samples


def _samples_of(record: ShardRecord) -> list[IndexRow | FailureRow]:
    return [*record.rows, *record.failures]


def _named(before: IndexRow | FailureRow) -> list[str]:
    """The files that are known from other files of a sample only."""
    return [file.path for file in before.sources if file.named]


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
