"""Renders on a Ray with one GPU that exists for Ray only, for `test_gpu_worker.py`; workers render on cores.

Workers are processes that a patch of a test does not reach, so the operator of GPUs is replaced by one with a faulty
renderer. `GpuJobs` runs jobs one after the other in one child process, which takes their description as JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from helpers.paths import REPOSITORY
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.render import gpu_worker, process
from smile_pipe.pipeline.rendering.backend import QuantisedViews
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`."
RESULT = "result: "


class FaultyRenderer(ZBufferRenderer):
    """Fails like a renderer of GPUs.

    Args:
        log: folder that gets a file for each call, named by the number of meshes, the process, and start and end.
        poison_once: the first call with more than one mesh poisons its process.
        guilty: numbers of vertices of meshes that poison the process.
        crash: the process ends instead of raising an error.
        max_vertices: number of vertices of a call for which there is memory.
        is_broken: every call fails.
        seconds: additional time of a call.
    """

    def __init__(
        self,
        log: str,
        poison_once: bool = False,
        guilty: Sequence[int] = (),
        crash: bool = False,
        max_vertices: float = float("inf"),
        is_broken: bool = False,
        seconds: float = 0.0,
    ) -> None:
        super().__init__()
        self.log, self.poison_once, self.guilty, self.crash = Path(log), poison_once, guilty, crash
        self.max_vertices, self.is_poisoned, self.seconds = max_vertices, is_broken, seconds

    def render_quantised(
        self, meshes: Sequence[Mesh], rigs: Sequence[Rig], channels: Sequence[str], samples_per_pixel: int = 1
    ) -> list[QuantisedViews]:
        """Render, unless it fails."""
        began = time.time()
        if self.poison_once and len(meshes) > 1 and not (self.log / "poisoned").exists():
            (self.log / "poisoned").touch()
            self.is_poisoned = True
        self.is_poisoned |= any(len(mesh.vertices) in self.guilty for mesh in meshes)
        try:
            if self.is_poisoned and self.crash:
                os._exit(139)
            if self.is_poisoned:
                raise RuntimeError(ILLEGAL)
            if sum(len(mesh.vertices) for mesh in meshes) > self.max_vertices:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            time.sleep(self.seconds)
            return super().render_quantised(meshes, rigs, channels, samples_per_pixel)
        finally:
            (self.log / f"{len(meshes)}-{os.getpid()}-{began}-{time.time()}").touch()


class FaultyRenderBatch(gpu_worker.RenderBatch):
    """The operator of GPUs with a `FaultyRenderer`, whose arguments are in the folder of the deaths' parent."""

    def __init__(self, settings, deaths: str) -> None:
        fault = json.loads((Path(deaths).parents[2] / "fault.json").read_text())
        renderer = FaultyRenderer(**fault)
        process.cached_renderer = gpu_worker.cached_renderer = lambda name: renderer
        super().__init__(settings, deaths)


class GpuJobs:
    """Runs jobs in a child process with a Ray of two cores and one GPU, until the block ends."""

    def __enter__(self) -> "GpuJobs":
        # For the files of Ray. The name is short, since there are sockets among them.
        self._scratch = tempfile.mkdtemp(prefix="gpu-", dir="/tmp")
        paths = os.pathsep.join(filter(None, [str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH")]))
        self._child = subprocess.Popen(
            [sys.executable, "-c", "from helpers.faulty_gpu import main; main()"],
            env=os.environ | {"PYTHONPATH": paths, "RAY_TMPDIR": self._scratch, "TMPDIR": self._scratch},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            # Ray's reaper ends its processes.
            self._child.kill()
            self._child.communicate()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, folder: Path, fault: dict, **options) -> dict:
        """Render `folder / "faces"`, by default into `folder / "out"`; returns the counts, or the error."""
        log = folder / "log"
        log.mkdir(exist_ok=True)
        (folder / "fault.json").write_text(json.dumps({"log": str(log), **fault}))
        wanted = {"data_dir": str(folder / "faces"), "out": str(folder / "out"), "renderer": "zbuffer", **options}
        print(json.dumps(wanted), file=self._child.stdin, flush=True)
        for line in self._child.stdout:
            if line.startswith(RESULT):
                return json.loads(line.removeprefix(RESULT))
        raise AssertionError("the child process ended")


def main() -> None:
    """Run the jobs that are on stdin."""
    import ray

    from smile_pipe.pipeline.render.config import RenderConfig
    from smile_pipe.pipeline.render.stage import RenderProgress, run

    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    for line in sys.stdin:
        reports: list[RenderProgress] = []
        try:
            with (
                mock.patch("smile_pipe.pipeline.render.job.GPU_RENDERERS", ("zbuffer",)),
                mock.patch("smile_pipe.pipeline.render.job.RenderBatch", FaultyRenderBatch),
            ):
                manifest = run(RenderConfig(**json.loads(line)), reports.append)
            result = {
                "samples": manifest.num_samples,
                "failures": manifest.num_failures,
                "gpus": reports[-1].utilization.gpus,
            }
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(RESULT + json.dumps(result), flush=True)
