"""Estimate time and size of a render from a few of its samples, which are rendered and discarded."""

import time
from dataclasses import dataclass

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.render.build import build_samples
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.plan import RenderPlan
from smile_pipe.pipeline.render.process import process_units
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import num_stored_frames, split_into_units
from smile_pipe.pipeline.rendering.choose_backend import GPU_RENDERERS, has_local_gpu
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.writer import pack

MAX_SAMPLES = 5
MAX_SECONDS = 10.0
"""No further sample is rendered after this time; one long sequence may take longer."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a plan.

    Attributes:
        core_seconds: time of one core of this machine for reading, rendering and encoding all samples to render.
        bytes: size of all shards to write: rendered, rewritten and copied samples.
        num_tried: number of samples that were rendered for the estimate.
        renderer: the renderer that rendered them: `zbuffer` instead of one for GPUs if this machine has no GPU.
    """

    core_seconds: float
    bytes: int
    num_tried: int
    renderer: str


def estimate(plan: RenderPlan, root: StoragePath, settings: RenderSettings) -> Estimate:
    """Render a few samples, evenly spaced among those that `plan` renders, and extrapolate.

    A sequence counts as many times as it has stored frames.
    """
    reused_bytes = sum(reused.row.bytes for task in plan.tasks for reused in task.reused)
    samples = [sample for task in plan.tasks for sample in task.samples]
    if settings.renderer in GPU_RENDERERS and not has_local_gpu():
        settings = settings.model_copy(update={"renderer": "zbuffer"})
    if not samples:
        return Estimate(0.0, reused_bytes, 0, settings.renderer)
    chosen = samples[:: -(-len(samples) // MAX_SAMPLES)]
    # Not timed: it compiles and loads what a worker compiles and loads with its first sample.
    _packed_size(chosen[0], root, settings, plan.layout)
    began, weight, num_bytes, num_tried = time.perf_counter(), 0, 0, 0
    for sample in chosen:
        num_bytes += _packed_size(sample, root, settings, plan.layout)
        weight += num_stored_frames(sample, settings)
        num_tried += 1
        if time.perf_counter() - began > MAX_SECONDS:
            break
    seconds = time.perf_counter() - began
    scale = sum(num_stored_frames(sample, settings) for sample in samples) / weight
    return Estimate(seconds * scale, round(num_bytes * scale) + reused_bytes, num_tried, settings.renderer)


def _packed_size(sample: SampleSource, root: StoragePath, settings: RenderSettings, layout: str) -> int:
    """Render one sample and return its size in a shard; 0 if it fails."""
    units = list(process_units(split_into_units(sample, settings), root, settings))
    built = build_samples(units, settings, SampleFingerprints.of(settings, layout))
    return sum(len(pack(one.sample).content) for one in built if one.sample is not None)
