"""Small meshes whose images have a closed form."""

from dataclasses import replace

import numpy as np
import trimesh
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh


def sphere(subdivisions: int, radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    """An ico-sphere with 20 * 4^subdivisions faces and vertices on the sphere."""
    ico = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh.build(ico.vertices + center, ico.faces)


def card(
    origin: tuple[float, float, float],
    along_u: tuple[float, float, float],
    along_v: tuple[float, float, float],
    num_cells: int = 1,
    texture: NDArray[np.uint8] | None = None,
) -> Mesh:
    """A parallelogram of `num_cells`^2 quads with two triangles each; uv is (0, 0) at `origin`, (1, 1) opposite."""
    n = num_cells
    u, v = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1))
    uvs = np.stack([u.ravel(), v.ravel()], axis=1)
    lower_left = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    a, b, c, d = lower_left, lower_left + 1, lower_left + n + 2, lower_left + n + 1
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    mesh = Mesh.build(np.array(origin) + uvs @ np.array([along_u, along_v]), faces, uvs, faces)
    return with_texture(mesh, texture)


def cube(half_side: float) -> Mesh:
    """A cube around the origin; sides share no vertices, so each has its own normal."""
    sides = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            origin, along_u, along_v = np.full(3, -half_side), np.zeros(3), np.zeros(3)
            origin[axis] = sign * half_side
            along_u[(axis + 1) % 3] = along_v[(axis + 2) % 3] = 2 * half_side
            sides.append(card(tuple(origin), tuple(along_u), tuple(along_v)))
    return join(*sides)


def join(*meshes: Mesh) -> Mesh:
    """Concatenate meshes in order; colours are kept if all have them, textures are dropped."""
    starts = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    colors = [m.colors for m in meshes if m.colors is not None]
    return Mesh.build(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=False)]),
        colors=np.concatenate(colors) if len(colors) == len(meshes) else None,
    )


def area(mesh: Mesh) -> float:
    """The sum of the areas of the faces."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def painted(mesh: Mesh, color: tuple[int, int, int]) -> Mesh:
    """`mesh` with one colour and no texture."""
    return Mesh.build(mesh.vertices, mesh.faces, colors=np.full((len(mesh.vertices), 3), color, np.uint8))


def with_texture(mesh: Mesh, texture: NDArray[np.uint8] | None) -> Mesh:
    """`mesh` with another texture."""
    return Mesh(mesh.vertices, mesh.faces, mesh.uvs, mesh.face_uvs, mesh.colors, texture)


def with_flow(mesh: Mesh) -> Mesh:
    """`mesh` with a sinusoidal flow of up to half a frame unit along each axis."""
    return replace(mesh, flow=(0.5 * np.sin(5 * mesh.vertices[:, [1, 2, 0]] + [0, 1, 2])).astype(np.float32))


def inside_out(mesh: Mesh) -> Mesh:
    """`mesh` with the winding of every face reversed."""
    face_uvs = None if mesh.face_uvs is None else mesh.face_uvs[:, ::-1].copy()
    return Mesh(mesh.vertices, mesh.faces[:, ::-1].copy(), mesh.uvs, face_uvs, mesh.colors, mesh.texture)
