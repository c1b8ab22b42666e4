"""The render stage: a directory of face scans in, WebDataset shards with a manifest out.

    find samples -> plan (keep | build | remove shards) -> read, render, encode -> write shards -> manifest

Runs are incremental and resumable: finished shards are kept. Ray Data reads, renders and encodes (`job.py`); a small
job on this machine, or one with nothing to do, starts no Ray (`local_job.py`).
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from smile_pipe.pipeline.captions.action_units import MAX_PHRASES, has_unnamed_units
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.common.expressions import order_expressions
from smile_pipe.pipeline.common.ray_session import is_connected, ray_session
from smile_pipe.pipeline.common.worker_processes import WorkerProcesses
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.limits import can_limit_memory
from smile_pipe.pipeline.render.output import RenderOutput, ShardRecord
from smile_pipe.pipeline.render.plan import RenderPlan, plan_shards
from smile_pipe.pipeline.render.reference_scans import add_least_active_scans
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import StepSeconds, Utilization, Workers
from smile_pipe.pipeline.render.units import num_stored_frames, select_inputs
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import ShardManifest, fingerprint

if TYPE_CHECKING:
    from smile_pipe.pipeline.render.build import WrittenShard
    from smile_pipe.pipeline.render.estimate import Estimate

    RenderShards = Callable[..., Iterator[int | WrittenShard]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RenderProgress:
    """Progress of a render.

    Attributes:
        num_done: number of samples that are rendered.
        num_total: number of samples to render.
        num_written: number of shards that are written.
        num_failed: number of failures in them; those of other shards are not known yet.
        utilization: how busy the workers were, counted from the shards that are written.
        notes: what is odd about the scans in these shards; see `SampleRecord.notes`.
    """

    num_done: int
    num_total: int
    num_written: int
    num_failed: int
    utilization: Utilization
    notes: Sequence[str] = ()


def plan(config: RenderConfig, on_wait: Callable[[str], None] = lambda what: None) -> RenderPlan:
    """Return what `run` would do, without writing anything.

    Args:
        config: the options.
        on_wait: called with what the plan waits for.

    Raises:
        UsageError: the input, the output or an option cannot be used.
    """
    return _plan(config, config.resolve(), RenderOutput(config.out), on_wait)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause garbage collection: a plan for many samples creates millions of objects, and none of them is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()
def _plan(
    config: RenderConfig, settings: RenderSettings, output: RenderOutput, on_wait: Callable[[str], None]
) -> RenderPlan:
    found = find_samples(config.data_dir, config.layout, settings.needs_neutral)
    if not found.samples:
        raise UsageError(f"{config.data_dir}: the layout {found.layout} finds no sample; choose another `layout`")
    output.check_writable()
    selected = config.filter.apply(found.samples)[: config.limit]
    if settings.neutral == "estimate":
        root, here = config.data_dir.absolute(), _in_process(config)

        def on_progress(done: int, total: int) -> None:
            # At the first scan and at each tenth: it may be a line each time.
            if done == 1 or 10 * done // total > 10 * (done - 1) // total:
                on_wait(f"measuring scans for `neutral=estimate`: {done} of {total}")

        selected = add_least_active_scans(selected, found.samples, root, settings, config.limits, here, on_progress)
    samples = [select_inputs(sample, settings) for sample in selected]
    _check_text(settings, samples, found.layout)
    known = output.read_records()
    if known and not _have_common_samples(known, samples):
        raise UsageError(
            f"holds shards of other scans than {config.data_dir}; choose another directory",
            field="out",
            value=config.out,
        )
    work = plan_shards(
        config.data_dir,
        samples,
        SampleFingerprints.of(settings, found.layout),
        output,
        config.samples_per_shard,
        lambda sample: num_stored_frames(sample, settings),
        config.retry_failed,
        config.verify_sources,
        known,
        found.stats,
    )
    return replace(work, evidence=found.match_reason, ignored=found.skipped, settings=settings)


def _have_common_samples(records: Sequence[ShardRecord], samples: Sequence[SampleSource]) -> bool:
    keys = {sample.key for sample in samples}
    return any(before.key in keys for record in records for before in record.samples)


def _check_text(settings: RenderSettings, samples: Sequence[SampleSource], layout: str) -> None:
    if settings.text_source == "label":
        for expression in {sample.expression for sample in samples}:
            settings.prompts.prompt_for("any", expression)
    if settings.text_source == "au" and all(sample.action_units is None for sample in samples):
        raise UsageError(
            f"the layout {layout} has no action units; use `text=label` or `text=geometry`", field="text", value="au"
        )
    if settings.text_source == "au":
        num_shortened = sum(has_unnamed_units(sample.action_units or {}) for sample in samples)
        if num_shortened:
            _log.warning(
                "%s with more than %d active action units: captions name the strongest %d",
                pluralize(num_shortened, "sample"),
                MAX_PHRASES,
                MAX_PHRASES,
            )


def estimate(config: RenderConfig, work: RenderPlan) -> "Estimate":
    """Estimate the cost of `work` from a few samples; see `smile_pipe.pipeline.render.estimate`."""
    from smile_pipe.pipeline.render.estimate import estimate

    # Not resolved again, because that may connect to a cluster.
    assert work.settings is not None
    return estimate(work, config.data_dir.absolute(), work.settings)


def run(
    config: RenderConfig,
    on_progress: Callable[[RenderProgress], None] = lambda progress: None,
    on_plan: Callable[[RenderPlan], None] = lambda work: None,
    on_wait: Callable[[str], None] = lambda what: None,
) -> ShardManifest:
    """Bring the shards up to date with the scans.

    Args:
        config: the options.
        on_progress: called whenever samples are rendered or a shard is written.
        on_plan: called with the plan before it is executed.
        on_wait: called with what the job waits for before it renders.

    Returns:
        The manifest of the shards.

    Raises:
        UsageError: see `plan`; or another process writes to the same directory, or the renderer needs a GPU and the
            cluster has none.
        DeviceError: a GPU cannot render anything.
    """
    settings, output = config.resolve(), RenderOutput(config.out)
    output.check_writable()
    with directory_lock(config.out):
        work = _plan(config, settings, output, on_wait)
        on_plan(work)
        return _execute(work, config, settings, output, on_progress, on_wait)


def _execute(
    work: RenderPlan,
    config: RenderConfig,
    settings: RenderSettings,
    output: RenderOutput,
    on_progress: Callable[[RenderProgress], None],
    on_wait: Callable[[str], None],
) -> ShardManifest:
    if work.is_done and output.manifest() == (manifest := _manifest(work, settings, work.kept)):
        if work.touched:
            output.refresh(work.kept)
        return manifest
    with _job(work, config, settings, on_wait) as (render_shards, workers):
        output.begin(work.removed)
        records = [*work.kept, *_render(work, config, settings, render_shards, workers, on_progress)]
    records.sort(key=lambda record: record.name)
    manifest = _manifest(work, settings, records)
    output.finish(manifest, records)
    return manifest


@contextmanager
def _job(
    work: RenderPlan, config: RenderConfig, settings: RenderSettings, on_wait: Callable[[str], None]
) -> Iterator[tuple["RenderShards", Workers]]:
    """Start what renders: nothing, a few processes, or Ray. Yield the function that builds shards, and its workers."""
    # Imported here, because it takes seconds, which a run with nothing to do does not need.
    from smile_pipe.pipeline.render import local_job, prepare

    if not work.tasks or _in_process(config):
        yield local_job.render_shards_locally, Workers(cores=1)
        return
    if not can_limit_memory():
        _log.warning("`sample_memory` has no effect: this system cannot limit the memory of a process")
    may_run_here = config.address == "local" and not is_connected()
    if may_run_here and local_job.is_small(work.tasks, settings, config.max_frames_without_ray):
        count = local_job.num_processes(work.tasks)
        on_wait(f"starting {pluralize(count, 'process', 'processes')}; this job is too small for Ray")
        with WorkerProcesses(count) as processes:
            on_wait(prepare.WHAT)
            yield partial(local_job.render_shards_locally, processes=processes), Workers(cores=count)
        return
    on_wait("connecting to Ray" if config.address != "local" or is_connected() else "starting Ray")
    with ray_session(config.address):
        from smile_pipe.pipeline.render import job

        workers = job.workers_of(settings, config.workers_per_gpu)
        on_wait(prepare.WHAT)
        yield partial(job.render_shards, workers=workers), workers


def _render(
    work: RenderPlan,
    config: RenderConfig,
    settings: RenderSettings,
    render_shards: "RenderShards",
    workers: Workers,
    on_progress: Callable[[RenderProgress], None],
) -> list[ShardRecord]:
    records: list[ShardRecord] = []
    notes: list[str] = []
    num_done, busy, began = 0, StepSeconds(), time.monotonic()
    root, output = config.data_dir.absolute(), RenderOutput(config.out.absolute())
    for event in render_shards(work.tasks, root, work.layout, settings, output, config.limits):
        if isinstance(event, int):
            num_done += event
        else:
            records.append(event.record)
            busy += event.seconds
            notes += event.notes
        num_failed = sum(len(record.failures) for record in records)
        utilization = Utilization.of(busy, workers, time.monotonic() - began)
        on_progress(RenderProgress(num_done, work.num_to_render, len(records), num_failed, utilization, notes))
    return records


def _in_process(config: RenderConfig) -> bool:
    """Whether other processes cannot see the input or the output."""
    return config.data_dir.is_in_memory or config.out.is_in_memory


def _manifest(work: RenderPlan, settings: RenderSettings, records: Sequence[ShardRecord]) -> ShardManifest:
    # Not the rows of the records, which would all be created: these are the same samples.
    failed = {failure.key for record in records for failure in record.failures}
    samples = [sample for sample in work.samples if sample.key not in failed]
    entries = tuple(record.entry for record in records if record.entry is not None)
    expressions = order_expressions({sample.expression for sample in samples})
    prompts = {expression: templates for expression in expressions if (templates := _templates(settings, expression))}
    contents = [entry.fingerprint for entry in entries]
    # Shards from before there was a choice have no such setting.
    defaults = {"neutral": "label", "units": "auto", "variant": 0}
    unset = {name for name, value in defaults.items() if getattr(settings, name) == value}
    return ShardManifest(
        fingerprint=fingerprint(settings.images_fingerprint, settings.text_source, prompts, contents),
        layout=work.layout,
        settings=settings.model_dump(mode="json", exclude={"prompts", *unset}),
        images_fingerprint=settings.images_fingerprint,
        renderer=settings.renderer,
        views=tuple(view.name for view in settings.views),
        channels=settings.channels,
        image_size=settings.size,
        text_source=settings.text_source,
        prompts=prompts,
        expressions=expressions,
        num_samples=len(samples),
        num_sequences=sum(sample.frame_rate is not None for sample in samples),
        num_subjects=len({sample.subject for sample in samples}),
        num_failures=len(failed),
        shards=entries,
    )


def _templates(settings: RenderSettings, expression: str) -> tuple[str, ...]:
    """The prompt templates of an expression; none if the bank has none, as captions do not need them."""
    try:
        return settings.prompts.templates_for(expression)
    except UsageError:
        return ()
