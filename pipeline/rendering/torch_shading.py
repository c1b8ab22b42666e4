"""Projection, normals and shading in torch, for the renderers `pytorch3d` and `zbuffer-cuda`.

Takes a mesh, cameras and the visible face of each pixel, and computes the images of the views. Light, texture lookup
and normals are those of the `zbuffer` renderer. Each device gives the same bytes in every run.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import AMBIENT, BACKGROUND, MAX_FACE_AREA, SKIN_TONE
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.kernels.vertices import GUARD_BAND, NEAR
from smile_pipe.pipeline.rendering.mipmap import MipMap, texels_covered

# Lower limit of twice a triangle's area on the screen, in square pixels, to avoid a division by 0.
MIN_AREA = 1e-12


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh on the device, with the attributes that are needed for shading."""

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

        def to_device(array: NDArray, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(array, device=device).to(dtype)

        vertices, faces = to_device(mesh.vertices, torch.float32), to_device(mesh.faces, torch.int64)
        colors = np.array([SKIN_TONE], np.uint8) if mesh.colors is None else mesh.colors
        uvs = face_uvs = texture = None
        if mesh.texture is not None and mesh.uvs is not None and mesh.face_uvs is not None:
            uvs, face_uvs = to_device(mesh.uvs, torch.float32), to_device(mesh.face_uvs, torch.int64)
            texture = Texture.build(mesh.texture, mesh.face_uvs, mesh.uvs, device)
        colors_v3 = to_device(colors, torch.float32).expand(len(vertices), 3)
        flow = None if mesh.flow is None else to_device(mesh.flow, torch.float32)
        return cls(vertices, faces, vertex_normals(vertices, faces), colors_v3, uvs, face_uvs, texture, flow)

    def albedo(self, face: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        """Look up the colours of surface points.

        Args:
            face: int64 [P], the face of each point.
            weights: float32 [P, 3], barycentric weights.
            sizes: float32 [P], twice the area of the face on the screen, in square pixels.

        Returns:
            float32 [P, 3], 0-255.
        """
        if self.texture is None or self.uvs is None or self.face_uvs is None:
            return _interpolate(self.colors[self.faces[face]], weights)
        return self.texture.sample(_interpolate(self.uvs[self.face_uvs[face]], weights), face, sizes)


@dataclass(frozen=True, eq=False)
class Texture:
    """A mip map on the device; see `smile_pipe.pipeline.rendering.mipmap`."""

    texels: Tensor  # uint8 [N, 4]
    levels: Tensor  # int64 [L, 3]
    face_texels: Tensor  # float32 [F]

    @classmethod
    def build(
        cls, texture: NDArray[np.uint8], face_uvs: NDArray[np.int32], uvs: NDArray[np.float32], device: torch.device
    ) -> "Texture":
        """Build the mip map of `texture` and copy it to `device`."""
        mipmap = MipMap.build(texture)
        texels, levels = torch.from_numpy(mipmap.texels.view(np.uint8).reshape(-1, 4)), torch.from_numpy(mipmap.levels)
        covered = torch.from_numpy(texels_covered(face_uvs, uvs, *texture.shape[:2]))
        return cls(texels.to(device), levels.to(device, torch.int64), covered.to(device))

    def sample(self, uv: Tensor, face: Tensor, sizes: Tensor) -> Tensor:
        """Sample the texture bilinearly, in the level with about one texel per pixel.

        Args:
            uv: float32 [P, 2]; (0, 0) is the lower left corner, texel centres are at halves, coordinates outside the
                texture are clamped to its edge.
            face: int64 [P], the face of each point.
            sizes: float32 [P], twice the area of the face on the screen, in square pixels.

        Returns:
            float32 [P, 3], 0-255.
        """
        # The level is log2(texels per pixel) / 2, rounded; frexp's exponent is floor(log2) + 1.
        exponent = torch.frexp(self.face_texels[face] / sizes.clamp_min(MIN_AREA)).exponent
        first, height, width = self.levels[(exponent >> 1).clamp(0, len(self.levels) - 1).long()].unbind(dim=1)
        # NaN becomes 0, because these values are used as indices.
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
        """Copy the cameras `views` of `rig` to `device`."""
        R, T, K = (torch.as_tensor(a[views], device=device) for a in (rig.rotations, rig.translations, rig.intrinsics))
        return cls(R, T, K[:, [0, 1], [0, 1]], K[:, :2, 2], rig.size, rig.is_perspective)

    def project(self, vertices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project vertices to the image of each view.

        Args:
            vertices: float32 [N, 3], frame units.

        Returns:
            Pixels u, v, float64 [V, N, 2]; depths, float64 [V, N]; and bool [V, N], False for vertices that are behind
            the camera, outside the guard band or not finite.
        """
        x, y, z = vertices.double().unbind(dim=1)
        R, T = self.R[:, None], self.T[:, None]
        # Products in this order, without a matrix product: the `zbuffer` renderer computes the same bits.
        camera = [x * R[..., 0, m] + y * R[..., 1, m] + z * R[..., 2, m] + T[..., m] for m in range(3)]
        scale = 1 / camera[2] if self.is_perspective else torch.ones_like(camera[2])
        pixels = [self.center[:, None, m] - self.focal[:, None, m] * camera[m] * scale for m in range(2)]
        is_visible = (camera[2] > NEAR) & (pixels[0].abs() < GUARD_BAND) & (pixels[1].abs() < GUARD_BAND)
        return torch.stack(pixels, dim=-1), camera[2], is_visible

    def to_image_axes(self, view: Tensor, vectors: Tensor) -> Tensor:
        """Rotate frame vectors float32 [P, 3] to the image axes of `view` [P]: x right, y up, z towards the viewer."""
        # Camera axes are +x left, +y up, +z into the scene.
        to_image = (self.R * torch.tensor([-1, 1, -1], device=vectors.device)).float()
        return torch.einsum("pi,pij->pj", vectors, to_image[view])

    def towards_camera(self, view: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Compute unit directions from the points at pixels to the camera, float32 [P, 3], in image axes."""
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
    """Shade the views of one mesh.

    Args:
        surface: The mesh.
        cameras: Its views.
        pixels: [V, N, 2], the projected vertices.
        face: int64 [V, H, W], the visible face; negative where there is none.
        weights: float32 [V, H, W, 3], perspective-correct barycentric weights.
        depth: float32 [V, H, W], depth of the visible face.

    Returns:
        rgb uint8 [V, H, W, 3], depth float32 [V, H, W] and normal float32 [V, H, W, 3].
    """
    view, row, column = covered = (face >= 0).nonzero(as_tuple=True)
    face_ids, face_weights = face[covered], weights[covered]
    world = _interpolate(surface.normals[surface.faces[face_ids]], face_weights)
    normals = normalize(cameras.to_image_axes(view, world), dim=-1)
    facing = (normals * cameras.towards_camera(view, row, column)).sum(dim=-1, keepdim=True)
    normals = torch.where(facing < 0, -normals, normals)
    light = AMBIENT + (1 - AMBIENT) * facing.abs()

    rgb = torch.tensor(BACKGROUND, dtype=torch.uint8, device=face.device).repeat(*face.shape, 1)
    sizes = _sizes(pixels[view[:, None], surface.faces[face_ids]].float())
    rgb[covered] = (surface.albedo(face_ids, face_weights, sizes) * light + 0.5).clamp(max=255).to(torch.uint8)
    normal = torch.zeros_like(weights)
    normal[covered] = normals
    return rgb, torch.where(face >= 0, depth, 0), normal


def draw_flow(surface: Surface, cameras: Cameras, face: Tensor, weights: Tensor) -> Tensor:
    """Draw the flow of a mesh that has one, float32 [V, H, W, 3] in image axes; `face` and `weights` as in `shade`."""
    assert surface.flow is not None
    view, _, _ = pixels = (face >= 0).nonzero(as_tuple=True)
    flow = torch.zeros_like(weights)
    flow[pixels] = cameras.to_image_axes(view, _interpolate(surface.flow[surface.faces[face[pixels]]], weights[pixels]))
    return flow


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Compute unit normals float32 [V, 3]: means of the adjacent faces' normals, weighted by area; 0 without a face."""
    a, b, c = vertices[faces].double().unbind(dim=1)
    weighted = torch.linalg.cross(b - a, c - a)
    weighted = torch.where((weighted.abs() < MAX_FACE_AREA).all(dim=1, keepdim=True), weighted, 0)
    # Summed as integers: a GPU adds in any order, and only sums of integers do not depend on it.
    fixed = (weighted * 2.0**40).round().long().repeat_interleave(3, dim=0)
    sums = torch.zeros(vertices.shape, dtype=torch.int64, device=vertices.device).index_add_(0, faces.flatten(), fixed)
    return normalize(sums.double(), dim=-1).float()


def _sizes(triangles: Tensor) -> Tensor:
    """Compute twice the areas of triangles [P, 3, 2]."""
    (ax, ay), (bx, by) = ((triangles[:, i] - triangles[:, 0]).unbind(dim=1) for i in (1, 2))
    return (ax * by - ay * bx).abs()


def _interpolate(corners: Tensor, weights: Tensor) -> Tensor:
    return (corners * weights[..., None]).sum(dim=1)
