"""A data directory and an output directory for tests of plans, without meshes, images or Ray."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints, read_source
from smile_pipe.pipeline.render.output import RenderOutput, ShardRecord
from smile_pipe.pipeline.render.plan import RenderPlan, ShardTask, plan_shards
from smile_pipe.shards.index import FailureRow, IndexRow, SourceFile
from smile_pipe.shards.manifest import SCHEMA_VERSION, ShardManifest, fingerprint
from smile_pipe.shards.writer import PackedSample, digest_of, write_shard

PER_SHARD = 3
LABELS = {"sex": "F", "ancestry": "WH"}
KEYS = [f"F000{number}_{expression}" for number in range(1, 5) for expression in ("HA", "SA")]


class World:
    """A data directory, an output directory, and a fake render whose samples contain only their fingerprints."""

    def __init__(self, root: Path) -> None:
        self.data, self.out = root / "data", root / "out"
        self.settings, self.layout, self.prompts = "settings-1", "bu3dfe", "prompts-1"
        self.samples: dict[str, SampleSource] = {}

    @property
    def output(self) -> RenderOutput:
        return RenderOutput(self.out)

    def add(self, *keys: str) -> None:
        for key in keys:
            subject, expression = key.split("_")
            source = SampleSource(key, subject, expression, 4, (ScanFiles(f"{key}.wrl", f"{key}.bmp"),), labels=LABELS)
            self.samples[key] = source
            for path in source.paths:
                self.data.mkdir(exist_ok=True)
                if not (self.data / path).exists():
                    (self.data / path).write_text(f"{path} as it was")

    def change(self, key: str, **fields) -> None:
        sample = self.samples[key]
        files = {name: fields.pop(name) for name in ("mesh", "texture", "landmarks") if name in fields}
        self.samples[key] = replace(sample, frames=(replace(sample.frames[0], **files),), **fields)

    @property
    def fingerprints(self) -> SampleFingerprints:
        return SampleFingerprints(self.layout, self.settings, lambda sample: f"{self.prompts} of {sample.expression}")

    def plan(self, samples_per_shard: int = PER_SHARD, **options) -> RenderPlan:
        samples = [self.samples[key] for key in sorted(self.samples)]
        return plan_shards(self.data, samples, self.fingerprints, self.output, samples_per_shard, **options)

    def build(self, task: ShardTask, failing: Sequence[str] = ()) -> ShardRecord:
        """Build a shard as a worker does; the bytes of a sample are its fingerprints."""
        path = self.out / "shards" / task.name
        before = path.read_bytes() if path.exists() else b""
        entries = []
        for sample in task.samples:
            if sample.key not in failing:
                files = self.digests(sample)
                entries.append(self._entry(task.name, sample, self.fingerprints.images(sample, files), files))
        for reused in task.reused:
            row = reused.row
            if reused.source is None:
                content = before[row.offset : row.offset + row.bytes]
                assert digest_of(content) == row.digest
                entries.append((PackedSample(content, row.fingerprint), row))
            else:
                entries.append(self._entry(task.name, reused.source, row.images, row.sources))
        entries.sort(key=lambda entry: entry[1].key)
        entry, locations = write_shard(path, [packed for packed, _ in entries]) if entries else (None, [])
        if entry is None:
            path.unlink(missing_ok=True)
        failures = [self._failure(task.name, sample) for sample in task.samples if sample.key in failing]
        record = ShardRecord(
            name=task.name,
            settings=self.settings,
            entry=entry,
            rows=tuple(replace(row, **vars(at)) for (_, row), at in zip(entries, locations, strict=True)),
            failures=tuple(sorted([*task.failures, *failures], key=lambda failure: failure.key)),
            schema_version=SCHEMA_VERSION,
        )
        self.output.write_record(record)
        return record

    def _entry(
        self, shard: str, sample: SampleSource, images: str, files: tuple[SourceFile, ...]
    ) -> tuple[PackedSample, IndexRow]:
        whole = self.fingerprints.whole(sample, images, files)
        row = IndexRow(
            sample.key, sample.subject, sample.expression, sample.level, 1, 0.0, self.layout, sample.labels, shard,
            0, 0, "", whole, "bounds", "plain", images, files,
        )  # fmt: skip
        return PackedSample(f"{images} {whole}".encode().ljust(512), whole), row

    def _failure(self, shard: str, sample: SampleSource) -> FailureRow:
        files = self.digests(sample)
        whole = self.fingerprints.whole(sample, self.fingerprints.images(sample, files), files)
        fields = {"stage": "read", "reason": "bad", "shard": shard, "fingerprint": whole, "sources": files}
        return FailureRow(key=sample.key, source=sample.frames[0].mesh, **fields)

    def digests(self, source: SampleSource) -> tuple[SourceFile, ...]:
        return tuple(read_source(self.data, path) for path in source.paths)

    def render(self, failing: Sequence[str] = ()) -> RenderPlan:
        """Plan and execute a run."""
        plan = self.plan()
        self.output.begin(plan.removed)
        records = [*plan.kept, *(self.build(task, failing) for task in plan.tasks)]
        self.finish(sorted(records, key=lambda record: record.name))
        return plan

    def finish(self, records: Sequence[ShardRecord]) -> None:
        manifest = ShardManifest(
            fingerprint=fingerprint(self.settings),
            layout=self.layout,
            settings={},
            images_fingerprint=self.settings,
            renderer="zbuffer",
            views=("front",),
            channels=("rgb",),
            image_size=4,
            text_source="label",
            prompts={},
            expressions=(),
            num_sequences=0,
            num_samples=sum(len(record.rows) for record in records),
            num_subjects=1,
            num_failures=sum(len(record.failures) for record in records),
            shards=tuple(record.entry for record in records if record.entry is not None),
        )
        self.output.finish(manifest, records)

    def content(self) -> dict[str, bytes]:
        return content(self.out)


def content(root: Path) -> dict[str, bytes]:
    """The content of all files under `root`, by relative name."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def new_world(root: Path) -> World:
    """A world of eight samples that are not rendered yet: shards of three, three and two."""
    world = World(root)
    world.add(*KEYS)
    return world


def rendered_world(root: Path) -> World:
    """The same after a render in which one scan of the second shard failed."""
    world = new_world(root)
    world.render(failing=[KEYS[4]])
    return world
