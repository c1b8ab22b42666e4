"""Wavefront OBJ: vertices with or without colours, texture coordinates, polygons, and the texture of the material.

A vertex with several texture coordinates stays one vertex; `face_uvs` gives the coordinate of each corner. Normals,
groups, lines and points are skipped. Material files are opened only in the OBJ's own folder or below.
"""

import re
from pathlib import PurePosixPath
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from smile_pipe.pipeline.meshes.buffers import reusable_array
from smile_pipe.pipeline.meshes.mesh import FEW_CORNERS, Mesh, MeshError
from smile_pipe.pipeline.meshes.numbers import MAX_FALLBACKS, grow, resolve_fallbacks
from smile_pipe.pipeline.meshes.shapes import colors_to_uint8
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.text_parser import (
    BAD_CORNER,
    BAD_INDEX,
    DONE,
    FULL,
    NO_UV,
    TOO_FEW_NUMBERS,
    scan_obj,
)
from smile_pipe.pipeline.meshes.triangulation import has_short_polygons, triangulate

_MAX_BYTES = 1 << 20  # of a material file, which normally has a few lines
_MAX_LINE = 4096
_MAX_FILES = 8
# `map_Kd -s 1 1 1 -clamp on face.png`: values of options are numbers or on/off; the rest is the name.
_OPTION = re.compile(r"-[a-zA-Z]+(?:\s+(?:on|off|[-+]?\.?\d[\d.eE+-]*)(?=\s))*\s+")


def find_texture_name(sidecars: SidecarFiles, lines: list[bytes]) -> str:
    """Find the texture of an OBJ file.

    Args:
        sidecars: files that the OBJ may refer to.
        lines: its `mtllib` and `usemtl` lines, in order. Other lines are ignored.

    Returns:
        The `map_Kd` of the first used material that has one (of any material if the OBJ uses none), relative to the
        OBJ, or "". A material file that is missing, too large or outside the folder counts as empty.
    """
    if not sidecars.with_materials:
        return ""
    statements = [_statement(line) for line in lines]
    libraries = list(dict.fromkeys(name for word, name in statements if word == "mtllib" and name))
    textures: dict[str, str] = {}
    for library in libraries[:_MAX_FILES]:
        textures = _read_materials(sidecars, library) | textures
    used = [name for word, name in statements if word == "usemtl"]
    return next((textures[name] for name in used or textures if name in textures), "")


def _read_materials(sidecars: SidecarFiles, library: str) -> dict[str, str]:
    """Read one material file: material name -> texture name."""
    path = sidecars.find(library)
    try:
        if path is None or path.stat().st_size > _MAX_BYTES:
            return {}
        source = Source.read(path).as_text()
    except (MeshError, OSError):
        return {}
    folder = PurePosixPath(library.replace("\\", "/")).parent
    textures: dict[str, str] = {}
    material = ""
    for line in source.slice(0, _MAX_BYTES).splitlines():
        word, value = _statement(line)
        if word == "newmtl":
            material = value
        elif word == "map_kd" and (texture := _strip_options(value)):
            textures.setdefault(material, str(folder / texture.replace("\\", "/")))
    return textures


def _statement(line: bytes) -> tuple[str, str]:
    """Split a line into its keyword in lower case and the rest, both stripped."""
    line = line[:_MAX_LINE].strip()
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    word, _, rest = text.replace("\t", " ").partition(" ")
    return word.lower(), rest.strip()


def _strip_options(value: str) -> str:
    while match := _OPTION.match(value):
        value = value[match.end() :]
    return value


_Floats: TypeAlias = NDArray[np.float32]
_BYTES_PER_ELEMENT = 12  # an estimate; the minimum is 2
_NUM_MATERIALS = 256  # limit of `mtllib` and `usemtl` lines
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
    points, uvs, colors, corners, materials = _scan(source, dtype)
    faces, face_uvs = triangulate(corners[0], corners[1])
    colored = 0 < len(colors) == len(points) and not np.isnan(colors[:, 2]).any()
    textured = len(uvs) > 0 or bool((face_uvs >= 0).any())
    if len(uvs) > 0 and (bare := face_uvs == NO_UV).any():
        face_uvs[bare] = len(uvs)
        uvs = np.append(uvs, np.zeros((1, 2), np.float32), axis=0)
    return Mesh.build(
        points,
        faces,
        uvs if textured else None,
        face_uvs if textured else None,
        colors_to_uint8(colors) if colored else None,
        find_texture_name(source.sidecars, [source.line(pos) for pos in materials.tolist()]),
        (FEW_CORNERS,) if has_short_polygons(corners[0]) else (),
    )


def _scan(
    source: Source, dtype: DTypeLike
) -> tuple[NDArray[np.floating], _Floats, _Floats, NDArray[np.int32], NDArray[np.int64]]:
    """Run the compiled parser.

    Returns:
        points [V, 3], uvs [U, 2], colors [C, 3], corners [2, N], first bytes of material lines [M].
    """
    room = source.size // _BYTES_PER_ELEMENT + 64
    points: NDArray[np.floating] = reusable_array(room, dtype)
    uvs, colors = (
        reusable_array(room, np.float32),
        reusable_array(room, np.float32),
    )
    corners, materials = reusable_array(2 * room, np.int32).reshape(2, room), np.empty(_NUM_MATERIALS, np.int64)
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
    return (
        points[:num_points].reshape(-1, 3).copy(),
        uvs[:num_uvs].reshape(-1, 2).copy(),
        colors[:num_colors].reshape(-1, 3),
        corners[:, :num_corners],
        materials[:num_materials],
    )
