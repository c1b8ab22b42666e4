"""The renderer for GPUs with PyTorch3D, which finds the nearest faces; projection and shading are ours.

No bin of the rasteriser overflows, and results do not depend on the order in which a device computes.

PyTorch3D's cameras and mesh structures are not used: they pad all meshes to the largest, build their transforms in
Python for each call, and wait for the device. On a CPU, PyTorch3D compares every pixel with every face: usable for
tests, far too slow for scans (see README.md).
"""

import math
from dataclasses import dataclass

import numpy as np
import pytorch3d
import torch
from numpy.typing import NDArray
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from torch import Tensor

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import PYTORCH3D_REVISION
from smile_pipe.pipeline.rendering.cameras import Rig, project
from smile_pipe.pipeline.rendering.gpu import IMAGE_BYTES, Drawing, GpuRenderer, HostCopy
from smile_pipe.pipeline.rendering.kernels.cuda_vertices import count_faces_in_bins
from smile_pipe.pipeline.rendering.kernels.faces import LAST_FACE, NO_FACE
from smile_pipe.pipeline.rendering.kernels.vertices import OFFSCREEN
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

# PyTorch3D treats a pixel centre on an edge, or within rounding of it, as outside both faces: a hole in the surface.
# A margin of 1e-6 of half the image closes it without moving an outline (PyTorch3D takes the squared margin).
EDGE_MARGIN = 1e-12
# Faces that meet under a pixel centre have equal depth. Of those a GPU keeps the candidates that it processed first,
# which differ between runs, sorted by depth and then by index. Fewer faces of equal depth than candidates are all kept.
CANDIDATES = 3
# PyTorch3D's coarse pass can handle 21 bins in a row.
MAX_BINS_IN_ROW = 21
# Limit on its table of faces by bin, in entries of 4 bytes: 1 GiB. It computes offsets with 32-bit integers.
MAX_BIN_TABLE = 1 << 28


@dataclass(frozen=True, eq=False)
class PackedMeshes:
    """What `rasterize_meshes` reads of a batch of meshes: here one mesh, as each view sees it.

    Attributes:
        ndc: float32 [V, N, 3], see `smile_pipe.pipeline.rendering.kernels.cuda_vertices.project`.
        faces: int32 [F, 3].
    """

    ndc: Tensor
    faces: Tensor

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.ndc.device

    def verts_packed(self) -> Tensor:
        """Vertices of all views, float32 [V N, 3]."""
        return self.ndc.flatten(0, 1)

    def faces_packed(self) -> Tensor:
        """Faces of all views as indices into `verts_packed`, int64 [V F, 3]."""
        num_views, num_vertices, _ = self.ndc.shape
        first = torch.arange(num_views, device=self.device) * num_vertices
        return (first[:, None, None] + self.faces).flatten(0, 1)

    def mesh_to_faces_packed_first_idx(self) -> Tensor:
        """Index of the first face of each view, int64 [V]."""
        return torch.arange(len(self.ndc), device=self.device) * len(self.faces)

    def num_faces_per_mesh(self) -> Tensor:
        """Number of faces of each view, int64 [V]."""
        return torch.full((len(self.ndc),), len(self.faces), device=self.device)


class PyTorch3DRenderer(GpuRenderer):
    """PyTorch3D's rasteriser on a GPU, all views of a mesh in a call; see `backend.Renderer`."""

    name = "pytorch3d"
    version: str = f"{pytorch3d.__version__}.{PYTORCH3D_REVISION}"
    uses_ndc = True
    # For each candidate PyTorch3D returns a face, a depth, a distance and three weights.
    bytes_per_pixel = IMAGE_BYTES + 28 * CANDIDATES

    def prepare_faces(self, drawing: Drawing) -> HostCopy:
        """Queue the largest number of faces in a bin, and its copy to the host."""
        assert drawing.ndc is not None
        counts = count_faces_in_bins(drawing.ndc, drawing.surface.faces, drawing.size, bin_size_of(drawing.size))
        return self.to_host(drawing, {"most": counts.max()})

    def find_faces(self, drawing: Drawing, exactly: bool) -> Tensor:
        """Find the nearest face of each pixel; see `GpuRenderer.find_faces`."""
        assert drawing.ndc is not None
        size, faces = drawing.size, drawing.surface.faces
        # Without bins, faces are processed in order.
        bin_size, most = (0, 0) if exactly else self._bins(drawing)
        face, depth = rasterise(PackedMeshes(drawing.ndc, faces), size, bin_size, most, drawing.is_perspective)
        # If all candidates are equally near, more such faces may have been lost.
        is_tied = (face[..., -1] >= 0) & (depth[..., -1] == depth[..., 0])
        if not exactly:
            drawing.status[1] = is_tied.any()
        # Faces are numbered over all views.
        return torch.where(face[..., 0] >= 0, LAST_FACE - face[..., 0] % len(faces), NO_FACE)

    def _bins(self, drawing: Drawing) -> tuple[int, int]:
        """Return the side of a bin in pixels, 0 for no bins, and the largest number of faces in a bin."""
        if self.device.type != "cuda":
            return 0, 0
        # The one number that the host needs from the device; it was queued before the mesh that follows this one.
        most = max(int(drawing.prepared.wait()["most"]), 1)
        has_bins = len(drawing.cameras) * num_bins(drawing.size) * most <= MAX_BIN_TABLE
        return (bin_size_of(drawing.size), most) if has_bins else (0, 0)


class PyTorch3DCpuRenderer(ZBufferRenderer):
    """PyTorch3D's rasteriser on a CPU with the shading of `zbuffer`; for tests."""

    name = "pytorch3d"
    version = PyTorch3DRenderer.version

    def find_faces(
        self, snapped: NDArray[np.int32], mesh: Mesh, rig: Rig, view: int, zbuffer: NDArray[np.int64]
    ) -> None:
        """Find the nearest face of each pixel; see `ZBufferRenderer.find_faces`."""
        packed = pack_view(mesh, rig, view, snapped[:, 0] != OFFSCREEN)
        face = rasterise(packed, rig.size, 0, 0, rig.is_perspective)[0][0, ..., 0].numpy()
        zbuffer[:] = np.where(face >= 0, LAST_FACE - face, NO_FACE)


def pack_view(mesh: Mesh, rig: Rig, view: int, is_drawn: NDArray[np.bool_]) -> PackedMeshes:
    """Return a mesh on the CPU as one view sees it, without the faces of vertices that are not drawn."""
    u, v, z = project(rig.cameras[view], mesh.vertices).T
    ndc = np.stack([1 - 2 * u / rig.size, 1 - 2 * v / rig.size, z], axis=1)
    ndc[~is_drawn] = 0
    return PackedMeshes(torch.from_numpy(ndc[None]).float(), torch.from_numpy(mesh.faces))


def build_pytorch3d() -> PyTorch3DRenderer | PyTorch3DCpuRenderer:
    """Build the renderer for the GPU of this machine, or for its CPU if it has none."""
    return PyTorch3DRenderer() if torch.cuda.is_available() else PyTorch3DCpuRenderer()


def rasterise(packed: PackedMeshes, size: int, bin_size: int, most: int, perspective: bool) -> tuple[Tensor, Tensor]:
    """Find the nearest faces of each pixel by PyTorch3D.

    Args:
        packed: A mesh as each view sees it.
        size: Height and width of the images in pixels.
        bin_size: Side of a bin in pixels; 0 compares each pixel with each face.
        most: At least the largest number of faces in a bin: a bin that overflows loses faces without an error.
        perspective: Whether the cameras divide by depth.

    Returns:
        Faces int64 [V, H, W, `CANDIDATES`], nearest first, numbered over all views, -1 if there is none; and their
        depths float32.
    """
    # PyTorch3D drops faces with a vertex at a depth of 0, which `ndc` has for vertices that cannot be drawn.
    face, depth, _, _ = rasterize_meshes(
        packed,
        image_size=size,
        blur_radius=EDGE_MARGIN,
        clip_barycentric_coords=True,
        faces_per_pixel=CANDIDATES,
        bin_size=bin_size,
        max_faces_per_bin=most,
        perspective_correct=perspective,
        cull_backfaces=False,
    )
    return face, depth


def bin_size_of(size: int) -> int:
    """Return the side of a bin in pixels: the smallest that the coarse pass can handle, and at least 8."""
    return max(8, math.ceil(size / MAX_BINS_IN_ROW))


def num_bins(size: int) -> int:
    """Return the number of bins of an image."""
    return math.ceil(size / bin_size_of(size)) ** 2
