"""Part of `bench_gpu.py`: scans per second from files to the bytes of samples, on one machine, without Ray.

As in a render with GPUs, a process for each core reads and encodes, and `--workers-per-gpu` processes render, with the
functions and the batches of the render stage. Between them a batch is an Arrow file in a temporary folder, which stays
in memory, in place of Ray's object store; nothing is written to shards. `zbuffer` does all steps on the cores.

The scans are textured faces (VRML of 45,008 faces, PNG of 512 px) that `smile-pipe synth` makes from the shared face,
or without it from the built-in one, which has 20,936 faces; 224 px, 3 views, rgb, depth and normals. Each scan has its
own texture, as in datasets with photographs: the cache of textures is off.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, replace
from importlib.util import find_spec
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from gpu_device import HAS_GPU, NUM_CORES, describe, watch_gpu
from gpu_path_steps import DoneBatch, Job, start_worker
from gpu_rows import Figures, Rows
from PIL import Image

from helpers.shapes import card
from helpers.shared_faces import ICT_FILE, MISSING
from helpers.small_faces import write_obj
from smile_pipe.pipeline.common.ray_session import WORKERS_ENVIRONMENT
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.timings import StepSeconds, Utilization, Workers
from smile_pipe.pipeline.render.units import batch_units
from smile_pipe.pipeline.rendering.choose_backend import RendererName
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run as synth
from smile_pipe.shards.storage import StoragePath

SIZE = 224 if HAS_GPU else 16
# Seconds in which the queues fill, and those that are measured.
FILL, MEASURED = (1.5, 4.0) if HAS_GPU else (0.0, 0.1)
# Renderer, workers that share the GPU, and where JPEG is encoded; the most important first.
ROWS: tuple[tuple[RendererName, int, str], ...] = (
    ("zbuffer-cuda", 1, "cpu"),
    ("pytorch3d", 1, "cpu"),
    ("zbuffer", 0, "cpu"),
    ("zbuffer-cuda", 3, "cpu"),
    ("pytorch3d", 3, "cpu"),
    ("zbuffer-cuda", 1, "gpu"),
)
ROW_SECONDS = 12.0


@contextmanager
def _workers(num: int, job: Job | None = None) -> Iterator[ProcessPoolExecutor]:
    context = get_context("spawn")
    with ProcessPoolExecutor(num, context, start_worker, (context.Barrier(num), job)) as pool:
        # A process starts when a call finds no idle one, and none is idle before all are ready.
        for ready in [pool.submit(os.getpid) for _ in range(num)]:
            ready.result()
        yield pool


def whole_path(rows: Rows) -> None:
    """Scans per second by renderer and number of workers that share the GPU."""
    rows.add("device", describe())
    # As Ray does for workers of one core.
    os.environ |= {**WORKERS_ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        root = f"{folder}/data"
        rows.add("scans", _make_scans(Path(root)))
        # `zbuffer` can be resolved without a GPU.
        config = RenderConfig(data_dir=root, out=folder, size=SIZE, renderer="zbuffer")
        views = config.resolve().views[: None if HAS_GPU else 1]
        with _workers(NUM_CORES) as cores:
            for renderer, num_workers, jpeg in ROWS if HAS_GPU else ROWS[:3]:
                settings = config.resolve().model_copy(update={"views": views, "renderer": renderer, "jpeg": jpeg})
                job = Job(root, settings, config.limits, folder, is_reduced=not HAS_GPU)
                name = f"{renderer}, {num_workers} workers a GPU" if num_workers else renderer
                name += ", JPEG on the GPU" if jpeg == "gpu" else ""
                if renderer == "pytorch3d" and find_spec("pytorch3d") is None:
                    rows.add(name, {"not measured": "PyTorch3D is not installed"})
                    continue
                rows.measure(name, lambda j=job, n=num_workers: _measure(j, cores, n), ROW_SECONDS if HAS_GPU else 0)


def _make_scans(root: Path) -> str:
    """Write the scans, and describe them."""
    if not HAS_GPU:
        root.mkdir()
        mesh = card((-0.6, -0.7, 0.5), (1.2, 0.3, -0.7), (0.0, 1.3, 0.2))
        write_obj(root / "card.obj", mesh, material="card.mtl")
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(root / "card.jpg")
        (root / "labels.csv").write_text("path,subject,expression\ncard.obj,card,HA\n")
        return "an OBJ file of two triangles"
    face_model = ICT_FILE if ICT_FILE.is_file() else None
    synth(SynthConfig(out=root, subjects=4, levels=(4,), face_model=face_model))
    return "28 scans of the shared face" if face_model else f"28 scans of the built-in face: {MISSING}"


def _measure(job: Job, cores: ProcessPoolExecutor, num_workers: int) -> Figures:
    if not num_workers:
        return _run(job, cores, None, 0)
    with _workers(num_workers, job) as gpu:
        return _run(job, cores, gpu, num_workers)


def _run(job: Job, cores: ProcessPoolExecutor, gpu: ProcessPoolExecutor | None, num_workers: int) -> Figures:
    batches = cycle(batch_units(find_samples(StoragePath(job.root), "auto", False).samples, job.settings))
    # Batches in work: a few for each worker, so that none waits, as in Ray's queues.
    num_in_work = 2 * NUM_CORES + 4 * num_workers if HAS_GPU else 1
    began = time.time()
    stop = began + FILL + MEASURED
    lock = threading.Lock()

    def run(_: int) -> list[DoneBatch]:
        done: list[DoneBatch] = []
        while not done or time.time() < stop:
            with lock:
                units = next(batches)
            if gpu is None:
                done.append(cores.submit(job.all_steps, units).result())
                continue
            path, reading = cores.submit(job.read, units).result()
            path, rendering = gpu.submit(job.render, path).result()
            batch = cores.submit(job.encode, path).result()
            done.append(replace(batch, busy=batch.busy + StepSeconds(read=reading, render=rendering)))
        return done

    with watch_gpu() as usage, ThreadPoolExecutor(num_in_work) as threads:
        ran = [batch for done in threads.map(run, range(num_in_work)) for batch in done]
    return _figures(ran, began + FILL, stop if HAS_GPU else time.time(), num_workers) | usage


def _figures(ran: Sequence[DoneBatch], start: float, stop: float, num_workers: int) -> Figures:
    counted = [batch for batch in ran if start <= batch.ended <= stop]
    num_samples = sum(batch.num_samples for batch in counted)
    failures = [reason for batch in ran for reason in batch.failures]
    if not num_samples:
        return {"error": f"no scan was rendered: {failures[:1]}"}
    steps, busy = (sum((getattr(b, name) for b in counted), StepSeconds()) for name in ("steps", "busy"))
    workers = Workers(NUM_CORES, gpus=min(num_workers, 1), workers_per_gpu=max(num_workers, 1))
    utilization = Utilization.of(busy, workers, stop - start)
    spent = dict(zip(("read", "render", "encode", "pack"), astuple(steps), strict=True))
    spent["hand over"] = sum(astuple(busy)) - sum(spent.values())
    return {
        "scans/s": num_samples / (stop - start),
        "limited by": utilization.limit,
        "busy share of the cores": utilization.cores,
        "busy share of the workers of the GPU": utilization.gpus,
        "ms a scan": {name: 1000 * seconds / num_samples for name, seconds in spent.items()},
        "bytes a scan": sum(batch.num_bytes for batch in counted) / num_samples,
        "failures": failures[:3],
    }
