"""A render without Ray: a small job in a few processes of this machine, or any job in this process for memory://.

The units are processed as in the Ray job (`job.py`), with the same limits, so that the bytes are the same. The start of
Ray takes longer than all the rest of a small job. What a larger job needs is only in Ray: many nodes, and results that
wait on disk if they do not fit in memory.

What imports Numba is imported by the functions that the processes run: the process of the command does not need it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from smile_pipe.pipeline.common.worker_processes import WorkerProcesses, available_cores
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.prepare import prepare_in
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import STORAGE, ProcessedUnit, WorkUnit, bytes_per_frame, split_into_units
from smile_pipe.pipeline.rendering.choose_backend import GPU_RENDERERS
from smile_pipe.shards.errors import StorageError
from smile_pipe.shards.storage import StoragePath

if TYPE_CHECKING:
    from smile_pipe.pipeline.render.build import WrittenShard

# Limit on all images of a small job, which are in memory until their shard is written.
_MAX_BYTES = 1 << 30
# Frames for which one more process is worth its start of about a second, and the largest number of processes.
_FRAMES_PER_PROCESS = 16
_MAX_PROCESSES = 8


def is_small(tasks: Sequence[ShardTask], settings: RenderSettings, max_frames: int) -> bool:
    """Whether a job renders on CPUs, at most `max_frames` frames, whose images fit in memory."""
    num_bytes = _num_frames(tasks) * bytes_per_frame(settings)
    num_bytes += sum(reused.row.bytes for task in tasks for reused in task.reused)
    return settings.renderer not in GPU_RENDERERS and _num_frames(tasks) <= max_frames and num_bytes <= _MAX_BYTES


def num_processes(tasks: Sequence[ShardTask]) -> int:
    """Return the number of processes for a small job: two, as they compile different kernels, or more for more work."""
    return min(available_cores(), max(2, _num_frames(tasks) // _FRAMES_PER_PROCESS), _MAX_PROCESSES)


def _num_frames(tasks: Sequence[ShardTask]) -> int:
    """Number of frames to read, where a sample that is rewritten counts as one."""
    num_rewritten = sum(reused.source is not None for task in tasks for reused in task.reused)
    return num_rewritten + sum(len(sample.frames) for task in tasks for sample in task.samples)


def render_shards_locally(
    tasks: Sequence[ShardTask],
    root: StoragePath,
    layout: str,
    settings: RenderSettings,
    output: RenderOutput,
    limits: Limits,
    processes: WorkerProcesses | None = None,
) -> Iterator["int | WrittenShard"]:
    """Build the shards of `tasks`, one after the other; see `smile_pipe.pipeline.render.job.render_shards`.

    Args:
        tasks: the shards to build.
        root: the data directory.
        layout: name of the layout, for the records.
        settings: how to render.
        output: where shards are written.
        limits: limits on the reading of a unit.
        processes: what processes the units; None for this process, without `limits`: their end is the end of a process.

    Raises:
        StorageError, ShardError, OSError: see `smile_pipe.pipeline.render.build.build_shard`.
        ProcessDiedError: a process died repeatedly, and not while it was reading a sample.
    """
    if processes is not None:
        prepare_in(processes, tasks, root, settings, limits, output.worker_deaths())
    yield 0
    process = partial(
        _process,
        root=root,
        settings=settings,
        limits=None if processes is None else limits,
        deaths=output.worker_deaths(),
    )
    build = partial(_build, root=root, layout=layout, settings=settings, out=output.root)
    run = map if processes is None else processes.map
    units = [[split_into_units(sample, settings) for sample in task.samples] for task in tasks]
    processed = iter(run(process, chain.from_iterable(chain.from_iterable(units))))
    for task, units_by_sample in zip(tasks, units, strict=True):
        done: list[ProcessedUnit] = []
        for own in units_by_sample:
            done += [_check_storage(next(processed)) for _ in own]
            yield 1
        yield from run(build, [(task, done)])


def _process(
    unit: WorkUnit, root: StoragePath, settings: RenderSettings, limits: Limits | None, deaths: str
) -> ProcessedUnit:
    from smile_pipe.pipeline.render.process import process_units

    (processed,) = process_units([unit], root, settings, limits, deaths)
    return processed


def _build(
    task_and_units: tuple[ShardTask, Sequence[ProcessedUnit]],
    root: StoragePath,
    layout: str,
    settings: RenderSettings,
    out: StoragePath,
) -> "WrittenShard":
    from smile_pipe.pipeline.render.build import build_shard

    task, units = task_and_units
    return build_shard(task, units, root, settings, SampleFingerprints.of(settings, layout), RenderOutput(out))


def _check_storage(unit: ProcessedUnit) -> ProcessedUnit:
    """Raise a failure of the storage at once: units after it would wait for the same storage."""
    if unit.failure is not None and unit.failure.stage == STORAGE:
        raise StorageError(unit.failure.reason)
    return unit
