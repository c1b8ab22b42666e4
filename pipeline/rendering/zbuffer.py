"""The renderer for CPUs: a z-buffer over all triangles, compiled by Numba.

It gives the same bytes in every run, on all machines with IEEE floating point. Each pixel on a shared edge is drawn by
exactly one face.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import (
    AMBIENT,
    BACKGROUND,
    SKIN_TONE,
    ZBUFFER_VERSION,
    QuantisedViews,
    ViewImages,
    check_flow,
    divide_views,
)
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.downsample import downsample
from smile_pipe.pipeline.rendering.encoding import quantise_views
from smile_pipe.pipeline.rendering.kernels.faces import rasterise
from smile_pipe.pipeline.rendering.kernels.pixels import Images, Surface, ViewParams, shade
from smile_pipe.pipeline.rendering.kernels.vertices import project, vertex_normals
from smile_pipe.pipeline.rendering.mipmap import MipMap, texels_covered

# Limit on the images of the views that are drawn together, in bytes; and bytes of a pixel of all images.
MEMORY = 256 << 20
BYTES_PER_PIXEL = 31
_NO_IMAGE = np.empty((0, 0, 3), np.float32)


class ZBufferRenderer:
    """Renders one mesh after the other on one core; see `smile_pipe.pipeline.rendering.backend.Renderer`."""

    name = "zbuffer"
    version = ZBUFFER_VERSION

    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Render each mesh from every view of its rig; see `smile_pipe.pipeline.rendering.backend.Renderer`."""
        return [
            self._draw(mesh, build_surface(mesh), rig, slice(0, len(rig.cameras)))
            for mesh, rig in zip(meshes, rigs, strict=True)
        ]

    def render_quantised(
        self, meshes: Sequence[Mesh], rigs: Sequence[Rig], channels: Sequence[str], samples_per_pixel: int = 1
    ) -> list[QuantisedViews]:
        """Render to stored integers; see `smile_pipe.pipeline.rendering.backend.Renderer`."""
        check_flow(meshes, channels)
        results = []
        for mesh, rig in zip(meshes, rigs, strict=True):
            large, surface = rig.supersampled(samples_per_pixel), build_surface(mesh)
            parts, is_visible = [], False
            for views in divide_views(len(rig.cameras), large.size**2 * BYTES_PER_PIXEL, MEMORY):
                images = self._draw(mesh, surface, large, views)
                is_visible = is_visible or bool(images.depth.any())
                parts.append(quantise_views(downsample(images, samples_per_pixel), channels))
            pixels = parts[0] if len(parts) == 1 else {c: np.concatenate([part[c] for part in parts]) for c in channels}
            results.append(QuantisedViews(pixels, is_visible))
        return results

    def _draw(self, mesh: Mesh, surface: Surface, rig: Rig, views: slice) -> ViewImages:
        shape = (views.stop - views.start, rig.size, rig.size)
        images = ViewImages(
            rgb=np.empty((*shape, 3), np.uint8),
            depth=np.empty(shape, np.float32),
            normal=np.empty((*shape, 3), np.float32),
            flow=None if mesh.flow is None else np.empty((*shape, 3), np.float32),
        )
        screen = np.empty((len(mesh.vertices), 3), np.float32)
        snapped = np.empty((len(mesh.vertices), 3), np.int32)
        zbuffer = np.empty(shape[1:], np.int64)
        for number, v in enumerate(range(views.start, views.stop)):
            view = ViewParams(rig.rotations[v], rig.intrinsics[v], rig.is_perspective)
            project(mesh.vertices, view.R, rig.translations[v], view.K, view.perspective, screen, snapped)
            self.find_faces(snapped, mesh, rig, v, zbuffer)
            flow = _NO_IMAGE if images.flow is None else images.flow[number]
            view_images = Images(images.rgb[number], images.depth[number], images.normal[number], flow)
            shade(zbuffer, screen, surface, view, AMBIENT, BACKGROUND, view_images)
        return images

    def find_faces(
        self, snapped: NDArray[np.int32], mesh: Mesh, rig: Rig, view: int, zbuffer: NDArray[np.int64]
    ) -> None:
        """Find the nearest face of each pixel of a view.

        Args:
            snapped: int32 [N, 3], the projected vertices; see `project`.
            mesh: The mesh.
            rig: The cameras.
            view: Number of the view.
            zbuffer: int64 [H, W], output; see `smile_pipe.pipeline.rendering.kernels.faces.rasterise`.
        """
        rasterise(snapped, mesh.faces, rig.is_perspective, zbuffer)


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
