"""glTF 2.0 face scans, as JSON (`.gltf`) or binary (`.glb`): all triangles of the scene as one mesh.

Compressed and sparse arrays are rejected by name. Morph targets, skins and animations are skipped.
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

_TRANSFORM_FIELDS = {"matrix", "translation", "rotation", "scale"}


def walk_scene(document: Document) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the index of each mesh in the scene with its matrix [4, 4], in the order of the nodes.

    All nodes of a file without scenes are used.

    Raises:
        MeshError: a node is reached twice (the nodes must form a tree), or an index is out of range.
    """
    stack = [(root, np.eye(4)) for root in reversed(_roots(document))]
    seen: set[int] = set()
    while stack:
        index, parent_matrix = stack.pop()
        if index in seen:
            raise MeshError(f"invalid scene: node {index} is reached twice")
        seen.add(index)
        node = get_item(document.nodes, index, "node")
        matrix = parent_matrix @ _matrix_of(node) if node.model_fields_set & _TRANSFORM_FIELDS else parent_matrix
        if node.mesh is not None:
            yield node.mesh, matrix
        stack += [(child, matrix) for child in reversed(node.children)]


def _roots(document: Document) -> tuple[int, ...]:
    if document.scenes:
        return get_item(document.scenes, document.scene, "scene").nodes
    children = {child for node in document.nodes for child in node.children}
    return tuple(index for index in range(len(document.nodes)) if index not in children)


def _matrix_of(node: Node) -> NDArray[np.float64]:
    """The matrix [4, 4] of one node: `matrix`, or T R S (glTF 2.0, 3.5.3)."""
    if node.matrix is not None:
        return np.array(node.matrix).reshape(4, 4).T  # column-major in the file
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
_MAX_DRAWN = 1 << 20  # corners or vertices, allowed in a file of any size


def collect_parts(buffers: Buffers) -> list[Part]:
    """Build the parts of the scene in their places. Primitives without triangles are skipped.

    Raises:
        MeshError: an array is invalid, or the parts have far more vertices in total than the file has bytes.
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
                raise MeshError(f"meshes reused too often: {num_drawn} vertices from {buffers.nbytes} bytes")
            shape = _shape(buffers, primitive, corners, info)
            if len(shape.faces):
                parts.append(Part(_in_place(shape, matrix), find_image(buffers.document, info)))
    return parts


def _corners(buffers: Buffers, primitive: Primitive, num_points: int) -> NDArray[np.unsignedinteger]:
    """Vertex index of every corner [N]."""
    if primitive.indices is None:
        return np.arange(num_points, dtype=np.uint32)
    corners = buffers.array(primitive.indices, ("SCALAR",))[:, 0]
    if corners.dtype.kind != "u":
        raise MeshError(f"invalid vertex indices: they have the type {corners.dtype}")
    if len(corners) and (last := int(corners.max())) >= num_points:
        raise MeshError(f"index out of range: a face uses vertex {last}, but the part has {num_points}")
    return corners


def _shape(
    buffers: Buffers, primitive: Primitive, corners: NDArray[np.unsignedinteger], info: TextureInfo | None
) -> Shape:
    attributes = primitive.attributes
    assert attributes.POSITION is not None  # checked by `collect_parts`
    points = buffers.normalized_array(attributes.POSITION, ("VEC3",), force_normalized=False)
    faces = _triangles(corners.astype(np.int32), primitive.mode)
    uvs, colors = _uvs(buffers, primitive, info), np.empty((0, 3), np.float32)
    if attributes.COLOR_0 is not None:
        colors = np.clip(
            buffers.normalized_array(attributes.COLOR_0, ("VEC3", "VEC4"), force_normalized=True)[:, :3], 0, 1
        )
    for name, values in (("texture coordinates", uvs), ("colours", colors)):
        if len(values) not in (0, len(points)):
            raise MeshError(f"inconsistent part: {len(points)} vertices, {len(values)} {name}")
    return Shape(points, faces, uvs, faces if len(uvs) else np.zeros_like(faces), colors)


def _uvs(buffers: Buffers, primitive: Primitive, info: TextureInfo | None) -> NDArray[np.float32]:
    """Texture coordinates for the texture of the part [V, 2], from the upper left; [0, 2] if it has none."""
    transform = info.extensions.KHR_texture_transform if info else None
    chosen = info.tex_coord if info else 0
    if transform and transform.tex_coord is not None:
        chosen = transform.tex_coord
    if chosen > 1:
        raise MeshError(
            f"unsupported texture coordinates: TEXCOORD_{chosen}; only TEXCOORD_0 and TEXCOORD_1 are supported"
        )
    accessor = primitive.attributes.TEXCOORD_1 if chosen else primitive.attributes.TEXCOORD_0
    if accessor is None:
        return np.empty((0, 2), np.float32)
    uvs = buffers.normalized_array(accessor, ("VEC2",), force_normalized=False)
    if transform is None:
        return uvs
    if transform.rotation:
        raise MeshError("unsupported texture rotation by KHR_texture_transform; export the file without it")
    with np.errstate(over="ignore"):  # `Mesh.build` rejects values that overflow
        return (uvs * np.array(transform.scale) + transform.offset).astype(np.float32)


def _triangles(corners: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    """Split corners [N] into triangles [F, 3] (glTF 2.0, 3.7.2.1).

    Degenerate triangles, which connect separate parts of a strip, are dropped.
    """
    if mode == _TRIANGLES:
        if len(corners) % 3:
            raise MeshError(f"incomplete triangle: {len(corners)} corners are not a multiple of three")
        return corners.reshape(-1, 3)
    first = np.arange(max(len(corners) - 2, 0))
    if mode == _FAN:
        return corners[np.stack([first + 1, first + 2, np.zeros_like(first)], axis=1)]
    a, b, c = faces = corners[np.stack([first, first + 1 + first % 2, first + 2 - first % 2])]
    return faces[:, (a != b) & (b != c) & (c != a)].T.copy()


def _in_place(shape: Shape, matrix: NDArray[np.float64]) -> Shape:
    """Transform a shape. A mirroring matrix turns a shape inside out, so its faces are flipped back."""
    shape = transform_shape(shape, matrix)
    if np.linalg.det(matrix[:3, :3]) >= 0:
        return shape
    faces = shape.faces[:, ::-1].copy()
    return replace(shape, faces=faces, face_uvs=faces if len(shape.uvs) else shape.face_uvs)


_MAGIC, _BOM = b"glTF", b"\xef\xbb\xbf"
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")


def parse_gltf(source: Source) -> Mesh:
    """Read a glTF file of either form; the first bytes decide which.

    Raises:
        MeshError: the file is damaged or truncated, refers to files outside its folder, requires unsupported features,
            reuses meshes so often that they need far more memory than the file, or the mesh is empty or inconsistent.
    """
    text, binary = _split(source)
    buffers = Buffers(source, parse_document(text), binary)
    parts = collect_parts(buffers)
    if not parts:
        raise MeshError("no triangles in the scene")
    shapes, texture, name = build_texture(buffers, parts)
    return replace(join_shapes(shapes, name), texture=texture)


def _split(source: Source) -> tuple[bytes, NDArray[np.uint8] | None]:
    """Return the JSON and the binary chunk, or None if there is no binary chunk."""
    if source.slice(0, len(_MAGIC)) != _MAGIC:
        return source.slice(0, source.size).removeprefix(_BOM), None
    if source.size < _HEADER.size + _CHUNK.size:
        raise MeshError("truncated header")
    _, version, length = _HEADER.unpack_from(source.data)
    if version != 2:
        raise MeshError(f"unsupported GLB version: {version}; only version 2 is supported")
    if length > source.size:
        raise MeshError(f"truncated file: the header declares {length} bytes, the file has {source.size}")
    start, stop = _chunk(source, _HEADER.size, length, b"JSON")
    first, last = _chunk(source, stop, length, b"BIN\0") if stop + _CHUNK.size <= length else (0, 0)
    return source.slice(start, stop), source.text[first:last]


def _chunk(source: Source, pos: int, length: int, kind: bytes) -> tuple[int, int]:
    """Byte range of the data of the chunk at byte `pos`; empty if the chunk is of another kind, which is allowed."""
    size, chunk_kind = _CHUNK.unpack_from(source.data, pos)
    start = pos + _CHUNK.size
    if start + size > length:
        raise MeshError(f"truncated chunk: {size} bytes declared after byte {start} of {length}")
    return (start, start + size) if chunk_kind == kind else (start, start)
