"""Where the meshes of a glTF scene lie.

What a glTF scene shows: its primitives as shapes, in their places, each with the image that colours it.

glTF 2.0 face scans, as JSON (`.gltf`) or binary (`.glb`): all triangles of the scene as one mesh.

Compressed and sparse arrays are refused by name; morph targets, skins and animations are passed over.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.gltf_buffers import Buffers
from smile_pipe.pipeline.meshes.gltf_document import Document, Node, Primitive, TextureInfo, get_item, parse_document
from smile_pipe.pipeline.meshes.gltf_textures import Part, build_texture, find_image, texture_info
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.shapes import Shape, join_shapes, transform_shape
from smile_pipe.pipeline.meshes.source import Source

_MOVES = {"matrix", "translation", "rotation", "scale"}


def walk_scene(document: Document) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Walk the scene that the file shows: the index of a mesh and its matrix [4, 4], in the order of the nodes.

    A file without scenes shows all its nodes.

    Raises:
        MeshError: a node is reached twice (which a tree does not allow), or an index is out of range.
    """
    ahead = [(root, np.eye(4)) for root in reversed(_roots(document))]
    seen: set[int] = set()
    while ahead:
        index, above = ahead.pop()
        if index in seen:
            raise MeshError(f"has node {index} in more than one place")
        seen.add(index)
        node = get_item(document.nodes, index, "node")
        matrix = above @ _matrix_of(node) if node.model_fields_set & _MOVES else above
        if node.mesh is not None:
            yield node.mesh, matrix
        ahead += [(child, matrix) for child in reversed(node.children)]


def _roots(document: Document) -> tuple[int, ...]:
    if document.scenes:
        return get_item(document.scenes, document.scene, "scene").nodes
    children = {child for node in document.nodes for child in node.children}
    return tuple(index for index in range(len(document.nodes)) if index not in children)


def _matrix_of(node: Node) -> NDArray[np.float64]:
    """The matrix [4, 4] of one node: its own, or T R S (glTF 2.0, 3.5.3)."""
    if node.matrix is not None:
        return np.array(node.matrix).reshape(4, 4).T  # the file has it by columns
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(np.array(node.rotation)) * node.scale
    matrix[:3, 3] = node.translation
    return matrix


def _rotation(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of a quaternion x, y, z, w of any length."""
    length = np.linalg.norm(quaternion)
    if length == 0.0:
        return np.eye(3)
    x, y, z, w = quaternion / length
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + 2.0 * (w * cross + cross @ cross)


_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_MAX_DRAWN = 1 << 20  # corners or vertices that any file may have


def collect_parts(buffers: Buffers) -> list[Part]:
    """The primitives of the scene in their places, those without triangles left out.

    Raises:
        MeshError: an array is not what it should be, or all together have far more vertices than the file has bytes.
    """
    parts: list[Part] = []
    num_drawn = 0
    for mesh, matrix in walk_scene(buffers.document):
        for primitive in get_item(buffers.document.meshes, mesh, "mesh").primitives:
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
                parts.append(Part(_in_place(shape, matrix), find_image(buffers.document, info)))
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
    assert attributes.POSITION is not None  # `collect_parts` leaves others out
    points = buffers.normalized_array(attributes.POSITION, ("VEC3",), force_normalized=False)
    faces = _triangles(corners.astype(np.int32), primitive.mode)
    uvs, colors = _uvs(buffers, primitive, info), np.empty((0, 3), np.float32)
    if attributes.COLOR_0 is not None:
        colors = np.clip(
            buffers.normalized_array(attributes.COLOR_0, ("VEC3", "VEC4"), force_normalized=True)[:, :3], 0, 1
        )
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
    uvs = buffers.normalized_array(accessor, ("VEC2",), force_normalized=False)
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
    shape = transform_shape(shape, matrix)
    if np.linalg.det(matrix[:3, :3]) >= 0:
        return shape
    faces = shape.faces[:, ::-1].copy()
    return replace(shape, faces=faces, face_uvs=faces if len(shape.uvs) else shape.face_uvs)


_MAGIC, _BOM = b"glTF", b"\xef\xbb\xbf"
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")


def parse_gltf(source: Source) -> Mesh:
    """Read either form of a glTF file; its first bytes say which.

    Raises:
        MeshError: it is damaged or cut off, reaches outside its folder, needs what is not read, draws meshes so often
            that they take far more room than the file, or the mesh is empty or inconsistent.
    """
    text, binary = _split(source)
    buffers = Buffers(source, parse_document(text), binary)
    parts = collect_parts(buffers)
    if not parts:
        raise MeshError("shows no triangles in its scene")
    shapes, texture, name = build_texture(buffers, parts)
    return replace(join_shapes(shapes, name), texture=texture)


def _split(source: Source) -> tuple[bytes, NDArray[np.uint8] | None]:
    """The JSON and the binary chunk, if there is one."""
    if source.slice(0, len(_MAGIC)) != _MAGIC:
        return source.slice(0, source.size).removeprefix(_BOM), None
    if source.size < _HEADER.size + _CHUNK.size:
        raise MeshError("is cut off in its header")
    _, version, length = _HEADER.unpack_from(source.data)
    if version != 2:
        raise MeshError(f"is GLB of version {version}; only version 2 is read")
    if length > source.size:
        raise MeshError(f"promises {length} bytes, but has {source.size}; it is cut off")
    start, stop = _chunk(source, _HEADER.size, length, b"JSON")
    first, last = _chunk(source, stop, length, b"BIN\0") if stop + _CHUNK.size <= length else (0, 0)
    return source.slice(start, stop), source.text[first:last]


def _chunk(source: Source, pos: int, length: int, kind: bytes) -> tuple[int, int]:
    """First and last byte of the chunk at byte `pos`; none where it is of another kind, which files may have."""
    size, found = _CHUNK.unpack_from(source.data, pos)
    start = pos + _CHUNK.size
    if start + size > length:
        raise MeshError(f"promises {size} bytes after byte {start}, but has {length}")
    return (start, start + size) if found == kind else (start, start)
