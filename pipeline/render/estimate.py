"""What a render will cost, told from a few of its samples that are made here and thrown away."""

import time
from dataclasses import dataclass

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.render.build import build_samples
from smile_pipe.pipeline.render.local import build_in_process
from smile_pipe.pipeline.render.plan import RenderPlan
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import batch_units, num_stored
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.writer import pack

NUM_TRIED = 5
MAX_SECONDS = 10.0
"""No further sample is tried after so long; one long sequence may take longer."""


@dataclass(frozen=True)
class Estimate:
    """What the plan comes to.

    Attributes:
        core_seconds: of one core of this machine, reading, rendering and encoding all that is to be rendered.
        bytes: of the shards to write: rendered, rewritten and copied.
        num_tried: how many samples were made to tell.
    """

    core_seconds: float
    bytes: int
    num_tried: int


def estimate(plan: RenderPlan, root: StoragePath, settings: RenderSettings) -> Estimate:
    """Make a few of the samples that `plan` renders, evenly from all, and count for each as many as it stands for.

    A sequence counts as many times as frames of it are stored.
    """
    reused = sum(reused.row.bytes for task in plan.tasks for reused in task.reused)
    samples = [sample for task in plan.tasks for sample in task.samples]
    if not samples:
        return Estimate(0.0, reused, 0)
    tried = samples[:: -(-len(samples) // NUM_TRIED)]
    # Compiles and loads what a worker has compiled and loaded after its first sample.
    _made(tried[0], root, settings, plan.layout)
    began, weight, num_bytes, num_tried = time.perf_counter(), 0, 0, 0
    for sample in tried:
        num_bytes += _made(sample, root, settings, plan.layout)
        weight += num_stored(sample, settings)
        num_tried += 1
        if time.perf_counter() - began > MAX_SECONDS:
            break
    seconds = time.perf_counter() - began
    scale = sum(num_stored(sample, settings) for sample in samples) / weight
    return Estimate(seconds * scale, round(num_bytes * scale) + reused, num_tried)


def _made(sample: SampleSource, root: StoragePath, settings: RenderSettings, layout: str) -> int:
    """Make one sample, and tell how many bytes of a shard it takes; none where it fails."""
    rows = [row for parcel in batch_units([sample], settings) for row in build_in_process(parcel, root, settings)]
    return sum(
        len(pack(made.sample).content) for made in build_samples(rows, layout, settings) if made.sample is not None
    )
