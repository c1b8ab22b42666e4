"""What the renderers for GPUs share: everything but finding the nearest faces.

    mesh ──host thread: mip map, pinned memory──▶ device: project, find faces, shade, reduce ──▶ pinned memory

A few meshes are in work at a time, each on a CUDA stream of its own, so that copies, kernels and the host overlap. The
host waits for the device only where a result is complete, and where a renderer has to know a number that the device
computes. On a CPU the kernels run in Triton's interpreter, slowly, for tests.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import (
    QUANTISED_BYTES,
    SKIN_TONE,
    QuantisedViews,
    ViewImages,
    check_flow,
    divide_views,
)
from smile_pipe.pipeline.rendering.cameras import Rig, samples_per_side
from smile_pipe.pipeline.rendering.kernels.cuda_pixels import DeviceImages, Surface, encoding_scales, reduce, shade
from smile_pipe.pipeline.rendering.kernels.cuda_vertices import project, vertex_normals
from smile_pipe.pipeline.rendering.mipmap import MipMap, texels_covered

# Meshes in work at a time: one is copied to the device, one is drawn, one is copied back.
NUM_IN_WORK = 3
# Limit on the device memory of the images of one call, in bytes. Larger images are drawn a few views at a time.
DEFAULT_MEMORY = 4 << 30
# Device memory of a pixel: its key, rgb, depth, normal and flow, and all of them quantised.
IMAGE_BYTES = 8 + 31 + sum(QUANTISED_BYTES.values())

In = TypeVar("In")
Out = TypeVar("Out")
# What is computed of the images of some views: tensors by name.
Outputs = Callable[[DeviceImages], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class HostCopy:
    """Copies of tensors in host memory.

    Attributes:
        tensors: By name; complete when `event` is.
        event: CUDA event after the last copy; None on a CPU.
    """

    tensors: Mapping[str, Tensor]
    event: "torch.cuda.Event | None"

    def wait(self) -> dict[str, NDArray]:
        """Wait until the copies are complete, and return them."""
        if self.event is not None:
            self.event.synchronize()
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}


@dataclass(eq=False)
class Drawing:
    """Some views of a mesh in work.

    Attributes:
        surface: The mesh on the device.
        cameras: float64 [V, 16], see `smile_pipe.pipeline.rendering.kernels.cuda_vertices.CAMERA_VALUES`.
        size: Height and width of the images that are drawn, in pixels.
        is_perspective: Whether the cameras divide by depth.
        screen, snapped, ndc: See `smile_pipe.pipeline.rendering.kernels.cuda_vertices.project`.
        status: int32 [2] on the device: whether a pixel is covered; whether `find_faces` has to be called again,
            exactly.
        stream: The CUDA stream of all its work; None on a CPU.
        prepared: What `prepare_faces` returned.
        results: The outputs and `status`.
    """

    surface: Surface
    cameras: Tensor
    size: int
    is_perspective: bool
    screen: Tensor
    snapped: Tensor | None
    ndc: Tensor | None
    status: Tensor
    stream: "torch.cuda.Stream | None"
    prepared: Any = None
    results: HostCopy | None = None


class GpuRenderer(ABC):
    """Base of the renderers for GPUs; see `smile_pipe.pipeline.rendering.backend.Renderer`.

    Args:
        device: A CUDA device, or "cpu" with Triton's interpreter.
        memory: Approximate limit of the device memory of the images of a call, in bytes; one view may exceed it.
    """

    name: str
    version: str
    # Whether `find_faces` reads `Drawing.ndc`, otherwise `Drawing.snapped`.
    uses_ndc: ClassVar[bool] = False
    # Device memory of a pixel.
    bytes_per_pixel: ClassVar[int] = IMAGE_BYTES

    def __init__(self, device: str = "cuda", memory: int = DEFAULT_MEMORY) -> None:
        self.device = torch.device(device)
        self.memory = memory
        self._scales = encoding_scales(self.device)
        self._streams: list[torch.cuda.Stream] = []
        if self.device.type == "cuda":
            # The streams do not wait for the default one, on which the scales are copied.
            torch.cuda.synchronize(self.device)
            self._streams = [torch.cuda.Stream(self.device) for _ in range(NUM_IN_WORK)]

    def prepare_faces(self, drawing: Drawing) -> Any:
        """Queue what `find_faces` needs of the device; `find_faces` runs after the next mesh has been queued."""
        return None

    @abstractmethod
    def find_faces(self, drawing: Drawing, exactly: bool) -> Tensor:
        """Find the nearest face of each pixel.

        Args:
            drawing: The views to draw.
            exactly: Whether the faces are found again, because `drawing.status[1]` was set.

        Returns:
            int64 [V, H, W], keys with faces, see `smile_pipe.pipeline.rendering.kernels.faces.decode_face`.
        """

    @torch.inference_mode()
    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Render each mesh from every view of its rig; see `smile_pipe.pipeline.rendering.backend.Renderer`."""

        def copy(images: DeviceImages) -> Mapping[str, Tensor]:
            return {name: image for name, image in images._asdict().items() if image is not None}

        return [ViewImages(**arrays) for arrays, _ in self._draw_all(meshes, rigs, copy)]

    @torch.inference_mode()
    def render_quantised(
        self, meshes: Sequence[Mesh], rigs: Sequence[Rig], channels: Sequence[str], samples_per_pixel: int = 1
    ) -> list[QuantisedViews]:
        """Render to stored integers; see `smile_pipe.pipeline.rendering.backend.Renderer`."""
        check_flow(meshes, channels)
        side = samples_per_side(samples_per_pixel)

        def quantise(images: DeviceImages) -> Mapping[str, Tensor]:
            return reduce(images, side, channels, self._scales)

        large_rigs = [rig.supersampled(samples_per_pixel) for rig in rigs]
        return [
            QuantisedViews({name: _as_unsigned(array) for name, array in arrays.items()}, is_visible)
            for arrays, is_visible in self._draw_all(meshes, large_rigs, quantise)
        ]

    def _draw_all(
        self, meshes: Sequence[Mesh], rigs: Sequence[Rig], outputs: Outputs
    ) -> Iterator[tuple[dict[str, NDArray], bool]]:
        """Yield the outputs of all views of each mesh, and whether any pixel is covered."""
        memory = self.memory // NUM_IN_WORK
        ranges = [[*divide_views(len(rig.cameras), rig.size**2 * self.bytes_per_pixel, memory)] for rig in rigs]
        parts = [(m, rig, views) for m, rig, slices in zip(meshes, rigs, ranges, strict=True) for views in slices]
        drawn = self._draw_parts(parts, outputs)
        for slices in ranges:
            found, is_visible = zip(*(next(drawn) for _ in slices), strict=True)
            joined = {n: np.concatenate([part[n] for part in found]) for n in found[0]} if found[1:] else found[0]
            yield joined, any(is_visible)

    def _draw_parts(
        self, parts: Sequence[tuple[Mesh, Rig, slice]], outputs: Outputs
    ) -> Iterator[tuple[dict[str, NDArray], bool]]:
        in_work: deque[Drawing] = deque()
        with ThreadPoolExecutor(1, "stage-meshes") as pool:
            staged_meshes = _ahead(pool, self._stage, [mesh for mesh, _, _ in parts])
            for number, ((_, rig, views), staged) in enumerate(zip(parts, staged_meshes, strict=True)):
                in_work.append(self._begin(staged, rig, views, number))
                if len(in_work) > 1:
                    self._draw(in_work[-2], outputs)
                if len(in_work) == NUM_IN_WORK:
                    yield self._finish(in_work.popleft(), outputs)
            if in_work:
                self._draw(in_work[-1], outputs)
            while in_work:
                yield self._finish(in_work.popleft(), outputs)

    def _stage(self, mesh: Mesh) -> dict[str, Tensor]:
        """Prepare a mesh in host memory from which a device copies without waiting."""
        arrays: dict[str, NDArray | None] = {"vertices": mesh.vertices, "faces": mesh.faces, "flow": mesh.flow}
        arrays["colors"] = np.array([SKIN_TONE], np.uint8) if mesh.colors is None else mesh.colors
        if mesh.texture is not None and mesh.uvs is not None and mesh.face_uvs is not None:
            mipmap = MipMap.build(mesh.texture)
            arrays |= {"face_uvs": mesh.face_uvs, "uvs": mesh.uvs, "levels": mipmap.levels}
            arrays["texels"] = mipmap.texels.view(np.int32)
            arrays["face_texels"] = texels_covered(mesh.face_uvs, mesh.uvs, *mesh.texture.shape[:2])
        return {name: self._pinned(array) for name, array in arrays.items() if array is not None}

    def _pinned(self, array: NDArray) -> Tensor:
        kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
        host = torch.empty(array.shape, dtype=kind, pin_memory=self.device.type == "cuda")
        host.numpy()[...] = array
        return host

    def _begin(self, staged: Mapping[str, Tensor], rig: Rig, views: slice, number: int) -> Drawing:
        """Queue the copies to the device, and what is computed for each vertex."""
        stream = self._streams[number % NUM_IN_WORK] if self._streams else None
        packed = np.concatenate(
            [
                rig.rotations[views].reshape(-1, 9),
                rig.translations[views],
                rig.intrinsics[views][:, [0, 1], [0, 1]],
                rig.intrinsics[views][:, :2, 2],
            ],
            axis=1,
        )
        with _on(stream):
            on_device = {name: host.to(self.device, non_blocking=True) for name, host in staged.items()}
            cameras = self._pinned(packed).to(self.device, non_blocking=True)
            normals = vertex_normals(on_device["vertices"], on_device["faces"])
            on_device["colors"] = on_device["colors"].float()
            surface = Surface(normals=normals, **on_device)
            projected = project(surface.vertices, cameras, rig.size, rig.is_perspective, self.uses_ndc)
            status = torch.zeros(2, dtype=torch.int32, device=self.device)
            drawing = Drawing(surface, cameras, rig.size, rig.is_perspective, *projected, status, stream)
            drawing.prepared = self.prepare_faces(drawing)
        return drawing

    def _draw(self, drawing: Drawing, outputs: Outputs, exactly: bool = False) -> None:
        """Queue the drawing of the images, and the copies of the outputs to the host."""
        with _on(drawing.stream):
            zbuffer = self.find_faces(drawing, exactly)
            images = shade(
                zbuffer, drawing.screen, drawing.surface, drawing.cameras, drawing.is_perspective, drawing.status
            )
            computed = {**outputs(images), "status": drawing.status}
            drawing.results = self.to_host(drawing, computed)

    def to_host(self, drawing: Drawing, tensors: Mapping[str, Tensor]) -> HostCopy:
        """Queue copies of tensors to the host, on the stream of `drawing`."""
        copies = {}
        for name, tensor in tensors.items():
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.device.type == "cuda")
            copies[name] = host.copy_(tensor, non_blocking=True)
        return HostCopy(copies, None if drawing.stream is None else drawing.stream.record_event())

    def _finish(self, drawing: Drawing, outputs: Outputs) -> tuple[dict[str, NDArray], bool]:
        """Wait for the outputs; return them, and whether any pixel is covered."""
        assert drawing.results is not None
        arrays = drawing.results.wait()
        if arrays["status"][1]:
            self._draw(drawing, outputs, exactly=True)
            arrays = drawing.results.wait()
        is_visible = bool(arrays.pop("status")[0])
        return arrays, is_visible


def _on(stream: "torch.cuda.Stream | None") -> AbstractContextManager[Any]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def _as_unsigned(array: NDArray) -> NDArray:
    return array.view(np.uint16) if array.dtype == np.int16 else array


def _ahead(pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Yield the results of a function in order; the next result is computed on the pool while the last one is used."""
    waiting: deque[Future[Out]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 1:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
