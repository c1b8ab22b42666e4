"""Parts of `bench_gpu.py`: rates, agreement and memory of the renderers for GPUs.

Meshes: ico-spheres of 5,120, 20,480 and 81,920 faces, and the shared face (45,008 faces, textured); 224 px, 3 views.
Rates are those of all steps from the mesh in host memory to quantised images there, 16 meshes in a call.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from gpu_device import DEVICE, HAS_GPU, describe, median_seconds
from gpu_rows import Figures, Rows
from torch.profiler import ProfilerActivity, profile

from helpers.shapes import painted, sphere
from helpers.shared_faces import ICT_FILE, MISSING, load_smiling_face
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig, build_views
from smile_pipe.pipeline.rendering.gpu import GpuRenderer
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer
from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

CHANNELS = ("rgb", "depth", "normal")
SIZE = 224 if HAS_GPU else 16
MESHES_PER_CALL, ROUNDS = (16, 7) if HAS_GPU else (1, 1)
FACE = "shared face, textured"
# Subdivisions of the ico-spheres.
SPHERES = {"20,480 faces": 5, "5,120 faces": 4, "81,920 faces": 6} if HAS_GPU else {"20 faces": 0}
NUM_KERNELS = 12
# Largest differences that count as agreement: depth in frame units, normals in degrees, rgb in levels.
MAX_DEPTH, MAX_NORMAL, MAX_RGB = 1e-3, 1.0, 2.0


def load_meshes() -> Mapping[str, Callable[[], Mesh]]:
    """What makes each mesh, the most important first."""
    spheres = {name: lambda level=level: painted(sphere(level, 0.8), (200, 120, 90)) for name, level in SPHERES.items()}
    return {FACE: _load_face, **spheres}


def load_renderers() -> dict[str, GpuRenderer]:
    """The renderers for GPUs that are installed."""
    renderers: dict[str, GpuRenderer] = {"zbuffer-cuda": ZBufferCudaRenderer(str(DEVICE))}
    try:
        from smile_pipe.pipeline.rendering.pytorch3d import PyTorch3DRenderer
    except ModuleNotFoundError:
        return renderers
    return {**renderers, "pytorch3d": PyTorch3DRenderer(str(DEVICE))}


def rasterise(rows: Rows) -> None:
    """Milliseconds a mesh of three views, and the kernels of a call."""
    rows.add("device", describe())
    renderers = load_renderers()
    for name, load in load_meshes().items():
        _measure_mesh(rows, name, lambda load=load: _rates(renderers, load()))
    for name, renderer in renderers.items():
        _measure_mesh(rows, f"kernels of {name}", lambda renderer=renderer: _kernels(renderer, _load_face()), FACE)


def agree(rows: Rows) -> None:
    """Differences from `zbuffer` on pixels that both cover."""
    rows.add("device", describe())
    renderers = load_renderers()
    for name, load in load_meshes().items():
        # The first row compiles all kernels.
        _measure_mesh(rows, name, lambda load=load: _differences(renderers, load()))


def memory(rows: Rows) -> None:
    """Bytes of device memory a pixel at the peak, without the mesh, against the estimate that bounds a call."""
    rows.add("device", describe())
    for name, renderer in load_renderers().items() if HAS_GPU else ():
        rows.measure(name, lambda renderer=renderer: _bytes_per_pixel(renderer))
    if not HAS_GPU:
        rows.add("all", {"not measured": "needs a GPU"})


def _measure_mesh(rows: Rows, name: str, work: Callable[[], Figures], mesh: str = "") -> None:
    if (mesh or name) == FACE and not ICT_FILE.is_file():
        rows.add(name, {"not measured": MISSING})
    else:
        rows.measure(name, work)


def _load_face() -> Mesh:
    mesh = load_smiling_face()
    if HAS_GPU:
        return mesh
    # In the interpreter each face costs milliseconds: a few around the tip of the nose, enlarged.
    assert mesh.face_uvs is not None
    nearest = np.argsort(mesh.vertices[mesh.faces, 2].mean(axis=1))[-60:]
    used, faces = np.unique(mesh.faces[nearest], return_inverse=True)
    vertices = mesh.vertices[used] - mesh.vertices[used].mean(axis=0)
    vertices /= np.abs(vertices).max()
    return replace(Mesh.build(vertices, faces.reshape(-1, 3), mesh.uvs, mesh.face_uvs[nearest]), texture=mesh.texture)


def _rig(size: int = SIZE) -> Rig:
    return Rig.build(build_views("3", 30.0)[: None if HAS_GPU else 1], size)


def _rates(renderers: Mapping[str, GpuRenderer], mesh: Mesh) -> Figures:
    figures: Figures = {"faces": len(mesh.faces)}
    meshes, rigs = [mesh] * MESHES_PER_CALL, [_rig()] * MESHES_PER_CALL
    for name, renderer in renderers.items():
        seconds = median_seconds(lambda r=renderer: r.render_quantised(meshes, rigs, CHANNELS), ROUNDS)
        figures[f"{name}, ms"] = 1000 * seconds / MESHES_PER_CALL
    if "pytorch3d" in renderers:
        variants = {name: 1000 * median_seconds(work, ROUNDS) for name, work in _rasterisers(mesh).items()}
        figures["rasteriser alone, ms"] = {name: spent / MESHES_PER_CALL for name, spent in variants.items()}
        fastest = min(figures["rasteriser alone, ms"].values())
        figures["rate of pytorch3d / fastest rasteriser alone"] = fastest / figures["pytorch3d, ms"]
        figures["rate of zbuffer-cuda / pytorch3d"] = figures["pytorch3d, ms"] / figures["zbuffer-cuda, ms"]
    return figures


def _rasterisers(mesh: Mesh) -> Mapping[str, Callable[[], object]]:
    """PyTorch3D's `MeshRasterizer` on the same meshes, already on the device, one candidate per pixel, by variant.

    With its default room for a bin it may drop faces.
    """
    from pytorch3d.renderer import MeshRasterizer, PerspectiveCameras, RasterizationSettings
    from pytorch3d.structures import Meshes

    rig = _rig()
    vertices, faces = torch.from_numpy(mesh.vertices).to(DEVICE), torch.from_numpy(mesh.faces).long().to(DEVICE)

    def rasteriser(num_meshes: int, num_calls: int, room: int | None) -> Callable[[], object]:
        rotations, translations = (
            torch.from_numpy(np.tile(array, (num_meshes, *[1] * (array.ndim - 1)))).float().to(DEVICE)
            for array in (rig.rotations, rig.translations)
        )
        focal = float(2 * rig.intrinsics[0, 0, 0] / rig.size)
        cameras = PerspectiveCameras(focal_length=focal, R=rotations, T=translations, device=DEVICE)
        rasterizer = MeshRasterizer(cameras, RasterizationSettings(image_size=rig.size, max_faces_per_bin=room))
        num_views = len(rotations)
        packed = Meshes(verts=[vertices] * num_views, faces=[faces] * num_views)
        return lambda: [rasterizer(packed) for _ in range(num_calls)]

    return {
        "a mesh a call": rasteriser(1, MESHES_PER_CALL, None),
        "a mesh a call, room for all faces in each bin": rasteriser(1, MESHES_PER_CALL, len(mesh.faces)),
        "all meshes in a call": rasteriser(MESHES_PER_CALL, 1, None),
    }


def _kernels(renderer: GpuRenderer, mesh: Mesh) -> Figures:
    """Time of kernels and copies on the device in a call, and the share of the call in which the device worked.

    Kernels of several streams may run at the same time: the share may exceed 1. The profiler slows the host down.
    """
    meshes, rigs = [mesh] * MESHES_PER_CALL, [_rig()] * MESHES_PER_CALL
    renderer.render_quantised(meshes, rigs, CHANNELS)
    with profile(activities=[ProfilerActivity.CUDA if HAS_GPU else ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        renderer.render_quantised(meshes, rigs, CHANNELS)
        seconds = time.perf_counter() - began
    events = profiled.key_averages()
    spent = {event.key: event.self_device_time_total if HAS_GPU else event.self_cpu_time_total for event in events}
    longest = sorted(spent, key=lambda key: spent[key], reverse=True)[:NUM_KERNELS]
    return {
        "busy share of the device": sum(spent.values()) / 1e6 / seconds,
        "ms a mesh": {key: spent[key] / 1000 / MESHES_PER_CALL for key in longest},
    }


def _differences(renderers: Mapping[str, GpuRenderer], mesh: Mesh) -> Figures:
    figures: Figures = {}
    (expected,) = ZBufferRenderer().render([mesh], [_rig()])
    for name, renderer in renderers.items():
        (images,) = renderer.render([mesh], [_rig()])
        both = (images.depth > 0) & (expected.depth > 0)
        chords = np.linalg.norm((images.normal - expected.normal)[both], axis=-1)
        depth = float(np.abs(images.depth - expected.depth)[both].max())
        normal = float(np.median(np.degrees(2 * np.arcsin(chords / 2))))
        rgb = float(np.median(np.abs(images.rgb.astype(int) - expected.rgb)[both]))
        figures[name] = {
            "pixels covered by both": int(both.sum()),
            "pixels covered by one only": int(((images.depth > 0) != (expected.depth > 0)).sum()),
            "depth, largest difference, units": depth,
            "normal, median, degrees": normal,
            "rgb, median, levels": rgb,
            "agrees": depth <= MAX_DEPTH and normal <= MAX_NORMAL and rgb <= MAX_RGB,
        }
    return figures


def _bytes_per_pixel(renderer: GpuRenderer) -> Figures:
    large, mesh = _rig(2048), painted(sphere(2, 0.8), (200, 120, 90))
    renderer.render_quantised([mesh], [large], CHANNELS)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    renderer.render_quantised([mesh], [large], CHANNELS)
    peak = torch.cuda.max_memory_allocated() - before
    return {"measured": peak / (3 * 2048**2), "estimate": renderer.bytes_per_pixel}
