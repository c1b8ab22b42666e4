"""The steps of `gpu_whole_path.py` in its processes, which import PyTorch only where they render on a GPU.

Between two steps a batch is an Arrow file, in place of an object in Ray's store: written once, and mapped to memory.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import pyarrow as pa

from smile_pipe.pipeline.render import process, reading
from smile_pipe.pipeline.render.build import build_samples
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.gpu_worker import RenderBatch
from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.process import encode_unit, process_units, read_units
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import StepSeconds
from smile_pipe.pipeline.render.units import ProcessedUnit, WorkUnit, from_table, to_table
from smile_pipe.pipeline.rendering.backend import Renderer
from smile_pipe.shards.writer import pack

START_SECONDS = 120.0


@dataclass(frozen=True)
class DoneBatch:
    """A batch after its last step.

    Attributes:
        ended: when, as by `time.time`.
        num_samples: samples that have their bytes.
        num_bytes: size of these.
        failures: reasons of the others.
        steps: seconds of the steps themselves.
        busy: seconds in which workers were busy with the batch, which include handing it over: of cores under `read`
            and `encode`, of the GPU's workers under `render`.
    """

    ended: float
    num_samples: int
    num_bytes: int
    failures: tuple[str, ...]
    steps: StepSeconds
    busy: StepSeconds


@dataclass(frozen=True)
class Job:
    """What all steps need; it is sent with each batch.

    Attributes:
        root: the data directory.
        settings: how to render.
        limits: of reading a scan.
        folder: for the files between steps, and those that count deaths.
        is_reduced: whether renderers for GPUs run on the CPU.
    """

    root: str
    settings: RenderSettings
    limits: Limits
    folder: str
    is_reduced: bool

    def read(self, units: Sequence[WorkUnit]) -> tuple[str, float]:
        """Read a batch; returns the file with it, and seconds."""
        began = time.perf_counter()
        path = self._write(to_table(read_units(units, self.root, self.settings, self.limits, self.folder)))
        return path, time.perf_counter() - began

    def render(self, path: str) -> tuple[str, float]:
        """Render a batch with the operator of the render stage; returns the file with it, and seconds."""
        began = time.perf_counter()
        return self._write(_operators[0](_take(path))), time.perf_counter() - began

    def encode(self, path: str) -> DoneBatch:
        """Encode a batch to the bytes of its samples."""
        began = time.perf_counter()
        return self._pack([encode_unit(unit, self.settings) for unit in from_table(_take(path))], began)

    def all_steps(self, units: Sequence[WorkUnit]) -> DoneBatch:
        """Read, render and encode on one core."""
        began = time.perf_counter()
        return self._pack(list(process_units(units, self.root, self.settings, self.limits, self.folder)), began)

    def _pack(self, units: list[ProcessedUnit], began: float) -> DoneBatch:
        began_packing = time.perf_counter()
        built = list(build_samples(units, self.settings, SampleFingerprints.of(self.settings, "bu3dfe")))
        sizes = [len(pack(one.sample).content) for one in built if one.sample is not None]
        failures = tuple(one.failure.reason for one in built if one.failure is not None)
        now = time.perf_counter()
        steps = sum((unit.seconds for unit in units), StepSeconds(write=now - began_packing))
        return DoneBatch(time.time(), len(sizes), sum(sizes), failures, steps, StepSeconds(encode=now - began))

    def _write(self, table: pa.Table) -> str:
        handle, path = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(handle, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        return path


def _take(path: str) -> pa.Table:
    """Map a file of `Job._write` to memory, without a copy, and remove its name."""
    table = pa.ipc.open_file(pa.memory_map(path)).read_all()
    os.unlink(path)
    return table


# The operator of a worker that renders.
_operators: list[RenderBatch] = []


def start_worker(barrier: Barrier, job: Job | None) -> None:
    """Prepare a process, and wait until all are ready.

    Args:
        barrier: of all processes.
        job: what a worker of a GPU renders; None for a core.
    """
    # Without the cache of textures.
    reading.MAX_TEXTURES_BYTES = 0
    if job is not None:
        if job.is_reduced:
            process.build_renderer = _build_on_cpu
        # If it cannot draw, its first call raises the reason.
        _operators.append(RenderBatch(job.settings, job.folder))
    barrier.wait(START_SECONDS)


def _build_on_cpu(name: str) -> Renderer:
    from gpu_rendering import load_renderers

    return load_renderers()[name]
