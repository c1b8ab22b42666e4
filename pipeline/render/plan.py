"""Plan a render: which samples are rendered, rewritten or copied, and which shards are kept or removed.

The plan compares the samples and settings with what an earlier run left. Files are read only if their size or time
changed. Ray is not needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import Stat
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints, SourceFiles
from smile_pipe.pipeline.render.output import RenderOutput, ShardRecord
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import group_by_weight
from smile_pipe.shards.index import FailureRow, IndexRow, SourceFile
from smile_pipe.shards.manifest import SCHEMA_VERSION
from smile_pipe.shards.storage import StoragePath

NEW = "new"
SETTINGS = "the settings changed"
SHARD_GONE = "shard is missing or of another size"
FILES = "source files changed"
LABELS = "labels or prompts changed: rewritten, not rendered"
RETRIED = "failed before: tried again"
REMOVED = "source files are gone: removed"
OLD_FORMAT = f"shards of an earlier format: packed again in format {SCHEMA_VERSION}, not rendered"


@dataclass(frozen=True)
class ReusedSample:
    """A sample whose images are reused from an earlier run.

    Attributes:
        row: the sample in the index.
        source: the sample's files and labels, if its record and prompt have to be rewritten; None copies the sample.
    """

    row: IndexRow
    source: SampleSource | None = None


@dataclass(frozen=True)
class ShardTask:
    """One shard to build. To build it twice gives the same bytes.

    Attributes:
        name: file name of the shard.
        samples: samples to render.
        reused: samples whose images are taken from the shard's earlier version.
        failures: failures of samples that are not tried again.
    """

    name: str
    samples: tuple[SampleSource, ...]
    reused: tuple[ReusedSample, ...] = ()
    failures: tuple[FailureRow, ...] = ()


@dataclass(frozen=True)
class RenderPlan:
    """The work of one run.

    Attributes:
        layout: name of the layout that found the samples.
        samples: all samples that the output will hold.
        tasks: shards to build.
        kept: records of the shards that stay unchanged.
        removed: names of shards that hold no wanted sample.
        reasons: number of samples by the reason for their work.
        touched: whether files of kept shards have new times and the same content, so that the index is rewritten.
        evidence: why this layout was chosen.
        ignored: which files of the data directory are left out, in a few lines.
        settings: the settings of the output.
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
    settings: RenderSettings | None = None

    @property
    def num_to_render(self) -> int:
        """Number of samples to render."""
        return sum(len(task.samples) for task in self.tasks)

    @property
    def num_to_rewrite(self) -> int:
        """Number of samples that get a new record and prompt around the images that they have."""
        return sum(reused.source is not None for task in self.tasks for reused in task.reused)

    @property
    def num_to_copy(self) -> int:
        """Number of samples that are copied because other samples of their shard changed, or its format."""
        return sum(reused.source is None for task in self.tasks for reused in task.reused)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do, except perhaps to update times in the index."""
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
    """Compare the wanted samples with what an earlier run left.

    A sample stays in its shard; new samples go to new shards, so that existing shards keep their bytes.

    Args:
        root: the data directory.
        samples: the wanted samples, sorted by key.
        fingerprints: of the wanted settings.
        output: the output directory.
        samples_per_shard: capacity of a new shard.
        weight: how many scans a sample counts for when a shard is filled.
        retry_failed: try failed samples again even if nothing changed.
        verify_sources: read all files, whatever their size and time.
        known: the records of `output`, if they have been read already.
        stats: size and time of each file, if the data directory has been listed already.
    """
    known = output.read_records() if known is None else known
    records = {record.name: record for record in known if record.settings == fingerprints.images_settings}
    sizes = output.shard_sizes()
    outdated = [name for name in sorted(sizes) if name not in records]
    shards = _Shards(SourceFiles(root, verify_sources, stats), samples, fingerprints, sizes, retry_failed)
    for record in records.values():
        shards.add(record)
    new = [sample for sample in samples if sample.key not in shards.placed]
    if new:
        shards.reasons[SETTINGS if len(known) > len(records) else NEW] = len(new)
    # Gaps are filled first: several shards are written at a time, so an interrupted run may lack one between
    # others, and a resumed run has to end with the same files as one that was never interrupted.
    free = (name for number in count() if (name := f"{number:06d}.tar") not in records)
    tasks = shards.tasks + [
        ShardTask(next(free), tuple(members)) for members in group_by_weight(new, samples_per_shard, weight)
    ]
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
    """Decides for each shard of an earlier run whether it is kept, rebuilt or removed."""

    def __init__(
        self,
        files: SourceFiles,
        samples: Sequence[SampleSource],
        fingerprints: SampleFingerprints,
        sizes: Mapping[str, int],
        retry_failed: bool,
    ) -> None:
        self.files, self.fingerprints, self.sizes, self.retry_failed = files, fingerprints, sizes, retry_failed
        self.wanted = {sample.key: sample for sample in samples}
        self.placed: set[str] = set()
        self.kept: list[ShardRecord] = []
        self.tasks: list[ShardTask] = []
        self.removed: list[str] = []
        self.reasons: dict[str, int] = {}
        self.touched = False

    def add(self, record: ShardRecord) -> None:
        """Keep, rebuild or remove a shard, and read those of its source files that changed."""
        # Once: each access to the rows of a finished run creates them.
        rows_before = tuple(record.rows)
        before: list[IndexRow | FailureRow] = [*rows_before, *record.failures]
        wanted = {row.key: sample for row in before if (sample := self.wanted.get(row.key)) is not None}
        self.placed.update(wanted)
        self._load_changed_files(before, wanted)
        if not wanted:
            self.removed.append(record.name)
            self._count(REMOVED, len(before))
            return
        if record.entry is not None and self.sizes.get(record.name) != record.entry.bytes:
            self._count(SHARD_GONE, len(wanted))
            self._rebuild(record, [*wanted.values()], (), ())
            return
        rows = [row for row in rows_before if row.key in wanted]
        failures = [failure for failure in record.failures if failure.key in wanted]
        reused = [again for row in rows if (again := self._reuse(row, wanted[row.key])) is not None]
        still_failed = [failure for failure in failures if self._stays_failed(failure, wanted[failure.key])]
        not_rendered = {sample.row.key for sample in reused} | {failure.key for failure in still_failed}
        to_render = [sample for key, sample in wanted.items() if key not in not_rendered]
        num_removed = len(before) - len(wanted)
        self._count(REMOVED, num_removed)
        # Update the times of the files of failures too, or these files would be read by each run.
        still_failed = [self._with_current_sources(failure) for failure in still_failed]
        is_outdated = record.entry is not None and record.schema_version < SCHEMA_VERSION
        if is_outdated:
            self._count(OLD_FORMAT, sum(sample.source is None for sample in reused))
        if is_outdated or to_render or num_removed or any(sample.source is not None for sample in reused):
            self._rebuild(record, to_render, reused, still_failed)
        else:
            rows_now, failures_now = tuple(sample.row for sample in reused), tuple(still_failed)
            if (rows_now, failures_now) != (rows_before, record.failures):
                self.touched = True
                record = replace(record, rows=rows_now, failures=failures_now)
            self.kept.append(record)

    def _reuse(self, row: IndexRow, sample: SampleSource) -> ReusedSample | None:
        """How a sample's images can be reused; None if they have to be rendered."""
        files = self._files_of(row, sample)
        if files == row.sources and self.fingerprints.whole(sample, row.images, files) == row.fingerprint:
            return ReusedSample(row)
        images = self.fingerprints.images(sample, files)
        if images != row.images:
            self._count(FILES)
            return None
        # Times may differ although the content is the same; update the index, or the files would be read by each run.
        current = row if files == row.sources else replace(row, sources=files)
        if self.fingerprints.whole(sample, images, files) == row.fingerprint:
            return ReusedSample(current)
        self._count(LABELS)
        return ReusedSample(current, sample)

    def _stays_failed(self, failure: FailureRow, sample: SampleSource) -> bool:
        files = self._files_of(failure, sample)
        same = self.fingerprints.whole(sample, self.fingerprints.images(sample, files), files) == failure.fingerprint
        if self.retry_failed or not same:
            self._count(RETRIED if same else FILES)
        return same and not self.retry_failed

    def _with_current_sources(self, failure: FailureRow) -> FailureRow:
        return failure.model_copy(update={"sources": self._files_of(failure, self.wanted[failure.key])})

    def _load_changed_files(self, before: Sequence[IndexRow | FailureRow], wanted: Mapping[str, SampleSource]) -> None:
        changed = [row for row in before if row.key in wanted and not self._is_unchanged(row, wanted[row.key])]
        self.changed = {row.key for row in changed}
        paths = (path for row in changed for path in (*wanted[row.key].paths, *_named_paths(row)))
        self.files.load(paths, (file for row in before for file in row.sources))

    def _is_unchanged(self, before: IndexRow | FailureRow, sample: SampleSource) -> bool:
        """Whether a sample has the same files as before, with the same sizes and times."""
        paths = tuple([file.path for file in before.sources if not file.named])
        return paths == sample.paths and self.files.are_unchanged(before.sources)

    def _files_of(self, before: IndexRow | FailureRow, sample: SampleSource) -> tuple[SourceFile, ...]:
        if before.key not in self.changed:
            return before.sources
        own = [self.files[path] for path in sample.paths]
        return (*own, *(replace(self.files[path], named=True) for path in _named_paths(before)))

    def _rebuild(
        self,
        record: ShardRecord,
        render: Sequence[SampleSource],
        reused: Sequence[ReusedSample],
        failures: Sequence[FailureRow],
    ) -> None:
        samples = tuple(sorted(render, key=lambda sample: sample.key))
        self.tasks.append(ShardTask(record.name, samples, tuple(reused), tuple(failures)))

    def _count(self, reason: str, num_samples: int = 1) -> None:
        if num_samples:
            self.reasons[reason] = self.reasons.get(reason, 0) + num_samples


def _named_paths(before: IndexRow | FailureRow) -> list[str]:
    """Paths of the files that only another file of the sample names."""
    return [file.path for file in before.sources if file.named]
