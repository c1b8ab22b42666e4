"""The renderer for CPUs: a z-buffer over all triangles, compiled by Numba.

It gives the same bytes in every run, on all machines with IEEE floating point. Each pixel on a shared edge is drawn by
exactly one face.
"""

from collections.abc import Sequence

import numpy as np

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import AMBIENT, BACKGROUND, SKIN_TONE, ViewImages
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.kernels.faces import rasterise
from smile_pipe.pipeline.rendering.kernels.pixels import Images, Surface, ViewParams, shade
from smile_pipe.pipeline.rendering.kernels.vertices import project, vertex_normals
from smile_pipe.pipeline.rendering.mipmap import MipMap, texels_covered

_NO_IMAGE = np.empty((0, 0, 3), np.float32)


class ZBufferRenderer:
    """Renders one mesh after the other on one core; see `smile_pipe.pipeline.rendering.backend.Renderer`."""

    name = "zbuffer"
    # Increase it when the pixels change: finished shards are then rendered again.
    version = "2"

    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Render each mesh from every view of its rig; see `smile_pipe.pipeline.rendering.backend.Renderer`."""
        return [self._render_one(mesh, rig) for mesh, rig in zip(meshes, rigs, strict=True)]

    def _render_one(self, mesh: Mesh, rig: Rig) -> ViewImages:
        num_views, size = len(rig.cameras), rig.size
        shape = (num_views, size, size)
        images = ViewImages(
            rgb=np.empty((*shape, 3), np.uint8),
            depth=np.empty(shape, np.float32),
            normal=np.empty((*shape, 3), np.float32),
            flow=None if mesh.flow is None else np.empty((*shape, 3), np.float32),
        )
        surface = build_surface(mesh)
        screen = np.empty((len(mesh.vertices), 3), np.float32)
        snapped = np.empty((len(mesh.vertices), 3), np.int32)
        zbuffer = np.empty((size, size), np.int64)
        for v in range(num_views):
            view = ViewParams(rig.rotations[v], rig.intrinsics[v], rig.is_perspective)
            project(mesh.vertices, view.R, rig.translations[v], view.K, view.perspective, screen, snapped)
            rasterise(snapped, mesh.faces, view.perspective, zbuffer)
            flow = _NO_IMAGE if images.flow is None else images.flow[v]
            view_images = Images(images.rgb[v], images.depth[v], images.normal[v], flow)
            shade(zbuffer, screen, surface, view, AMBIENT, BACKGROUND, view_images)
        return images


def build_surface(mesh: Mesh) -> Surface:
    """Compute what all views of a mesh share: vertex normals, mip map and texture coverage of faces."""
    mipmap = MipMap(np.zeros(0, np.uint32), np.zeros((0, 3), np.int32))
    face_uvs, uvs, covered = np.zeros((0, 3), np.int32), np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    if mesh.texture is not None and mesh.face_uvs is not None and mesh.uvs is not None:
        mipmap = MipMap.build(mesh.texture)
        face_uvs, uvs = mesh.face_uvs, mesh.uvs
        covered = texels_covered(face_uvs, uvs, *mesh.texture.shape[:2])
    colors = np.array([SKIN_TONE], np.float32) if mesh.colors is None else mesh.colors.astype(np.float32)
    return Surface(
        faces=mesh.faces,
        normals=vertex_normals(mesh.vertices, mesh.faces),
        colors=colors,
        face_uvs=face_uvs,
        uvs=uvs,
        texels=mipmap.texels,
        levels=mipmap.levels,
        face_texels=covered,
        flow=np.zeros((0, 3), np.float32) if mesh.flow is None else mesh.flow,
    )
