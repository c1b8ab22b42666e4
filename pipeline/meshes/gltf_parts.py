"""What a glTF scene shows: its primitives as shapes, in their places, each with the image that colours it."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.gltf_buffers import Buffers
from pipeline.meshes.gltf_document import Primitive, TextureInfo, item
from pipeline.meshes.gltf_nodes import placed
from pipeline.meshes.gltf_textures import Part, image_of, texture_info
from pipeline.meshes.mesh import MeshError
from pipeline.meshes.shapes import Shape, moved

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_MAX_DRAWN = 1 << 20  # corners or vertices that any file may have


def parts_of(buffers: Buffers) -> list[Part]:
    """The primitives of the scene in their places, those without triangles left out.

    Raises:
        MeshError: an array is not what it should be, or all together have far more vertices than the file has bytes.
    """
    parts: list[Part] = []
    num_drawn = 0
    for mesh, matrix in placed(buffers.document):
        for primitive in item(buffers.document.meshes, mesh, "mesh").primitives:
            if primitive.mode not in (_TRIANGLES, _STRIP, _FAN) or primitive.attributes.POSITION is None:
                continue
            info = texture_info(buffers.document, primitive.material)
            points = buffers.array(primitive.attributes.POSITION, ("VEC3",))
            corners = _corners(buffers, primitive, len(points))
            num_drawn += max(len(points), len(corners))
            if num_drawn > max(buffers.nbytes, _MAX_DRAWN):
                raise MeshError(f"draws {num_drawn} vertices out of {buffers.nbytes} bytes; meshes are used too often")
            shape = _shape(buffers, primitive, corners, info)
            if len(shape.faces):
                parts.append(Part(_in_place(shape, matrix), image_of(buffers.document, info)))
    return parts


def _corners(buffers: Buffers, primitive: Primitive, num_points: int) -> NDArray[np.unsignedinteger]:
    """The vertex of every corner [N]."""
    if primitive.indices is None:
        return np.arange(num_points, dtype=np.uint32)
    corners = buffers.array(primitive.indices, ("SCALAR",))[:, 0]
    if corners.dtype.kind != "u":
        raise MeshError(f"has indices that are {corners.dtype} numbers")
    if len(corners) and (last := int(corners.max())) >= num_points:
        raise MeshError(f"has a face with vertex {last}, but the part has {num_points}")
    return corners


def _shape(
    buffers: Buffers, primitive: Primitive, corners: NDArray[np.unsignedinteger], info: TextureInfo | None
) -> Shape:
    attributes = primitive.attributes
    assert attributes.POSITION is not None  # `parts_of` leaves others out
    points = buffers.fractions(attributes.POSITION, ("VEC3",), always=False)
    faces = _triangles(corners.astype(np.int32), primitive.mode)
    uvs, colors = _uvs(buffers, primitive, info), np.empty((0, 3), np.float32)
    if attributes.COLOR_0 is not None:
        colors = np.clip(buffers.fractions(attributes.COLOR_0, ("VEC3", "VEC4"), always=True)[:, :3], 0, 1)
    for what, values in (("texture coordinates", uvs), ("colours", colors)):
        if len(values) not in (0, len(points)):
            raise MeshError(f"has a part of {len(points)} vertices and {len(values)} {what}")
    return Shape(points, faces, uvs, faces if len(uvs) else np.zeros_like(faces), colors)


def _uvs(buffers: Buffers, primitive: Primitive, info: TextureInfo | None) -> NDArray[np.float32]:
    """The texture coordinates that the part's texture takes [V, 2], from the upper left; none: [0, 2]."""
    transform = info.extensions.KHR_texture_transform if info else None
    chosen = info.tex_coord if info else 0
    if transform and transform.tex_coord is not None:
        chosen = transform.tex_coord
    if chosen > 1:
        raise MeshError(f"takes the texture coordinates TEXCOORD_{chosen}; only TEXCOORD_0 and TEXCOORD_1 are read")
    accessor = primitive.attributes.TEXCOORD_1 if chosen else primitive.attributes.TEXCOORD_0
    if accessor is None:
        return np.empty((0, 2), np.float32)
    uvs = buffers.fractions(accessor, ("VEC2",), always=False)
    if transform is None:
        return uvs
    if transform.rotation:
        raise MeshError("has a texture that KHR_texture_transform rotates, which is not read; export it without")
    with np.errstate(over="ignore"):  # what overflows is refused later, by name
        return (uvs * np.array(transform.scale) + transform.offset).astype(np.float32)


def _triangles(corners: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    """Corners [N] as triangles [F, 3] (glTF 2.0, 3.7.2.1).

    The triangles without area by which one strip continues in another place are dropped.
    """
    if mode == _TRIANGLES:
        if len(corners) % 3:
            raise MeshError(f"has {len(corners)} corners, not three for each triangle")
        return corners.reshape(-1, 3)
    first = np.arange(max(len(corners) - 2, 0))
    if mode == _FAN:
        return corners[np.stack([first + 1, first + 2, np.zeros_like(first)], axis=1)]
    a, b, c = faces = corners[np.stack([first, first + 1 + first % 2, first + 2 - first % 2])]
    return faces[:, (a != b) & (b != c) & (c != a)].T.copy()


def _in_place(shape: Shape, matrix: NDArray[np.float64]) -> Shape:
    """Move a shape; one that is mirrored is turned inside out by that, so its faces are turned back."""
    shape = moved(shape, matrix)
    if np.linalg.det(matrix[:3, :3]) >= 0:
        return shape
    faces = shape.faces[:, ::-1].copy()
    return replace(shape, faces=faces, face_uvs=faces if len(shape.uvs) else shape.face_uvs)
