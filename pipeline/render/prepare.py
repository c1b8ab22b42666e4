"""Load the compiled kernels that a job needs before its workers start, or compile them: two workers share this.

Numba compiles a kernel when it is first called and stores it on disk, where other processes find it. Workers that start
with an empty store would all compile all kernels at the same time. Reading and rendering take about as long to compile
as each other, so one worker reads a scan of each file format while another one draws a triangle.

What imports Numba is imported by the functions that the workers run.
"""

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from smile_pipe.pipeline.common.worker_processes import ProcessDiedError, WorkerProcesses
from smile_pipe.pipeline.datasets.adapter import ScanFiles
from smile_pipe.pipeline.datasets.data_dir import open_data_dir
from smile_pipe.pipeline.datasets.file_index import suffix_of
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.render.limits import Limits, enforce_limits
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.shards.storage import StoragePath

WHAT = "loading kernels (the first render on a machine compiles them)"
"""What the user waits for."""
# A scan that takes longer is left to the job, which reports it.
_MAX_SECONDS = 60.0


def prepare_steps(
    tasks: Sequence[ShardTask], root: StoragePath, settings: RenderSettings, limits: Limits, deaths: str
) -> list[Callable[[], None]]:
    """Return functions that load the kernels of a job on CPUs; they can be pickled and run at the same time.

    Args:
        tasks: the shards to build.
        root: the data directory.
        settings: how to render.
        limits: limits on the reading of a unit.
        deaths: see `smile_pipe.pipeline.render.process.read_units`.
    """
    samples = [sample for task in tasks for sample in task.samples]
    if not samples:
        return []
    limits = limits.model_copy(update={"seconds": min(limits.seconds, _MAX_SECONDS)})
    scans = {suffix_of(sample.frames[0].mesh): sample.frames[0] for sample in reversed(samples)}
    reads = [partial(_read, scan, root, settings, limits, deaths) for scan in scans.values()]
    lack_landmarks = any(frame.landmarks is None for sample in samples for frame in sample.frames[:1])
    searches = settings.landmarks == "detect" or (settings.landmarks == "auto" and lack_landmarks)
    return [partial(_draw_triangle, settings), *reads, *([_search_ball] if searches else [])]


def prepare_in(
    processes: WorkerProcesses,
    tasks: Sequence[ShardTask],
    root: StoragePath,
    settings: RenderSettings,
    limits: Limits,
    deaths: str,
) -> None:
    """Run the steps of `prepare_steps` in processes."""
    with suppress(ProcessDiedError):
        for _ in processes.map(operator.call, prepare_steps(tasks, root, settings, limits, deaths), attempts=1):
            pass


def _read(scan: ScanFiles, root: StoragePath, settings: RenderSettings, limits: Limits, deaths: str) -> None:
    """Read a scan; the job reports its failure."""
    from smile_pipe.pipeline.render.reading import SourceReader

    name = f"prepare{suffix_of(scan.mesh)}"
    with suppress(Exception), open_data_dir(root) as files, enforce_limits(limits, StoragePath(deaths), name):
        SourceReader(files).read_for(scan, settings)


def _search_ball() -> None:
    """Search a ball for a face; it has none, but it is looked at from all sides."""
    from smile_pipe.pipeline.landmarks.detection import detect

    rows, columns = np.meshgrid(np.linspace(0, np.pi, 20), np.linspace(0, 2 * np.pi, 40), indexing="ij")
    ball = np.stack([np.sin(rows) * np.cos(columns), np.cos(rows), np.sin(rows) * np.sin(columns)], axis=-1)
    index = np.arange(ball[..., 0].size).reshape(rows.shape)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    detect(Mesh.build(ball.reshape(-1, 3).astype(np.float32), faces))


def _draw_triangle(settings: RenderSettings) -> None:
    """Draw and encode a textured triangle like a sample."""
    from smile_pipe.pipeline.render.process import cached_renderer, draw
    from smile_pipe.pipeline.rendering.encoding import encode_frame

    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]], np.float32)
    face = np.array([[0, 1, 2]], np.int32)
    texture = np.zeros((2, 2, 3), np.uint8)
    # As the textures of scans are, which matters to Numba.
    texture.flags.writeable = False
    triangle = Mesh(corners, face, corners[:, :2].copy(), face, texture=texture, flow=np.zeros_like(corners))
    pairs = [(triangle, settings.rig_of(""))]
    (images,) = draw(cached_renderer(settings.renderer), pairs, settings.rendered_channels, settings.samples)
    if not isinstance(images, Exception):
        encode_frame(images.pixels)
