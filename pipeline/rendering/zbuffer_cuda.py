"""The `zbuffer` renderer on a GPU: Triton finds the nearest faces (`cuda_faces.py`), `torch_shading` shades them.

It finds the same faces as `zbuffer`; images are equal up to the last bit of shading. Results do not depend on the order
in which a device computes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.kernels.cuda_faces import rasterise
from smile_pipe.pipeline.rendering.kernels.faces import LAST_FACE, NO_FACE
from smile_pipe.pipeline.rendering.kernels.vertices import OFFSCREEN, SUBPIXEL
from smile_pipe.pipeline.rendering.torch_shading import MIN_AREA, Cameras, Surface, draw_flow, shade


class ZBufferCudaRenderer:
    """Renders all views of a mesh at once, and queues the next mesh without waiting; see `backend.Renderer`."""

    name = "zbuffer-cuda"
    # Increase it when the pixels change: finished shards are then rendered again.
    version = "1"

    def __init__(self, device: str = "cuda") -> None:
        self.device = torch.device(device)

    @torch.inference_mode()
    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Render each mesh from every view of its rig; see `smile_pipe.pipeline.rendering.backend.Renderer`."""
        drawn = [self._draw(mesh, rig) for mesh, rig in zip(meshes, rigs, strict=True)]
        results = []
        for images, flow in drawn:
            rgb, depth, normal = (image.cpu().numpy() for image in images)
            results.append(ViewImages(rgb, depth, normal, None if flow is None else flow.cpu().numpy()))
        return results

    def _draw(self, mesh: Mesh, rig: Rig) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        surface = Surface.build(mesh, self.device)
        cameras = Cameras.build(rig, slice(None), self.device)
        pixels, depth, is_visible = cameras.project(surface.vertices)
        nearness = (1 / depth if rig.is_perspective else -depth).float()
        zbuffer = rasterise(_snap(pixels, nearness, is_visible), surface.faces.int(), rig.size, rig.is_perspective)
        face = torch.where(zbuffer == NO_FACE, -1, LAST_FACE - (zbuffer & LAST_FACE))
        weights, z = _barycentric_weights(face, pixels.float(), nearness, surface.faces, rig.is_perspective)
        images = shade(surface, cameras, pixels, face, weights, z)
        return images, None if surface.flow is None else draw_flow(surface, cameras, face, weights)


def _snap(pixels: Tensor, nearness: Tensor, is_visible: Tensor) -> Tensor:
    """Snap vertices like `smile_pipe.pipeline.rendering.kernels.vertices.project`, int32 [V, N, 3]."""
    snapped = torch.where(is_visible[..., None], (pixels * SUBPIXEL).round(), OFFSCREEN).int()
    return torch.cat([snapped, nearness.view(torch.int32)[..., None]], dim=-1)


def _barycentric_weights(
    face: Tensor, pixels: Tensor, nearness: Tensor, faces: Tensor, perspective: bool
) -> tuple[Tensor, Tensor]:
    """Compute the perspective-correct barycentric weights [V, H, W, 3] and the depth [V, H, W] of each pixel.

    The formulas are those of `smile_pipe.pipeline.rendering.kernels.pixels`; 0 where there is no face.
    """
    view, row, column = covered = (face >= 0).nonzero(as_tuple=True)
    corners = faces[face[covered]]
    at = pixels[view[:, None], corners]
    (xi, yi), (xj, yj) = ((at[:, i] - at[:, 2]).unbind(dim=1) for i in (0, 1))
    dx, dy = column + 0.5 - at[:, 2, 0], row + 0.5 - at[:, 2, 1]
    area = xi * yj - xj * yi
    is_tiny = area.abs() < MIN_AREA
    inverse = 1 / torch.where(is_tiny, 1, area)
    third = torch.full_like(area, 1 / 3)
    a = torch.where(is_tiny, third, (dx * yj - dy * xj) * inverse).clamp(0, 1)
    b = torch.where(is_tiny, third, (dy * xi - dx * yi) * inverse).clamp_min(0)
    b = torch.minimum(b, 1 - a)
    shares = torch.stack([a, b, 1 - a - b], dim=1)
    near = shares * nearness[view[:, None], corners]
    total = near.sum(dim=1)
    weights = torch.zeros(*face.shape, 3, device=face.device)
    depth = torch.zeros(face.shape, device=face.device)
    weights[covered] = near / total[:, None] if perspective else shares
    depth[covered] = 1 / total if perspective else -total
    return weights, depth
