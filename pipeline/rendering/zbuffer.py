"""The renderer for CPUs: a z-buffer over all triangles, compiled by Numba, that needs nothing but a processor.

Goes in: meshes in the canonical frame and a rig. Comes out: the images of all views. Promised: the same bytes on every
run and machine type that rounds IEEE doubles alike; each pixel on a shared edge is drawn by exactly one face.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.meshes.mesh import Mesh
from pipeline.rendering import zbuffer_kernels as kernels
from pipeline.rendering.renderer import AMBIENT, BACKGROUND, SKIN_TONE, ViewImages
from pipeline.rendering.rig import Rig

_NO_FACE_UVS = np.zeros((0, 3), np.int32)
_NO_UVS = np.zeros((0, 2), np.float32)
_NO_TEXTURE = np.zeros((1, 1, 3), np.uint8)


class ZBufferRenderer:
    """Draws one mesh after the other, all views of each, on one core."""

    name = "zbuffer"
    # Raise it when the pixels change, so that finished shards are known to be stale.
    version = "1"

    def render(self, meshes: Sequence[Mesh], rig: Rig) -> list[ViewImages]:
        """Images of each mesh from every view of `rig`; see `pipeline.rendering.renderer.Renderer`."""
        return [self._render_one(mesh, rig) for mesh in meshes]

    def _render_one(self, mesh: Mesh, rig: Rig) -> ViewImages:
        num_views, size = len(rig.cameras), rig.size
        images = ViewImages(
            rgb=np.full((num_views, size, size, 3), BACKGROUND, np.uint8),
            depth=np.zeros((num_views, size, size), np.float32),
            normal=np.zeros((num_views, size, size, 3), np.float32),
            flow=None if mesh.flow is None else np.zeros((num_views, size, size, 3), np.float32),
        )
        normals = kernels.vertex_normals(mesh.vertices, mesh.faces)
        textured = mesh.texture is not None and mesh.face_uvs is not None
        surface = (
            mesh.face_uvs if textured else _NO_FACE_UVS,
            mesh.uvs if textured else _NO_UVS,
            mesh.texture if textured else _NO_TEXTURE,
            np.array([SKIN_TONE], np.float32) if mesh.colors is None else mesh.colors.astype(np.float32),
        )
        screen = np.empty((len(mesh.vertices), 3))
        ids = np.empty((size, size), np.int32)
        nearness = np.empty((size, size))
        for v in range(num_views):
            R, T, K = rig.rotations[v], rig.translations[v], rig.intrinsics[v]
            kernels.project(mesh.vertices, R, T, K, rig.is_perspective, screen)
            kernels.rasterise(screen, mesh.faces, ids, nearness)
            pixels = (images.rgb[v], images.depth[v], images.normal[v])
            kernels.shade(screen, mesh.faces, normals, ids, R, K, rig.is_perspective, AMBIENT, *surface, *pixels)
            if mesh.flow is not None and images.flow is not None:
                kernels.draw_flow(screen, mesh.faces, mesh.flow, ids, R, rig.is_perspective, images.flow[v])
        return images
