"""Milliseconds per step of a render, and scans per second of the whole command.

Create scans as OBJ, VRML or PLY, then:

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_render.py OBJ WRL --json render.json
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_render.py OBJ --plain vtk --plain pytorch3d --many 10000

For each folder and for ico-spheres of 5,120, 20,480 and 81,920 faces, with `rgb` alone and with `rgb,depth,normal`,
three views of 224 pixels: milliseconds of each step per scan, in the order of a render, on one core in this process
(mean over scans, of the fastest of `--rounds`). Then `smile-pipe render` on Ray with one and two workers, on `--many`
scans, which are links to the given ones: scans per second in the second half, and the memory of the largest worker in
each half. Then the scripts `plain_vtk.py` and `plain_pytorch3d.py` on one core each, which need VTK and PyTorch3D.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import trimesh

from smile_pipe.pipeline.common.ray_session import WORKERS_ENVIRONMENT
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import stat_source
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame, drop_wrong_landmarks
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.landmarks.surface import landmarks_problem
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.meshes.texture import read_texture
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.fingerprints import hash_source
from smile_pipe.pipeline.rendering.backend import AMBIENT, BACKGROUND, ViewImages
from smile_pipe.pipeline.rendering.cameras import Rig, build_views
from smile_pipe.pipeline.rendering.encoding import DEPTH_SCALE, encode_frame, quantise_views
from smile_pipe.pipeline.rendering.kernels.faces import rasterise
from smile_pipe.pipeline.rendering.kernels.pixels import Images, ViewParams, shade
from smile_pipe.pipeline.rendering.kernels.vertices import project
from smile_pipe.pipeline.rendering.zbuffer import build_surface
from smile_pipe.shards.sample import Frame, MeshStatistics, Sample, SampleRecord
from smile_pipe.shards.writer import pack

SIZE, YAW = 224, 35.0
CHANNELS = (("rgb",), ("rgb", "depth", "normal"))
STEPS = ("digest", "read", "texture", "frame", "prepare", "project", "rasterise", "shade", "quantise", "encode", "pack")
SPHERES = (4, 5, 6)
PLAIN = Path(__file__).parent


class Laps:
    """Milliseconds of each step, summed over scans."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    def start(self) -> None:
        """Start the clock; earlier time is not counted."""
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        """Add the time since the last lap to `step`."""
        now = time.perf_counter()
        self.spent[step] += 1e3 * (now - self._since)
        self._since = now


def draw(mesh: Mesh, rig: Rig, laps: Laps) -> ViewImages:
    """Render as `ZBufferRenderer` does, with a lap after each step."""
    shape = (len(rig.cameras), rig.size, rig.size)
    images = ViewImages(np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32), np.empty((*shape, 3), np.float32))
    surface = build_surface(mesh)
    screen, snapped = np.empty((len(mesh.vertices), 3), np.float32), np.empty((len(mesh.vertices), 3), np.int32)
    words, no_flow = np.empty((rig.size, rig.size), np.int64), np.empty((0, 0, 3), np.float32)
    laps.lap("prepare")
    for v in range(len(rig.cameras)):
        lens = ViewParams(rig.rotations[v], rig.intrinsics[v], rig.is_perspective)
        project(mesh.vertices, lens.R, rig.translations[v], lens.K, lens.perspective, screen, snapped)
        laps.lap("project")
        rasterise(snapped, mesh.faces, lens.perspective, words)
        laps.lap("rasterise")
        here = Images(images.rgb[v], images.depth[v], images.normal[v], no_flow)
        shade(words, screen, surface, lens, AMBIENT, BACKGROUND, here)
        laps.lap("shade")
    return images


def finish(images: ViewImages, channels: tuple[str, ...], rig: Rig, frame: Frame, laps: Laps) -> None:
    """Encode images to the bytes that a shard contains."""
    pixels = quantise_views(images, channels)
    laps.lap("quantise")
    members = iter(encode_frame(pixels))
    laps.lap("encode")
    named = {(camera.name, channel): next(members) for camera in rig.cameras for channel in channels}
    record = SampleRecord(
        key="benchmark",
        subject="b",
        expression="NE",
        level=None,
        labels={},
        layout="folder",
        source="benchmark.obj",
        fingerprint="",
        text_source="label",
        concept="NE",
        cameras=rig.cameras,
        channels=channels,
        frame=frame,
        depth=DEPTH_SCALE if "depth" in channels else None,
        mesh=MeshStatistics(num_vertices=0, num_faces=0, surface="plain", num_landmarks=0),
    )
    pack(Sample(record, "a face", named))
    laps.lap("pack")


def of_scan(sample: SampleSource, root: Path, laps: Laps) -> tuple[Mesh, Frame]:
    """Read a scan into the canonical frame."""
    files = sample.frames[0]
    laps.start()
    for path in files.paths:
        hash_source(root, path, stat_source(root, path))
    laps.lap("digest")
    mesh = read_scan(root / files.mesh, root / files.landmarks if files.landmarks else None)
    laps.lap("read")
    if files.texture:
        mesh = Mesh(**{**vars(mesh), "texture": read_texture(root / files.texture)})
    laps.lap("texture")
    if mesh.landmarks is not None and (problem := landmarks_problem(mesh)):
        raise SystemExit(f"{files.mesh}: {problem}")
    mesh, _ = drop_wrong_landmarks(mesh)
    frame = canonical_frame(mesh)
    mesh = apply_frame(mesh, frame)
    laps.lap("frame")
    return mesh, frame


def of_sphere(subdivisions: int, laps: Laps) -> tuple[Mesh, Frame]:
    """An ico-sphere of about the size of a head, in the canonical frame."""
    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.9)
    mesh = Mesh.build(ball.vertices, ball.faces)
    laps.start()
    frame = canonical_frame(mesh)
    laps.lap("frame")
    return mesh, frame


def steps(
    scans: Sequence[Callable[[Laps], tuple[Mesh, Frame]]], channels: tuple[str, ...], rounds: int
) -> dict[str, float]:
    """Milliseconds of each step per scan, in the fastest round."""
    rig, found = Rig.build(build_views("3", YAW), SIZE), []
    for _ in range(rounds + 1):  # the first compiles
        laps = Laps()
        for scan in scans:
            mesh, frame = scan(laps)
            finish(draw(mesh, rig, laps), channels, rig, frame, laps)
        found.append({step: laps.spent[step] / len(scans) for step in STEPS})
    return min(found[1:], key=lambda spent: sum(spent.values()))


def whole(folder: Path, channels: tuple[str, ...], workers: int) -> dict[str, float]:
    """Scans per second of `smile-pipe render`, and the peak memory of a worker in each half (MB)."""
    import ray

    others, seen = set(_ray_processes()), list[tuple[float, int, float]]()

    def look(progress: render.RenderProgress) -> None:
        seen.append((time.perf_counter(), progress.num_done, _largest(set(_ray_processes()) - others)))

    with tempfile.TemporaryDirectory() as out:
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=1 << 30,
            runtime_env={"env_vars": WORKERS_ENVIRONMENT},
        )
        try:
            config = RenderConfig(data_dir=folder, out=Path(out) / "shards", channels=channels, size=SIZE)
            render.run(config, look)
        finally:
            ray.shutdown()
    # In the first half workers start and load libraries.
    half = len(seen) // 2
    (began, first, _), (ended, last, _) = seen[half], seen[-1]
    return {
        "rate": (last - first) / (ended - began),
        "memory_first_half": max(row[2] for row in seen[:half]),
        "memory_second_half": max(row[2] for row in seen[half:]),
    }


def _ray_processes() -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::"):
                yield process
        except OSError:  # it has ended meanwhile
            continue


def _largest(processes: Iterable[Path]) -> float:
    """Largest private memory of some processes in MB; objects in shared memory are not counted."""
    sizes = [0.0]
    for process in processes:
        try:
            (line,) = (line for line in (process / "status").read_text().splitlines() if "RssAnon" in line)
            sizes.append(int(line.split()[1]) / 1024)
        except (OSError, ValueError):
            continue
    return max(sizes)


def plain(script: str, channels: tuple[str, ...], scans: Sequence[Path]) -> float:
    """Scans per second of a plain script on one core."""
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS", "MKL_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(PLAIN / f"plain_{script}.py"), f"{out}/scans.tar", ",".join(channels)]
        command += [str(path) for path in scans]
        done = subprocess.run(command, env=os.environ | one_thread, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def linked(scans: Iterable[Path], num: int, folder: Path) -> None:
    """Copies of the folders of scans, as links to their files, until there are `num` scans."""
    sources = sorted(scans)
    for n in range(-(-num // len(sources))):
        for source in sources:
            # M0001_AN01WH_F3D.obj of subject M0001 becomes M1001_AN01WH_F3D.obj of subject M1001.
            subject = f"{source.stem[0]}{n + 1:02d}{source.stem[3:5]}"
            (folder / subject).mkdir(exist_ok=True)
            for file in source.parent.glob(source.stem.replace("_F3D", "*")):
                os.link(file, folder / subject / (subject + file.name[5:]))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="data directories of scans, each of one kind")
    parser.add_argument("--scans", type=int, default=12, help="scans of each folder, for steps")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions")
    parser.add_argument(
        "--plain", choices=("vtk", "pytorch3d"), action="append", default=[], help="plain scripts to run"
    )
    parser.add_argument("--many", type=int, default=800, help="scans per render")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def main() -> None:
    """Measure and print the tables."""
    given = arguments()
    found: dict[str, object] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found["date"] = datetime.now(UTC).date().isoformat()
    kinds: dict[str, list[Callable[[Laps], tuple[Mesh, Frame]]]] = {}
    for folder in given.folders:
        samples = _samples(folder, given.scans)
        kinds[Path(samples[0].frames[0].mesh).suffix] = [_scan(sample, folder) for sample in samples]
    for subdivisions in SPHERES:
        kinds[f"sphere, {20 * 4**subdivisions:,} faces"] = [_sphere(subdivisions)]
    print(f"| ms a scan | channels | {' | '.join(STEPS)} | all |\n|{'---|' * (len(STEPS) + 3)}")
    for kind, scans in kinds.items():
        for channels in CHANNELS:
            spent = steps(scans, channels, given.rounds)
            found[f"{kind} {','.join(channels)}"] = spent
            row = " | ".join(f"{spent[step]:.2f}" for step in STEPS)
            print(f"| {kind} | {','.join(channels)} | {row} | {sum(spent.values()):.1f} |", flush=True)
    print("\n| scans | channels | what | a second | MB, first half | second half |\n|---|---|---|---|---|---|")
    for folder in given.folders:
        for channels in CHANNELS:
            for name, rates in _rates(folder, channels, given):
                found[f"{folder.name} {','.join(channels)} {name}"] = rates
                row = " | ".join(f"{value:.3g}" for value in rates.values())
                print(f"| {folder.name} | {','.join(channels)} | {name} | {row} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def _rates(
    folder: Path, channels: tuple[str, ...], given: argparse.Namespace
) -> Iterator[tuple[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory(dir=folder) as many:
        linked(_files(folder), given.many, Path(many))
        for workers in (1, 2):
            yield f"render, {workers} workers", whole(Path(many), channels, workers)
    scans = [path for path in _files(folder) if path.suffix == ".obj"]
    if scans:
        for script in given.plain:
            # PyTorch3D takes half a minute a scan on a CPU.
            yield f"plain_{script}", {"rate": plain(script, channels, scans[: 25 if script == "vtk" else 2])}


def _files(folder: Path) -> list[Path]:
    return [folder / sample.frames[0].mesh for sample in _samples(folder)]


def _samples(folder: Path, num: int | None = None) -> list[SampleSource]:
    with tempfile.TemporaryDirectory() as out:
        work = render.plan(RenderConfig(data_dir=folder, out=Path(out) / "shards", limit=num))
    return [sample for task in work.tasks for sample in task.samples]


def _scan(sample: SampleSource, root: Path) -> Callable[[Laps], tuple[Mesh, Frame]]:
    return lambda laps: of_scan(sample, root, laps)


def _sphere(subdivisions: int) -> Callable[[Laps], tuple[Mesh, Frame]]:
    return lambda laps: of_sphere(subdivisions, laps)


if __name__ == "__main__":
    main()
