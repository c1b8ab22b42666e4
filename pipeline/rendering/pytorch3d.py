"""The renderer for GPUs: PyTorch3D's rasteriser finds the nearest faces, `torch_shading` shades them.

Meshes of any size share a call, within a memory limit. No bin of the rasteriser overflows, and results do not depend on
the order in which a device computes.

Vertices are projected here, not by PyTorch3D's cameras: those pad all meshes to the largest and build their transforms
in Python for each call, and K, R and T already have the same convention. On a CPU, PyTorch3D compares every pixel with
every face: usable for tests, far too slow for scans (see README.md).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytorch3d
import torch
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.structures import Meshes
from torch import Tensor

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.torch_shading import Cameras, Surface, draw_flow, shade

# PyTorch3D treats a pixel centre on an edge, or within rounding of it, as outside both faces: a hole in the surface.
# A margin of 1e-6 of half the image closes it without moving an outline (PyTorch3D takes the squared margin).
EDGE_MARGIN = 1e-12
# Two faces that meet under a pixel centre have equal depth. With one candidate per pixel, a GPU keeps the face that was
# processed first, which differs between runs; two candidates are sorted by depth and then by index.
CANDIDATES = 2
# Bytes that one call may allocate on the device. More is not faster: the coarse pass visits every face of the batch
# for every image in it.
DEFAULT_MEMORY = 1 << 30
# The coarse pass computes offsets into its table of faces by bin with 32-bit integers.
MAX_BIN_TABLE = 2**31 - 1

# Index of a mesh, and the views of it to render.
BatchItem = tuple[int, slice]


class PyTorch3DRenderer:
    """Renders many meshes and views in each call, on a GPU if there is one; see `backend.Renderer`.

    Args:
        device: "auto", "cuda", "cuda:1" or "cpu"; "auto" means a GPU if there is one.
        memory: Approximate limit of the memory of one call, in bytes.
    """

    name = "pytorch3d"
    version: str = pytorch3d.__version__

    def __init__(self, device: str = "auto", memory: int = DEFAULT_MEMORY) -> None:
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.memory = memory

    @torch.inference_mode()
    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Render each mesh from every view of its rig; see `smile_pipe.pipeline.rendering.backend.Renderer`.

        A mesh that exceeds `memory` with a single view is rendered alone.
        """
        if not meshes:
            return []
        num_views, size = len(rigs[0].cameras), rigs[0].size
        shape = (num_views, size, size)
        images = [
            ViewImages(
                rgb=np.empty((*shape, 3), np.uint8),
                depth=np.empty(shape, np.float32),
                normal=np.empty((*shape, 3), np.float32),
                flow=None if mesh.flow is None else np.empty((*shape, 3), np.float32),
            )
            for mesh in meshes
        ]
        for batch in plan_batches([len(mesh.faces) for mesh in meshes], num_views, size, self.memory):
            surfaces = [Surface.build(meshes[m], self.device) for m, _ in batch]
            cameras = [Cameras.build(rigs[m], views, self.device) for m, views in batch]
            projected = [camera.project(surface.vertices) for surface, camera in zip(surfaces, cameras, strict=True)]
            fragments = _rasterise(surfaces, cameras, [_to_screen(*projection, size) for projection in projected])
            drawn = zip(batch, surfaces, cameras, projected, fragments, strict=True)
            for (m, views), surface, camera, (pixels, _, _), fragment in drawn:
                rgb, depth, normal = shade(surface, camera, pixels, *fragment)
                images[m].rgb[views] = rgb.cpu().numpy()
                images[m].depth[views] = depth.cpu().numpy()
                images[m].normal[views] = normal.cpu().numpy()
                if (flow := images[m].flow) is not None:
                    flow[views] = draw_flow(surface, camera, *fragment[:2]).cpu().numpy()
        return images


def plan_batches(num_faces: Sequence[int], num_views: int, size: int, memory: int) -> Iterator[list[BatchItem]]:
    """Divide the views of all meshes, in order, into batches.

    Args:
        num_faces: Number of faces of each mesh.
        num_views: Number of views of each mesh.
        size: Height and width of the images in pixels.
        memory: Approximate limit of a batch in bytes; a batch has at least one view.

    Yields:
        For each batch, the meshes' indices and the views of each to render.
    """
    batch: list[BatchItem] = []
    num_images = largest = 0
    for m, count in enumerate(num_faces):
        step = min(max(memory // _image_bytes(count, size), 1), num_views)
        for start in range(0, num_views, step):
            views = slice(start, min(start + step, num_views))
            num_images, largest = num_images + views.stop - views.start, max(largest, count)
            if batch and num_images * _image_bytes(largest, size) > memory:
                yield batch
                batch, num_images, largest = [], views.stop - views.start, count
            batch.append((m, views))
    if batch:
        yield batch


def _to_screen(pixels: Tensor, depth: Tensor, is_visible: Tensor, size: int) -> Tensor:
    """Convert to PyTorch3D's screen space float32 [V, N, 3]: x left and y up from -1 to 1 over the image, z the depth.

    Vertices that are not visible get a depth of 0; the rasteriser drops their faces.
    """
    screen = torch.cat([1 - 2 * pixels / size, depth[..., None]], dim=-1)
    return torch.where(is_visible[..., None], screen, 0).float()


def _rasterise(
    surfaces: list[Surface], cameras: list[Cameras], screens: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for each surface the face, barycentric weights and depth at each pixel of its views (inputs of `shade`)."""
    packed = Meshes(
        verts=[view for views in screens for view in views],
        faces=[surface.faces for surface, views in zip(surfaces, screens, strict=True) for _ in views],
    )
    size, most_faces = cameras[0].size, max(len(surface.faces) for surface in surfaces)
    has_bins = packed.device.type == "cuda" and len(packed) * _num_bins(size) * most_faces <= MAX_BIN_TABLE
    face, depth, weights, _ = rasterize_meshes(
        packed,
        image_size=size,
        blur_radius=EDGE_MARGIN,
        clip_barycentric_coords=True,
        faces_per_pixel=CANDIDATES,
        bin_size=_bin_size(size) if has_bins else 0,
        # A bin that overflows loses faces without an error; no bin has more faces than the largest mesh.
        max_faces_per_bin=most_faces,
        perspective_correct=cameras[0].is_perspective,
        cull_backfaces=False,
    )
    image = first_face = 0
    for surface, views in zip(surfaces, screens, strict=True):
        image_range, count = slice(image, image + len(views)), len(surface.faces)
        # Faces are numbered over the whole batch, in which each view has its own copy of the mesh.
        local = torch.where(face[image_range, ..., 0] < 0, -1, (face[image_range, ..., 0] - first_face) % count)
        yield local, weights[image_range, ..., 0, :], depth[image_range, ..., 0]
        image, first_face = image_range.stop, first_face + len(views) * count


def _bin_size(size: int) -> int:
    """Return the side of a bin in pixels: at most 16 bins in a row (PyTorch3D's coarse pass can handle 21)."""
    return max(8, 2 ** math.ceil(math.log2(size) - 4))


def _num_bins(size: int) -> int:
    return math.ceil(size / _bin_size(size)) ** 2


def _image_bytes(num_faces: int, size: int) -> int:
    """Estimate the device memory of one image: its row of the bin table, its copy of the mesh, and its pixels."""
    table, mesh, pixel = 4 * _num_bins(size), 120, 28 * CANDIDATES + 120
    return num_faces * (table + mesh) + size * size * pixel
