"""The operator of GPUs: a process that renders batches, and ends if its GPU fails.

A CUDA error poisons the process: every later call fails, whatever it draws. So the process ends, and Ray starts another
one and repeats the batch. The new process first draws a triangle, which finds a GPU that is broken: that is an error of
the job and no failure of a sample. Otherwise a sample of the batch may have caused the failure, so that they are drawn
one by one, and a sample on which two processes ended becomes a failure.
"""

import os
import socket
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.render.limits import MAX_DEATHS, count_deaths, record_death
from smile_pipe.pipeline.render.process import cached_renderer, draw, render_units
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import Failure, ProcessedUnit, from_table, to_table
from smile_pipe.pipeline.rendering.backend import DeviceError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.storage import StoragePath


class RenderBatch:
    """Renders the units of a table with `render_units`; an actor of Ray, so that its GPU is set up once.

    Args:
        settings: how to render.
        deaths: folder in which `limits.py` counts the workers that died.
    """

    def __init__(self, settings: RenderSettings, deaths: str) -> None:
        self.settings, self.deaths = settings, StoragePath(deaths)
        self.error: Exception | None = None
        try:
            check_device(settings)
        except Exception as error:
            # The first call raises it: Ray does not pass on the type of an exception of a constructor.
            self.error = error

    def __call__(self, table: pa.Table) -> pa.Table:
        """Render the units of a table.

        Raises:
            DeviceError: the GPU cannot render anything.
        """
        if self.error is not None:
            raise self.error
        return to_table(self._render(list(from_table(table))))

    def _render(self, units: list[ProcessedUnit]) -> list[ProcessedUnit]:
        batch = f"batch.{units[0].work.name}"
        num_deaths = count_deaths(self.deaths, batch)
        with record_death(self.deaths, batch, num_deaths):
            return self._draw(units) if not num_deaths else [self._render_alone(unit) for unit in units]

    def _render_alone(self, unit: ProcessedUnit) -> ProcessedUnit:
        name = f"render.{unit.work.name}"
        num_deaths = count_deaths(self.deaths, name)
        if num_deaths >= MAX_DEATHS:
            last = self.deaths / f"{name}.error"
            reason = last.read_text() if last.exists() else "the process crashed"
            given_up = f"given up: {pluralize(num_deaths, 'GPU worker')} ended while rendering it: {reason}"
            return replace(unit, meshes=(), failure=Failure.of("render", MeshError(given_up)))
        with record_death(self.deaths, name, num_deaths):
            (rendered,) = self._draw([unit], name)
        return rendered

    def _draw(self, units: list[ProcessedUnit], name: str = "") -> list[ProcessedUnit]:
        """Render units; if the GPU fails, end the process, with the reason in a file if the unit has a `name`."""
        try:
            return list(render_units(units, self.settings))
        except DeviceError as error:
            print(f"this worker ends: {error}", file=sys.stderr, flush=True)
            if name:
                (self.deaths / f"{name}.error").write_bytes(str(error).encode())
            # An exception would end the job, and `ray.actor.exit_actor` would not start another process.
            os._exit(1)


def check_device(settings: RenderSettings) -> None:
    """Draw a triangle like a sample, and encode it if samples are encoded on the GPU.

    Raises:
        DeviceError: it cannot be drawn or encoded.
    """
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]], np.float32)
    triangle = Mesh(corners, np.array([[0, 1, 2]], np.int32))
    host = socket.gethostname()
    try:
        renderer = cached_renderer(settings.renderer)
        (images,) = draw(renderer, [(triangle, settings.rig_of(""))], ("rgb", "depth", "normal"), settings.samples)
    except DeviceError as error:
        raise DeviceError(f"node {host}: {error}") from None
    if isinstance(images, Exception):
        raise DeviceError(f"node {host}: a worker cannot render a triangle: {images}") from images
    if not images.is_visible:
        raise DeviceError(f"node {host}: a triangle that {settings.renderer} renders is not in its images")
    if settings.jpeg == "gpu":
        # Here, because it imports torch.
        from smile_pipe.pipeline.rendering.gpu_jpeg import encode_jpegs

        try:
            encode_jpegs(images.pixels["rgb"])
        except DeviceError as error:
            raise DeviceError(f"node {host}: {error}") from None
