"""A data directory and a render's output that a test may change, without meshes, images or Ray."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from samples import make_row, make_sample

from pipeline.layouts.layout import SampleSource, ScanFiles
from pipeline.render_output import RenderOutput, ShardReceipt
from pipeline.render_plan import RenderPlan, ShardTask, plan_shards, stat_source
from shards.failures import FailureRow
from shards.index import SourceFile
from shards.manifest import ShardManifest, fingerprint
from shards.writer import write_shard

PER_SHARD = 3
LABELS = {"sex": "F", "ancestry": "WH"}
KEYS = [f"F000{number}_{expression}" for number in range(1, 5) for expression in ("HA", "SA")]


class World:
    """A data directory, an output directory, and a render whose images are made up."""

    def __init__(self, root: Path) -> None:
        self.data, self.out = root / "data", root / "out"
        self.settings, self.layout = "settings-1", "bu3dfe"
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

    def plan(self, samples_per_shard: int = PER_SHARD) -> RenderPlan:
        samples = [self.samples[key] for key in sorted(self.samples)]
        return plan_shards(self.data, self.layout, samples, self.settings, self.output, samples_per_shard)

    def make(self, task: ShardTask, failing: Sequence[str] = ()) -> ShardReceipt:
        """Do what a worker does with a task."""
        good = [source for source in task.samples if source.key not in failing]
        samples = [make_sample(s.key, s.subject, s.expression, size=4, channels=("rgb",)) for s in good]
        entry, locations = write_shard(self.out / "shards" / task.name, samples) if samples else (None, [])
        rows = []
        for source, sample, at in zip(good, samples, locations, strict=True):
            row = make_row(sample, task.name, at)
            about = {"labels": source.labels, "level": source.level, "layout": self.layout}
            rows.append(type(row)(**vars(row) | about | {"sources": self.digests(source)}))
        failures = tuple(
            FailureRow(
                key=s.key,
                source=s.frames[0].mesh,
                stage="read",
                reason="bad",
                shard=task.name,
                sources=self.digests(s),
            )
            for s in task.samples
            if s.key in failing
        )
        receipt = ShardReceipt(name=task.name, settings=self.settings, entry=entry, rows=tuple(rows), failures=failures)
        self.output.write_receipt(receipt)
        return receipt

    def digests(self, source: SampleSource) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(path, *stat_source(self.data, path), "digest") for path in source.paths)

    def render(self, failing: Sequence[str] = ()) -> RenderPlan:
        """A whole run."""
        plan = self.plan()
        self.output.begin(plan.removed)
        receipts = [*plan.kept, *(self.make(task, failing) for task in plan.tasks)]
        self.finish(sorted(receipts, key=lambda receipt: receipt.name))
        return plan

    def finish(self, receipts: Sequence[ShardReceipt]) -> None:
        manifest = ShardManifest(
            fingerprint=fingerprint(self.settings),
            layout=self.layout,
            settings={},
            settings_fingerprint=self.settings,
            renderer="zbuffer",
            views=("front",),
            channels=("rgb",),
            image_size=4,
            text_source="label",
            prompts={},
            expressions=(),
            num_sequences=0,
            num_samples=sum(len(receipt.rows) for receipt in receipts),
            num_subjects=1,
            num_failures=sum(len(receipt.failures) for receipt in receipts),
            shards=tuple(receipt.entry for receipt in receipts if receipt.entry is not None),
        )
        self.output.finish(manifest, receipts)

    def content(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.out)): p.read_bytes() for p in self.out.rglob("*") if p.is_file()}


def new_world(root: Path) -> World:
    """Eight samples, not rendered: shards of three, three and two."""
    world = World(root)
    world.add(*KEYS)
    return world


def rendered_world(root: Path) -> World:
    """The same, rendered; one scan of the second shard failed."""
    world = new_world(root)
    world.render(failing=[KEYS[4]])
    return world
