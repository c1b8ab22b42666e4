"""The torch half of the `pytorch3d` renderer: projection before its rasteriser, normals and colours after it.

Goes in: a mesh, cameras, and for each pixel the face that is seen there. Comes out: the images of its views. Promised:
the light, the texture lookup and the normals of the `zbuffer` renderer, on any device, the same bytes on every run.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import AMBIENT, BACKGROUND, MAX_FACE, SKIN_TONE
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.kernels.vertices import GUARD, NEAR
from smile_pipe.pipeline.rendering.mipmap import MipMap, texels_covered

# Twice the area, in pixels, of the smallest triangle that a texture is told apart on.
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh on the device, with what its faces look like."""

    vertices: Tensor  # float32 [V, 3]
    faces: Tensor  # int64 [F, 3]
    normals: Tensor  # float32 [V, 3]
    colors: Tensor  # float32 [V, 3], 0-255
    uvs: Tensor | None  # float32 [U, 2]
    face_uvs: Tensor | None  # int64 [F, 3]
    texture: "Texture | None"
    flow: Tensor | None  # float32 [V, 3]

    @classmethod
    def build(cls, mesh: Mesh, device: torch.device) -> "Surface":
        """Copy `mesh` to `device` and compute its normals there."""

        def put(array: NDArray, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(array, device=device).to(dtype)

        vertices, faces = put(mesh.vertices, torch.float32), put(mesh.faces, torch.int64)
        colors = np.array([SKIN_TONE], np.uint8) if mesh.colors is None else mesh.colors
        uvs = face_uvs = texture = None
        if mesh.texture is not None and mesh.uvs is not None and mesh.face_uvs is not None:
            uvs, face_uvs = put(mesh.uvs, torch.float32), put(mesh.face_uvs, torch.int64)
            texture = Texture.build(mesh.texture, mesh.face_uvs, mesh.uvs, device)
        colors_v3 = put(colors, torch.float32).expand(len(vertices), 3)
        flow = None if mesh.flow is None else put(mesh.flow, torch.float32)
        return cls(vertices, faces, vertex_normals(vertices, faces), colors_v3, uvs, face_uvs, texture, flow)

    def albedo(self, face: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        """Colours float32 [P, 3], 0-255, of points given by `face` [P] and barycentric `weights` [P, 3].

        `sizes` [P] is twice the area of the face on the screen, in pixels.
        """
        if self.texture is None or self.uvs is None or self.face_uvs is None:
            return _interpolate(self.colors[self.faces[face]], weights)
        return self.texture.look_up(_interpolate(self.uvs[self.face_uvs[face]], weights), face, sizes)


@dataclass(frozen=True, eq=False)
class Texture:
    """A texture and its smaller copies on the device; see `smile_pipe.pipeline.rendering.mipmap`."""

    texels: Tensor  # uint8 [N, 4]
    levels: Tensor  # int64 [L, 3]
    face_texels: Tensor  # float32 [F]

    @classmethod
    def build(
        cls, texture: NDArray[np.uint8], face_uvs: NDArray[np.int32], uvs: NDArray[np.float32], device: torch.device
    ) -> "Texture":
        """Pack the copies and put them on `device`."""
        mipmap = MipMap.build(texture)
        texels, levels = torch.from_numpy(mipmap.texels.view(np.uint8).reshape(-1, 4)), torch.from_numpy(mipmap.levels)
        covered = torch.from_numpy(texels_covered(face_uvs, uvs, *texture.shape[:2]))
        return cls(texels.to(device), levels.to(device, torch.int64), covered.to(device))

    def look_up(self, uv: Tensor, face: Tensor, sizes: Tensor) -> Tensor:
        """Bilinear lookup float32 [P, 3] at `uv` [P, 2], in the copy that has about one texel a pixel.

        (0, 0) is the lower left corner, texel centres lie at halves, and outside clamps to the edge.
        """
        # Half the binary logarithm of texels a pixel, rounded: frexp's exponent is one more than it, rounded down.
        exponent = torch.frexp(self.face_texels[face] / sizes.clamp_min(TINY)).exponent
        first, height, width = self.levels[(exponent >> 1).clamp(0, len(self.levels) - 1).long()].unbind(dim=1)
        # What is no number counts as 0: these become places in memory.
        x = torch.minimum((uv[:, 0] * width - 0.5).nan_to_num(0).clamp_min(0), width - 1)
        y = torch.minimum(((1 - uv[:, 1]) * height - 0.5).nan_to_num(0).clamp_min(0), height - 1)
        x0, y0 = x.long(), y.long()
        x1, y1 = torch.minimum(x0 + 1, width - 1), torch.minimum(y0 + 1, height - 1)
        right, down = (x - x0)[:, None], (y - y0)[:, None]

        def texel(row: Tensor, column: Tensor) -> Tensor:
            return self.texels[first + row * width + column, :3].float()

        upper = torch.lerp(texel(y0, x0), texel(y0, x1), right)
        lower = torch.lerp(texel(y1, x0), texel(y1, x1), right)
        return torch.lerp(upper, lower, down)


@dataclass(frozen=True, eq=False)
class Cameras:
    """Some views of a rig on the device, in float64 like the rig."""

    R: Tensor  # [V, 3, 3]
    T: Tensor  # [V, 3]
    focal: Tensor  # [V, 2], pixels
    center: Tensor  # [V, 2], pixels
    size: int
    is_perspective: bool

    @classmethod
    def build(cls, rig: Rig, views: slice, device: torch.device) -> "Cameras":
        """The cameras `views` of `rig`."""
        R, T, K = (torch.as_tensor(a[views], device=device) for a in (rig.rotations, rig.translations, rig.intrinsics))
        return cls(R, T, K[:, [0, 1], [0, 1]], K[:, :2, 2], rig.size, rig.is_perspective)

    def see(self, vertices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels u, v [V, N, 2] and depths [V, N] of vertices [N, 3], in float64, and which are seen [V, N].

        Not seen are those behind the camera, outside the guard band, and no numbers.
        """
        x, y, z = vertices.double().unbind(dim=1)
        R, T = self.R[:, None], self.T[:, None]
        # One product at a time, and in this order: so the `zbuffer` renderer has the same numbers to the last bit.
        camera = [x * R[..., 0, m] + y * R[..., 1, m] + z * R[..., 2, m] + T[..., m] for m in range(3)]
        scale = 1 / camera[2] if self.is_perspective else torch.ones_like(camera[2])
        pixels = [self.center[:, None, m] - self.focal[:, None, m] * camera[m] * scale for m in range(2)]
        is_seen = (camera[2] > NEAR) & (pixels[0].abs() < GUARD) & (pixels[1].abs() < GUARD)
        return torch.stack(pixels, dim=-1), camera[2], is_seen

    def to_image_axes(self, view: Tensor, vectors: Tensor) -> Tensor:
        """Frame vectors float32 [P, 3], each as its view's image has them: x right, y up, z to the viewer."""
        # Camera axes are +x left, +y up, +z into the scene.
        to_image = (self.R * torch.tensor([-1, 1, -1], device=vectors.device)).float()
        return torch.einsum("pi,pij->pj", vectors, to_image[view])

    def towards_camera(self, view: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Unit directions float32 [P, 3] to the camera from what is seen at pixels; x right, y up, z to the viewer."""
        ones = torch.ones_like(row, dtype=torch.float32)
        if not self.is_perspective:
            return torch.stack([0 * ones, 0 * ones, ones], dim=-1)
        left, up = (
            ((self.center[view] - torch.stack([column, row], dim=-1) - 0.5) / self.focal[view]).float().unbind(-1)
        )
        return normalize(torch.stack([left, -up, ones], dim=-1), dim=-1)


def shade(
    surface: Surface, cameras: Cameras, pixels: Tensor, face: Tensor, weights: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images rgb uint8 [V, H, W, 3], depth float32 [V, H, W] and normal float32 [V, H, W, 3] of one mesh.

    `pixels` [V, N, 2] is where its vertices are seen; `face` int64 [V, H, W] is negative where there is none; `weights`
    [V, H, W, 3] are perspective-correct.
    """
    view, row, column = covered = (face >= 0).nonzero(as_tuple=True)
    seen, at = face[covered], weights[covered]
    world = _interpolate(surface.normals[surface.faces[seen]], at)
    normals = normalize(cameras.to_image_axes(view, world), dim=-1)
    facing = (normals * cameras.towards_camera(view, row, column)).sum(dim=-1, keepdim=True)
    normals = torch.where(facing < 0, -normals, normals)
    light = AMBIENT + (1 - AMBIENT) * facing.abs()

    rgb = torch.tensor(BACKGROUND, dtype=torch.uint8, device=face.device).repeat(*face.shape, 1)
    sizes = _sizes(pixels[view[:, None], surface.faces[seen]].float())
    rgb[covered] = (surface.albedo(seen, at, sizes) * light + 0.5).clamp(max=255).to(torch.uint8)
    normal = torch.zeros_like(weights)
    normal[covered] = normals
    return rgb, torch.where(face >= 0, depth, 0), normal


def draw_flow(surface: Surface, cameras: Cameras, face: Tensor, weights: Tensor) -> Tensor:
    """Flow float32 [V, H, W, 3] of a mesh that has one, along the image's axes; `face` and `weights` as in `shade`."""
    assert surface.flow is not None
    view, _, _ = pixels = (face >= 0).nonzero(as_tuple=True)
    flow = torch.zeros_like(weights)
    flow[pixels] = cameras.to_image_axes(view, _interpolate(surface.flow[surface.faces[face[pixels]]], weights[pixels]))
    return flow


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals float32 [V, 3]: the mean of the adjacent faces' normals, weighted by area; 0 where no face is."""
    a, b, c = vertices[faces].double().unbind(dim=1)
    weighted = torch.linalg.cross(b - a, c - a)
    weighted = torch.where((weighted.abs() < MAX_FACE).all(dim=1, keepdim=True), weighted, 0)
    # Summed as integers: a GPU adds in any order, and only integers come to the same sum in every order.
    fixed = (weighted * 2.0**40).round().long().repeat_interleave(3, dim=0)
    sums = torch.zeros(vertices.shape, dtype=torch.int64, device=vertices.device).index_add_(0, faces.flatten(), fixed)
    return normalize(sums.double(), dim=-1).float()


def _sizes(triangles: Tensor) -> Tensor:
    """Twice the areas of triangles [P, 3, 2]."""
    (ax, ay), (bx, by) = ((triangles[:, i] - triangles[:, 0]).unbind(dim=1) for i in (1, 2))
    return (ax * by - ay * bx).abs()


def _interpolate(corners: Tensor, weights: Tensor) -> Tensor:
    return (corners * weights[..., None]).sum(dim=1)
