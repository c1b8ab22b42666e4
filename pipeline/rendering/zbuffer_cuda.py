"""The `zbuffer` renderer on a GPU: Triton finds the nearest faces (`cuda_faces.py`), `torch_shading` draws them.

Goes in: meshes in the canonical frame and a rig for each. Comes out: the images of all views. Promised: the faces that
`zbuffer` finds, and its images but for the last bit of what is computed of them; nothing depends on the order in which
a device happens to compute.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.kernels.cuda_faces import rasterise
from smile_pipe.pipeline.rendering.kernels.faces import LAST_FACE, NO_FACE
from smile_pipe.pipeline.rendering.kernels.vertices import NOWHERE, SUBPIXEL
from smile_pipe.pipeline.rendering.torch_shading import TINY, Cameras, Surface, draw_flow, shade


class ZBufferCudaRenderer:
    """Draws all views of a mesh at once, and puts the next mesh behind it without waiting."""

    name = "zbuffer-cuda"
    # Raise it when the pixels change, so that finished shards are known to be stale.
    version = "1"

    def __init__(self, device: str = "cuda") -> None:
        self.device = torch.device(device)

    @torch.inference_mode()
    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Images of each mesh from every view of its rig; see `smile_pipe.pipeline.rendering.backend.Renderer`."""
        drawn = [self._draw(mesh, rig) for mesh, rig in zip(meshes, rigs, strict=True)]
        found = []
        for images, flow in drawn:
            rgb, depth, normal = (image.cpu().numpy() for image in images)
            found.append(ViewImages(rgb, depth, normal, None if flow is None else flow.cpu().numpy()))
        return found

    def _draw(self, mesh: Mesh, rig: Rig) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        surface = Surface.build(mesh, self.device)
        cameras = Cameras.build(rig, slice(None), self.device)
        pixels, depth, is_seen = cameras.see(surface.vertices)
        nearness = (1 / depth if rig.is_perspective else -depth).float()
        words = rasterise(_snapped(pixels, nearness, is_seen), surface.faces.int(), rig.size, rig.is_perspective)
        face = torch.where(words == NO_FACE, -1, LAST_FACE - (words & LAST_FACE))
        weights, z = _weigh(face, pixels.float(), nearness, surface.faces, rig.is_perspective)
        images = shade(surface, cameras, pixels, face, weights, z)
        return images, None if surface.flow is None else draw_flow(surface, cameras, face, weights)


def _snapped(pixels: Tensor, nearness: Tensor, is_seen: Tensor) -> Tensor:
    """Vertices as `smile_pipe.pipeline.rendering.kernels.vertices.project` snaps them, int32 [V, N, 3]."""
    snapped = torch.where(is_seen[..., None], (pixels * SUBPIXEL).round(), NOWHERE).int()
    return torch.cat([snapped, nearness.view(torch.int32)[..., None]], dim=-1)


def _weigh(face: Tensor, pixels: Tensor, nearness: Tensor, faces: Tensor, perspective: bool) -> tuple[Tensor, Tensor]:
    """What share each corner has in what each pixel shows, [V, H, W, 3], and the depth there, [V, H, W].

    As `smile_pipe.pipeline.rendering.kernels.pixels` weighs them; 0 where no face is.
    """
    view, row, column = covered = (face >= 0).nonzero(as_tuple=True)
    corners = faces[face[covered]]
    at = pixels[view[:, None], corners]
    (xi, yi), (xj, yj) = ((at[:, i] - at[:, 2]).unbind(dim=1) for i in (0, 1))
    dx, dy = column + 0.5 - at[:, 2, 0], row + 0.5 - at[:, 2, 1]
    area = xi * yj - xj * yi
    is_tiny = area.abs() < TINY
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
