"""The render stage: a directory of face scans in, WebDataset shards with a manifest out.

    find samples -> plan (keep | make | remove shards) -> Ray Data: read, render, encode -> write shards -> manifest

Safe to stop and to run again: finished shards are kept, and when nothing is to be done Ray is not even started.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.common.expressions import order_expressions
from smile_pipe.pipeline.common.ray_session import ray_session
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.output import RenderOutput, ShardRecord
from smile_pipe.pipeline.render.plan import RenderPlan, plan_shards
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import Shares, StepSeconds, Workers, WrittenShard
from smile_pipe.pipeline.render.units import needed, num_stored
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import ShardManifest, fingerprint

if TYPE_CHECKING:
    from smile_pipe.pipeline.render.estimate import Estimate


@dataclass(frozen=True)
class RenderProgress:
    """How far a render is.

    Attributes:
        num_done, num_total: samples that passed the renderer, of how many.
        num_failed: failures known so far.
        shares: how busy its workers were so far, as far as shards are written.
    """

    num_done: int
    num_total: int
    num_failed: int
    shares: Shares


def plan(config: RenderConfig) -> RenderPlan:
    """What `run` would do.

    Raises:
        UsageError: the input, the output or an option cannot be used; nothing has been written.
    """
    with _without_garbage_collection():
        return _plan(config)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """For a plan of many samples: it makes millions of objects and drops none, and looking for some takes long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _plan(config: RenderConfig) -> RenderPlan:
    settings, output = config.resolve(), RenderOutput(config.out)
    found = find_samples(config.data_dir, config.layout, settings.needs_neutral)
    if not found.samples:
        raise UsageError(f"{config.data_dir}: the layout {found.layout} finds no sample in it")
    output.check_writable()
    chosen = config.filter.apply(found.samples)[: config.limit]
    samples = [needed(sample, settings) for sample in chosen]
    _check_text(settings, samples, found.layout)
    known = output.receipts()
    before = {key for receipt in known for key in receipt.keys}
    if before and before.isdisjoint(sample.key for sample in samples):
        raise UsageError(
            f"holds shards of other scans than {config.data_dir}; name another directory", field="out", value=config.out
        )
    work = plan_shards(
        config.data_dir,
        samples,
        SampleFingerprints.of(settings, found.layout),
        output,
        config.samples_per_shard,
        lambda sample: num_stored(sample, settings),
        config.retry_failed,
        config.verify_sources,
        known,
        found.stats,
    )
    return replace(work, evidence=found.evidence, ignored=found.ignored)


def _check_text(settings: RenderSettings, samples: Sequence[SampleSource], layout: str) -> None:
    if settings.text_source == "label":
        for expression in {sample.expression for sample in samples}:
            settings.prompts.prompt_for("any", expression)
    if settings.text_source == "au" and all(sample.action_units is None for sample in samples):
        raise UsageError(
            f"nothing in the layout {layout} codes action units; use label or geometry", field="text", value="au"
        )


def estimate(config: RenderConfig, work: RenderPlan) -> "Estimate":
    """What carrying out `work` costs, told from a few samples that are made for it and thrown away."""
    from smile_pipe.pipeline.render.estimate import estimate

    return estimate(work, config.data_dir.absolute(), config.resolve())


def run(
    config: RenderConfig,
    on_progress: Callable[[RenderProgress], None] = lambda progress: None,
    on_plan: Callable[[RenderPlan], None] = lambda work: None,
) -> ShardManifest:
    """Bring the shards up to date with the scans; `on_plan` hears what is to be done before it is done.

    Raises:
        UsageError: see `plan`; or another process writes to the same directory.
    """
    settings, output = config.resolve(), RenderOutput(config.out)
    output.check_writable()
    with directory_lock(config.out):
        work = plan(config)
        on_plan(work)
        return _carry_out(work, config, settings, output, on_progress)


def _carry_out(
    work: RenderPlan,
    config: RenderConfig,
    settings: RenderSettings,
    output: RenderOutput,
    on_progress: Callable[[RenderProgress], None],
) -> ShardManifest:
    if work.is_done and output.manifest() == (manifest := _manifest(work, settings, work.kept)):
        if work.touched:
            output.refresh(work.kept)
        return manifest
    with ray_session(config.address) if work.tasks and not _in_process(config) else nullcontext():
        output.begin(work.removed)
        receipts = [*work.kept, *_render(work, config, settings, on_progress)]
    receipts.sort(key=lambda receipt: receipt.name)
    manifest = _manifest(work, settings, receipts)
    output.finish(manifest, receipts)
    return manifest


def _render(
    work: RenderPlan,
    config: RenderConfig,
    settings: RenderSettings,
    on_progress: Callable[[RenderProgress], None],
) -> list[ShardRecord]:
    if not work.tasks:
        return []
    receipts: list[ShardRecord] = []
    num_done, done, began = 0, StepSeconds(), time.monotonic()
    workers, events = _job(work, config, settings)

    def tell() -> None:
        num_failed = sum(len(receipt.failures) for receipt in receipts)
        shares = Shares.of(done, workers, time.monotonic() - began)
        on_progress(RenderProgress(num_done, work.num_to_render, num_failed, shares))

    tell()
    for event in events:
        if isinstance(event, WrittenShard):
            receipts.append(event.receipt)
            done += event.spent
        else:
            num_done += event
        tell()
    return receipts


def _in_process(config: RenderConfig) -> bool:
    """Whether workers of Ray could not see what is read or written."""
    return config.data_dir.is_in_memory or config.out.is_in_memory


def _job(
    work: RenderPlan, config: RenderConfig, settings: RenderSettings
) -> tuple[Workers, Iterator[int | WrittenShard]]:
    """Who works, and what comes of it: a number of samples whenever some are rendered, and each shard once written."""
    root, output = config.data_dir.absolute(), RenderOutput(config.out.absolute())
    if _in_process(config):
        from smile_pipe.pipeline.render.local import render_shards_in_process

        return Workers(cores=1), render_shards_in_process(work.tasks, root, work.layout, settings, output)
    # Imported here because importing Ray takes a second, which a run that has nothing to do need not wait for.
    from smile_pipe.pipeline.render.job import render_shards, workers_of

    workers = workers_of(settings)
    return workers, render_shards(work.tasks, root, work.layout, settings, output, config.limits, workers)


def _manifest(work: RenderPlan, settings: RenderSettings, receipts: Sequence[ShardRecord]) -> ShardManifest:
    rows = [row for receipt in receipts for row in receipt.rows]
    entries = tuple(receipt.entry for receipt in receipts if receipt.entry is not None)
    expressions = order_expressions({row.expression for row in rows})
    prompts = {expression: words for expression in expressions if (words := _wordings(settings, expression))}
    contents = [entry.fingerprint for entry in entries]
    return ShardManifest(
        fingerprint=fingerprint(settings.images_fingerprint, settings.text_source, prompts, contents),
        layout=work.layout,
        settings=settings.model_dump(mode="json", exclude={"prompts"}),
        images_fingerprint=settings.images_fingerprint,
        renderer=settings.renderer,
        views=tuple(view.name for view in settings.views),
        channels=settings.channels,
        image_size=settings.size,
        text_source=settings.text_source,
        prompts=prompts,
        expressions=expressions,
        num_samples=len(rows),
        num_sequences=sum(row.frame_rate > 0 for row in rows),
        num_subjects=len({row.subject for row in rows}),
        num_failures=sum(len(receipt.failures) for receipt in receipts),
        shards=entries,
    )


def _wordings(settings: RenderSettings, expression: str) -> tuple[str, ...]:
    """The templates of an expression; none where captions make do without."""
    try:
        return settings.prompts.templates_for(expression)
    except UsageError:
        return ()
