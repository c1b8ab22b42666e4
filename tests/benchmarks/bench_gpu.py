"""Rates, agreement and memory of the renderers on a GPU, in parts that fail on their own.

    python tests/benchmarks/bench_gpu.py --json gpu.json

Parts, for ico-spheres of about 5,000, 20,000 and 80,000 faces, 224 px, 3 views:

    rasterise   PyTorch3D's rasteriser alone, its faces by bin limited to the largest mesh, and `pytorch3d` and
                `zbuffer-cuda` with all steps from the mesh in host memory to quantised images there
    agree       rgb, depth and normals of both against `zbuffer` on the CPU
    memory      peak of the device memory for each pixel, against the estimate that bounds a call

Without a GPU the kernels run in Triton's interpreter (set TRITON_INTERPRET=1) on a small image, which shows that the
benchmark works; its rates then mean nothing.
"""

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.shapes import painted, sphere
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig, build_views
from smile_pipe.pipeline.rendering.gpu import GpuRenderer
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer
from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

CHANNELS = ("rgb", "depth", "normal")
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
# Subdivisions of the ico-spheres: 5,120, 20,480 and 81,920 faces.
LEVELS = (4, 5, 6) if HAS_GPU else (0,)
SIZE = 224 if HAS_GPU else 16
MESHES_PER_CALL, ROUNDS = (16, 7) if HAS_GPU else (2, 1)

Figures = dict[str, Any]


def _renderers() -> dict[str, GpuRenderer]:
    renderers: dict[str, GpuRenderer] = {"zbuffer-cuda": ZBufferCudaRenderer(DEVICE)}
    try:
        from smile_pipe.pipeline.rendering.pytorch3d import PyTorch3DRenderer
    except ModuleNotFoundError:
        return renderers
    return {**renderers, "pytorch3d": PyTorch3DRenderer(DEVICE)}


def _rig() -> Rig:
    return Rig.build(build_views("3", 30.0), SIZE)


def _mesh(level: int) -> Mesh:
    return painted(sphere(level, 0.8), (200, 120, 90))


def _seconds(work: Callable[[], Any]) -> float:
    """The median of several rounds, after one that compiles."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        if HAS_GPU:
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if HAS_GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def rasterise() -> Figures:
    """Milliseconds a mesh of three views."""
    figures: Figures = {}
    for level in LEVELS:
        mesh, rig = _mesh(level), _rig()
        row = figures[f"{len(mesh.faces)} faces"] = {}
        for name, renderer in _renderers().items():
            meshes, rigs = [mesh] * MESHES_PER_CALL, [rig] * MESHES_PER_CALL
            whole = _seconds(lambda r=renderer, m=meshes, g=rigs: r.render_quantised(m, g, CHANNELS))
            row[name] = 1000 * whole / MESHES_PER_CALL
            if name == "pytorch3d":
                row["rasteriser alone"] = 1000 * _seconds(_bare(renderer, mesh, rig))
                row["rate of pytorch3d / rasteriser alone"] = row["rasteriser alone"] / row[name]
                row["rate of zbuffer-cuda / pytorch3d"] = row[name] / row["zbuffer-cuda"]
    return figures


def _bare(renderer: GpuRenderer, mesh: Mesh, rig: Rig) -> Callable[[], Any]:
    """PyTorch3D's rasteriser on vertices that are projected already, with its own choice of bins."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    drawing = renderer._begin(renderer._stage(mesh), rig, slice(0, len(rig.cameras)), 0)
    if HAS_GPU:
        torch.cuda.synchronize()
    packed = Meshes(verts=list(drawing.ndc), faces=[drawing.surface.faces.long()] * len(drawing.ndc))
    # With its default room for a bin it may drop faces.
    return lambda: rasterize_meshes(
        packed, image_size=SIZE, faces_per_pixel=1, perspective_correct=True, max_faces_per_bin=len(mesh.faces)
    )


def agree() -> Figures:
    """Differences from `zbuffer` on pixels that both cover."""
    figures: Figures = {}
    for level in LEVELS:
        mesh, rig = _mesh(level), _rig()
        (expected,) = ZBufferRenderer().render([mesh], [rig])
        for name, renderer in _renderers().items():
            (images,) = renderer.render([mesh], [rig])
            both = (images.depth > 0) & (expected.depth > 0)
            chords = np.linalg.norm((images.normal - expected.normal)[both], axis=-1)
            figures[f"{name}, {len(mesh.faces)} faces"] = {
                "pixels covered by one only": int(((images.depth > 0) != (expected.depth > 0)).sum()),
                "depth, largest difference, units": float(np.abs(images.depth - expected.depth)[both].max()),
                "normal, median, degrees": float(np.median(np.degrees(2 * np.arcsin(chords / 2)))),
                "rgb, median, levels": float(np.median(np.abs(images.rgb.astype(int) - expected.rgb)[both])),
            }
    return figures


def memory() -> Figures:
    """Bytes of device memory a pixel at the peak, without the mesh."""
    if not HAS_GPU:
        return {"not measured": "needs a GPU"}
    figures: Figures = {}
    large = Rig.build(build_views("3", 30.0), 2048)
    for name, renderer in _renderers().items():
        renderer.render_quantised([_mesh(2)], [large], CHANNELS)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        renderer.render_quantised([_mesh(2)], [large], CHANNELS)
        peak = torch.cuda.max_memory_allocated() - before
        figures[name] = {"measured": peak / (3 * 2048**2), "estimate": renderer.bytes_per_pixel}
    return figures


PARTS = {part.__name__: part for part in (rasterise, agree, memory)}


def main() -> None:
    """Run all parts; a part that fails leaves its error in the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write all figures to this file, after each part")
    given = parser.parse_args()
    figures: Figures = {"device": torch.cuda.get_device_name() if HAS_GPU else "CPU, interpreted: rates mean nothing"}
    for name in given.parts:
        began = time.perf_counter()
        try:
            figures[name] = PARTS[name]()
        except Exception:
            figures[name] = {"error": traceback.format_exc()}
        figures[name]["seconds"] = time.perf_counter() - began
        print(json.dumps({name: figures[name]}, indent=2), flush=True)
        if given.json:
            given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
