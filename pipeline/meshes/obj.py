"""Wavefront OBJ: vertices with or without colours, texture coordinates, polygons, and the material of each face.

A vertex with several texture coordinates stays one vertex; `face_uvs` gives the coordinate of each corner. Normals,
groups, lines and points are skipped.
"""

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from smile_pipe.pipeline.meshes.buffers import reusable_array
from smile_pipe.pipeline.meshes.mesh import FEW_CORNERS, Material, Mesh, MeshError
from smile_pipe.pipeline.meshes.numbers import MAX_FALLBACKS, grow, resolve_fallbacks
from smile_pipe.pipeline.meshes.obj_materials import read_libraries, statement
from smile_pipe.pipeline.meshes.obj_parser import (
    BAD_CORNER,
    BAD_INDEX,
    DONE,
    FULL,
    NO_UV,
    TOO_FEW_NUMBERS,
    scan_obj,
)
from smile_pipe.pipeline.meshes.shapes import colors_to_uint8
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import has_short_polygons, triangulate

_Floats: TypeAlias = NDArray[np.float32]
_BYTES_PER_ELEMENT = 12  # an estimate; the minimum is 2
_MAX_MATERIALS = 1 << 20  # limit of `mtllib` and `usemtl` lines
_MIN_MATERIAL_BYTES = 3  # of a line that the compiled parser may take for one of them
_PROBLEMS = {
    TOO_FEW_NUMBERS: "too few numbers: a vertex needs three, a texture coordinate one",
    BAD_CORNER: "malformed face corner: it must be `v`, `v/vt`, `v//vn` or `v/vt/vn`",
    BAD_INDEX: "invalid face index: it is 0 or points before the first element",
}


def parse_obj(source: Source) -> Mesh:
    """Read an OBJ file.

    Colours are kept if every vertex has them. In a mesh with texture coordinates, corners without one get an
    additional coordinate at (0, 0).

    Raises:
        MeshError: the text is malformed (with its line), or the mesh is empty or inconsistent.
    """
    source = source.as_text()
    mesh = _parse(source, np.float32)
    return _parse(source, np.float64) if mesh.is_coarse else mesh


def _parse(source: Source, dtype: DTypeLike) -> Mesh:
    """Read the text, with points of type `dtype`: float32 is faster."""
    points, uvs, colors, corners, lines = _scan(source, dtype)
    materials, material_of_corner, notes = _read_materials(source, lines, corners.shape[1])
    others = () if material_of_corner is None else (material_of_corner,)
    faces, face_uvs, *by_corner = triangulate(points, corners[0], corners[1], *others)
    face_materials = np.ascontiguousarray(by_corner[0][:, 0]) if by_corner else None
    colored = 0 < len(colors) == len(points) and not np.isnan(colors[:, 2]).any()
    textured = len(uvs) > 0 or bool((face_uvs >= 0).any())
    if len(uvs) > 0 and (bare := face_uvs == NO_UV).any():
        face_uvs[bare] = len(uvs)
        uvs = np.append(uvs, np.zeros((1, 2), np.float32), axis=0)
        face_materials = np.int32(0 if face_materials is None else face_materials) + bare.any(axis=1) * np.int32(
            len(materials)
        )
        materials += tuple(replace(material, has_uvs=False) for material in materials)
    return Mesh.build(
        points,
        faces,
        uvs if textured else None,
        face_uvs if textured else None,
        colors_to_uint8(colors) if colored else None,
        materials,
        face_materials,
        (*notes, FEW_CORNERS) if has_short_polygons(corners[0]) else notes,
    )


def _read_materials(
    source: Source, lines: NDArray[np.int64], num_corners: int
) -> tuple[tuple[Material, ...], NDArray[np.int32] | None, tuple[str, ...]]:
    """Read the materials in use.

    Args:
        source: the OBJ.
        lines: [2, M], first bytes of the lines that may be `mtllib` or `usemtl`, and the number of corners before them.
        num_corners: number of corners, with the ends of polygons.

    Returns:
        The materials, at least one; the index of the material of each corner, or None if it is 0 for all; and notes.
    """
    if not source.sidecars.with_materials:
        return (Material(),), None, ()
    statements = [statement(source.line(pos)) for pos in lines[0].tolist()]
    library = read_libraries(source.sidecars, (value for word, value in statements if word == "mtllib"))
    names: list[str | None] = [None]
    starts = [0]
    for (word, value), start in zip(statements, lines[1].tolist(), strict=True):
        if word == "usemtl":
            if start == starts[-1]:  # no face uses the one before
                names[-1] = value
            else:
                names.append(value)
                starts.append(start)
    if starts[-1] == num_corners and len(starts) > 1:
        del starts[-1], names[-1]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    materials = tuple(map(library.find, numbers))
    if len(materials) == 1:
        return materials, None, library.notes
    counts = np.diff([*starts, num_corners])
    return materials, np.repeat(np.array([numbers[name] for name in names], np.int32), counts), library.notes


def _scan(
    source: Source, dtype: DTypeLike
) -> tuple[NDArray[np.floating], _Floats, _Floats, NDArray[np.int32], NDArray[np.int64]]:
    """Run the compiled parser.

    Returns:
        points [V, 3], uvs [U, 2], colors [C, 3], corners [2, N], material lines [2, M] (see `_read_materials`).
    """
    room = source.size // _BYTES_PER_ELEMENT + 64
    points: NDArray[np.floating] = reusable_array(room, dtype)
    uvs, colors = (
        reusable_array(room, np.float32),
        reusable_array(room, np.float32),
    )
    corners = reusable_array(2 * room, np.int32).reshape(2, room)
    materials = np.empty((2, min(source.size // _MIN_MATERIAL_BYTES + 1, _MAX_MATERIALS)), np.int64)
    state, fallbacks = np.zeros(6, np.int64), np.empty((MAX_FALLBACKS, 3), np.int64)
    while True:
        status, num_fallbacks = scan_obj(source.text, state, points, uvs, colors, corners, fallbacks, materials)
        resolve_fallbacks(source, fallbacks[:num_fallbacks], (points, uvs, colors))
        if status != FULL:
            break
        if num_fallbacks < MAX_FALLBACKS - 6:
            points, uvs, colors, corners = grow(points), grow(uvs), grow(colors), grow(corners)
    if status != DONE:
        raise source.error_at(int(state[0]), _PROBLEMS[status])
    _, num_points, num_uvs, num_colors, num_corners, num_materials = state.tolist()
    if num_materials == _MAX_MATERIALS:
        raise MeshError(f"too many lines with materials: the limit is {_MAX_MATERIALS}")
    return (
        points[:num_points].reshape(-1, 3).copy(),
        uvs[:num_uvs].reshape(-1, 2).copy(),
        colors[:num_colors].reshape(-1, 3),
        corners[:, :num_corners],
        materials[:, :num_materials],
    )
