"""Wavefront OBJ face scans: `v` with or without colours, `vt`, `f` of any form, and the texture of the material.

Seams stay what they are in the file: a vertex with several texture coordinates is one vertex, and `face_uvs` says
which coordinate each corner has. Normals, groups, lines and points are skipped.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.colors import bytes_of_colors
from pipeline.meshes.materials import texture_of
from pipeline.meshes.mesh import Mesh
from pipeline.meshes.polygons import triangulate
from pipeline.meshes.scanning import CORNER, DONE, FEW, FULL, INDEX, NO_UV, SHORT, scan_obj
from pipeline.meshes.scratch import scratch
from pipeline.meshes.source import Source
from pipeline.meshes.tokens import NUM_NOTES, enlarged, settle

_Floats: TypeAlias = NDArray[np.float32]
_BYTES_PER_ELEMENT = 12  # a guess that wastes little room; 2 is the least there can be
_NUM_MATERIALS = 256  # lines that name a material or its file and are looked at
_PROBLEMS = {
    SHORT: "a vertex needs three numbers, a texture coordinate one",
    CORNER: "a face corner is not `v`, `v/vt`, `v//vn` or `v/vt/vn`",
    FEW: "a face has fewer than three corners",
    INDEX: "a face index is 0 or reaches back before the first element",
}


def parse_obj(source: Source) -> Mesh:
    """Read an OBJ file.

    Colours are kept if every vertex has them. In a mesh with texture coordinates, corners that have none get an
    additional one at (0, 0).

    Raises:
        MeshError: the text is malformed (with its line), or the mesh is empty or inconsistent.
    """
    points, uvs, colors, corners, materials = _scan(source)
    faces, face_uvs = triangulate(corners[0], corners[1])
    colored = 0 < len(colors) == len(points) and not np.isnan(colors[:, 2]).any()
    textured = len(uvs) > 0 or bool((face_uvs >= 0).any())
    if textured and (bare := face_uvs == NO_UV).any():
        face_uvs[bare] = len(uvs)
        uvs = np.append(uvs, np.zeros((1, 2), np.float32), axis=0)
    return Mesh.build(
        points,
        faces,
        uvs if textured else None,
        face_uvs if textured else None,
        bytes_of_colors(colors) if colored else None,
        texture_of(source.companions, [source.line(at) for at in materials.tolist()]),
    )


def _scan(source: Source) -> tuple[_Floats, _Floats, _Floats, NDArray[np.int32], NDArray[np.int64]]:
    """Run the compiled scanner; points [V, 3], uvs [U, 2], colors [C, 3], corners [2, N], material lines [M]."""
    room = source.size // _BYTES_PER_ELEMENT + 64
    points, uvs, colors = scratch(room, np.float32), scratch(room, np.float32), scratch(room, np.float32)
    corners, materials = scratch(2 * room, np.int32).reshape(2, room), np.empty(_NUM_MATERIALS, np.int64)
    state, notes = np.zeros(6, np.int64), np.empty((NUM_NOTES, 3), np.int64)
    if source.cut(0, 3) == b"\xef\xbb\xbf":
        state[0] = 3
    while True:
        status, noted = scan_obj(source.text, state, points, uvs, colors, corners, notes, materials)
        settle(source, notes[:noted], (points, uvs, colors))
        if status != FULL:
            break
        if noted < NUM_NOTES - 6:
            points, uvs, colors, corners = enlarged(points), enlarged(uvs), enlarged(colors), enlarged(corners)
    if status != DONE:
        raise source.error(int(state[0]), _PROBLEMS[status])
    _, num_points, num_uvs, num_colors, num_corners, num_materials = state.tolist()
    return (
        points[:num_points].reshape(-1, 3).copy(),
        uvs[:num_uvs].reshape(-1, 2).copy(),
        colors[:num_colors].reshape(-1, 3),
        corners[:, :num_corners],
        materials[:num_materials],
    )
