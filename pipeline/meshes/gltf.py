"""glTF 2.0 face scans, as JSON (`.gltf`) or binary (`.glb`): all triangles of the scene as one mesh.

Declared sizes are untrusted: byte ranges are checked before an array is made. Sparse arrays are rejected by name. Morph
targets and animations are skipped. Joints pose the meshes of skins as the nodes of the file place them.
"""

import base64
import struct
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.gltf_json import MESHOPT, JsonObject, parse_document
from smile_pipe.pipeline.meshes.gltf_scene import PlacedMesh, joint_matrices, pose, walk_scene
from smile_pipe.pipeline.meshes.gltf_textures import stack_textures
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.meshopt import decode_meshopt
from smile_pipe.pipeline.meshes.shapes import Shape, join_shapes, transform_shape
from smile_pipe.pipeline.meshes.source import MAX_BYTES, Source
from smile_pipe.pipeline.meshes.texture import MAX_PIXELS, decode_texture

_MAGIC = b"glTF"
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")
_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_MAX_DRAWN = 1 << 20  # corners or vertices, allowed in a file of any size
_MAX_STRIDE = 256
_MAX_JOINT_SETS = 4  # of four joints
_MAX_DECODED = 256 << 20  # bytes of all compressed buffers together


@dataclass(eq=False)
class _Reader:
    """The arrays of a document.

    Attributes:
        source: the file.
        document: its JSON.
        binary: uint8 [N], the binary chunk of a GLB, or None.
        nbytes: size of the file and of everything loaded and decoded so far.
    """

    source: Source
    document: JsonObject
    binary: NDArray[np.uint8] | None
    nbytes: int
    _buffers: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    _views: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    _num_decoded: int = 0

    def array(self, index: int, *types: str) -> NDArray:
        """Return the numbers of accessor `index` [count, columns] as a view. Its type must be one of `types`."""
        accessor = self.document.item("accessors", index)
        component, kind, view_index = (
            accessor.count("componentType"),
            accessor.text("type"),
            accessor.index("bufferView"),
        )
        if component not in _COMPONENTS or kind not in types:
            raise MeshError(f"invalid accessor {index}: its type must be {' or '.join(types)} of known numbers")
        if "sparse" in accessor.values or view_index is None:
            raise MeshError(f"unsupported accessor {index}: it is sparse or has no bytes")
        dtype, columns, count = np.dtype(_COMPONENTS[component]), _COLUMNS[kind], accessor.count("count")
        size, start = columns * dtype.itemsize, accessor.count("byteOffset", 0)
        view = self.document.item("bufferViews", view_index)
        length, stride = view.count("byteLength"), (_meshopt(view) or view).count("byteStride", size)
        if not size <= stride <= _MAX_STRIDE:
            raise MeshError(f"overlapping elements in accessor {index}: {size} bytes every {stride} bytes")
        if count == 0:
            return np.empty((0, columns), dtype)
        if start + stride * (count - 1) + size > length:
            raise MeshError(f"truncated accessor {index}: {count} elements in {length} bytes")
        return np.ndarray((count, columns), dtype, self.view(view_index).data, start, (stride, dtype.itemsize))

    def floats(self, index: int, *types: str, as_fractions: bool = False) -> NDArray[np.float32]:
        """Return accessor `index` as float32; normalised integers, or all integers, as fractions of the maximum."""
        values = self.array(index, *types)
        if values.dtype.kind == "f" or not (
            as_fractions or self.document.item("accessors", index).values.get("normalized")
        ):
            return values.astype(np.float32)
        return np.maximum(values / np.iinfo(values.dtype).max, -1.0).astype(np.float32)

    def view(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of bufferView `index`, not copied unless they are compressed."""
        view = self.document.item("bufferViews", index)
        if not (packed := _meshopt(view)):
            return self._range(view)
        if index not in self._views:
            count, stride = packed.count("count"), packed.count("byteStride")
            self._num_decoded += count * stride
            if self._num_decoded > _MAX_DECODED or count * stride != view.count("byteLength"):
                raise MeshError(f"invalid size of compressed bufferView {index}; the limit is {_MAX_DECODED} bytes")
            mode, filter_name = packed.text("mode"), packed.text("filter", "NONE")
            self._views[index] = decode_meshopt(self._range(packed), mode, filter_name, count, stride)
            self.nbytes += count * stride
        return self._views[index]

    def _range(self, values: JsonObject) -> NDArray[np.uint8]:
        """Return the range of a buffer that `buffer`, `byteOffset` and `byteLength` give."""
        buffer, start, length = values.count("buffer"), values.count("byteOffset", 0), values.count("byteLength")
        if buffer not in self._buffers:
            self._buffers[buffer] = self._load(buffer)
        content = self._buffers[buffer]
        if start + length > len(content):
            raise MeshError(f"truncated buffer {buffer}: bytes {start} to {start + length} of {len(content)} are used")
        return content[start : start + length]

    def _load(self, index: int) -> NDArray[np.uint8]:
        uri = self.document.item("buffers", index).text("uri")
        if not uri:
            if index or self.binary is None:
                raise MeshError(f"no bytes for buffer {index}")
            return self.binary
        content = _decode_data_uri(uri) if uri.startswith("data:") else self._read_file(uri)
        self.nbytes += len(content)
        if self.nbytes - self.source.size > MAX_BYTES:
            raise MeshError(f"buffers too large: more than {MAX_BYTES} bytes together")
        return content

    def _read_file(self, uri: str) -> NDArray[np.uint8]:
        """Read a buffer from a file in the folder of the glTF or below."""
        path = self.source.sidecars.find(unquote(uri))
        if path is None:
            raise MeshError(f"buffer {uri[:80]!a} is outside the folder of the file; move it there")
        try:
            source = Source.read(path)
        except MeshError as error:
            raise MeshError(f"buffer {uri[:80]!a}: {error}") from error
        return source.text[: source.size]


def _meshopt(view: JsonObject) -> JsonObject:
    """Return the description of a compressed bufferView; empty if it is not compressed."""
    extensions = view.inside("extensions")
    return next((extensions.inside(name) for name in MESHOPT if name in extensions.values), JsonObject({}))


def parse_gltf(source: Source) -> Mesh:
    """Read a glTF file of either form; the first bytes decide which.

    Raises:
        MeshError: the file is damaged or truncated, refers to files outside its folder, requires unsupported features,
            reuses meshes so often that they need far more memory than the file, or the mesh is empty or inconsistent.
    """
    text, binary = _split(source)
    reader = _Reader(source, parse_document(text), binary, source.size)
    shapes, images = _read_shapes(reader)
    if not shapes:
        raise MeshError("no triangles in the scene")
    textures, name = _read_images(reader, images if source.sidecars.with_materials else [None] * len(images))
    shapes, texture = stack_textures(shapes, textures)
    return replace(join_shapes([_flip_v(shape) for shape in shapes], name), texture=texture)


def _split(source: Source) -> tuple[bytes, NDArray[np.uint8] | None]:
    """Return the JSON and the binary chunk, or None if there is no binary chunk."""
    if source.slice(0, len(_MAGIC)) != _MAGIC:
        text = source.as_text()
        return text.slice(0, text.size), None
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


def _decode_data_uri(uri: str) -> NDArray[np.uint8]:
    head, comma, body = uri.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return np.frombuffer(base64.b64decode(body, validate=True), np.uint8)
    except ValueError:
        raise MeshError("invalid data URI: not base64") from None


def _read_shapes(reader: _Reader) -> tuple[list[Shape], list[int | None]]:
    """Read the shapes of the scene in their places, and the index of the image of each, or None."""
    shapes, images, num_drawn, document = list[Shape](), list[int | None](), 0, reader.document
    for placed in walk_scene(document):
        parts = document.item("meshes", placed.mesh)
        for primitive in [parts.item("primitives", i) for i in range(len(parts.items("primitives")))]:
            attributes, mode = primitive.inside("attributes"), primitive.count("mode", _TRIANGLES)
            position = attributes.index("POSITION")
            if mode not in (_TRIANGLES, _STRIP, _FAN) or position is None:  # lines, points
                continue
            num_points = len(reader.array(position, "VEC3"))
            corners = _read_corners(reader, primitive, num_points)
            num_drawn += max(num_points, len(corners))
            if num_drawn > max(reader.nbytes, _MAX_DRAWN):
                raise MeshError(f"meshes reused too often: {num_drawn} vertices from {reader.nbytes} bytes")
            texture = _texture_of(document, primitive)
            points, matrix, is_mirrored = _read_points(reader, attributes, placed)
            arrays = points, *_read_attributes(reader, attributes, texture, num_points)
            faces = _triangles(corners.astype(np.int32), mode)
            if len(faces):
                shapes.append(_in_place(arrays, faces[:, ::-1].copy() if is_mirrored else faces, matrix))
                is_textured = texture and len(arrays[1])
                images.append(
                    document.item("textures", texture.count("index")).index("source") if is_textured else None
                )
    return shapes, images


def _read_points(
    reader: _Reader, attributes: JsonObject, placed: PlacedMesh
) -> tuple[NDArray[np.floating], NDArray[np.float64], bool]:
    """Read the points of a primitive, posed by the joints of its skin.

    Posed points are in the scene already: the node of a skinned mesh does not move it (glTF 2.0, 3.7.3.3).

    Returns:
        The points [V, 3], their matrix to the scene [4, 4], and whether joints or matrix mirror them.
    """
    points, sets = reader.floats(attributes.count("POSITION"), "VEC3"), range(_MAX_JOINT_SETS)
    joints = [reader.array(i, "VEC4") for n in sets if (i := attributes.index(f"JOINTS_{n}")) is not None]
    weights = [
        reader.floats(i, "VEC4", as_fractions=True) for n in sets if (i := attributes.index(f"WEIGHTS_{n}")) is not None
    ]
    if placed.skin is None or not joints:
        return points, placed.matrix, _mirrors(placed.matrix)
    if any(array.dtype.kind != "u" for array in joints) or any(not np.isfinite(array).all() for array in weights):
        raise MeshError("invalid skin: joints must be unsigned integers, and weights finite")
    if [len(array) for array in (*joints, *weights)] != 2 * len(joints) * [len(points)]:
        raise MeshError(f"inconsistent skin: {len(points)} vertices with other numbers of joints or weights")
    skin = reader.document.item("skins", placed.skin)
    matrices = joint_matrices(reader.document, skin.indices("joints"))
    if (inverses := skin.index("inverseBindMatrices")) is not None:
        values = reader.floats(inverses, "MAT4")
        if len(values) < len(matrices):
            raise MeshError(f"truncated skin: {len(values)} inverse bind matrices for {len(matrices)} joints")
        matrices = matrices @ values[: len(matrices)].reshape(-1, 4, 4).transpose(0, 2, 1)  # column-major in the file
    posed = pose(points, np.concatenate(joints, axis=1), np.concatenate(weights, axis=1), matrices)
    return posed, np.eye(4), _mirrors(matrices)


def _mirrors(matrices: NDArray[np.float64]) -> bool:
    """Return whether all matrices [..., 4, 4] mirror."""
    return bool((np.linalg.det(matrices[..., :3, :3]) < 0).all())


def _texture_of(document: JsonObject, primitive: JsonObject) -> JsonObject:
    """Return the base colour texture of a primitive; empty if it has none."""
    material = primitive.index("material")
    if material is None:
        return JsonObject({})
    return document.item("materials", material).inside("pbrMetallicRoughness", "baseColorTexture")


def _read_corners(reader: _Reader, primitive: JsonObject, num_points: int) -> NDArray[np.unsignedinteger]:
    """Vertex index of every corner [N]."""
    indices = primitive.index("indices")
    if indices is None:
        return np.arange(num_points, dtype=np.uint32)
    corners = reader.array(indices, "SCALAR")[:, 0]
    if corners.dtype.kind != "u":
        raise MeshError(f"invalid vertex indices: they have the type {corners.dtype}")
    if len(corners) and (last := int(corners.max())) >= num_points:
        raise MeshError(f"index out of range: a face uses vertex {last}, but the part has {num_points}")
    return corners


def _read_attributes(
    reader: _Reader, attributes: JsonObject, texture: JsonObject, num_points: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read texture coordinates from the upper left [V, 2], or [0, 2], and colours [V, 3], or [0, 3]."""
    uvs, colors = np.empty((0, 2), np.float32), np.empty((0, 3), np.float32)
    transform = texture.inside("extensions", "KHR_texture_transform")
    accessor = attributes.index(f"TEXCOORD_{transform.count('texCoord', texture.count('texCoord', 0))}")
    if accessor is not None:
        uvs = reader.floats(accessor, "VEC2")
    if transform:
        if transform.values.get("rotation"):
            raise MeshError("unsupported texture rotation by KHR_texture_transform; export the file without it")
        scale, offset = transform.numbers("scale", (1.0, 1.0)), transform.numbers("offset", (0.0, 0.0))
        with np.errstate(over="ignore"):  # `Mesh.build` rejects values that overflow
            uvs = (uvs * scale + offset).astype(np.float32)
    if (accessor := attributes.index("COLOR_0")) is not None:
        colors = np.clip(reader.floats(accessor, "VEC3", "VEC4", as_fractions=True)[:, :3], 0, 1)
    for name, values in (("texture coordinates", uvs), ("colours", colors)):
        if len(values) not in (0, num_points):
            raise MeshError(f"inconsistent part: {num_points} vertices, {len(values)} {name}")
    return uvs, colors


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


def _in_place(
    arrays: tuple[NDArray[np.floating], NDArray[np.float32], NDArray[np.float32]],
    faces: NDArray[np.int32],
    matrix: NDArray[np.float64],
) -> Shape:
    """Build a shape of points, uvs and colours, transformed by `matrix`."""
    points, uvs, colors = arrays
    return transform_shape(Shape(points, faces, uvs, faces if len(uvs) else np.zeros_like(faces), colors), matrix)


def _flip_v(shape: Shape) -> Shape:
    uvs = shape.uvs.copy()
    uvs[:, 1] = 1 - uvs[:, 1]
    return replace(shape, uvs=uvs)


def _read_images(reader: _Reader, indices: list[int | None]) -> tuple[list[NDArray[np.uint8] | None], str]:
    """Decode embedded images.

    Returns:
        uint8 [H, W, 3] for each index, or None if it is None or the image is in another file; the name of the first
        image, unresolved and untrusted, if none is embedded, else "".
    """
    name, decoded, left = "", dict[int | None, NDArray[np.uint8]](), MAX_PIXELS
    for index in dict.fromkeys(indices):
        if index is None:
            continue
        image = reader.document.item("images", index)
        uri = image.text("uri")
        if uri and not uri.startswith("data:"):
            name = name or unquote(uri)
            continue
        try:
            content = _decode_data_uri(uri) if uri else reader.view(image.count("bufferView"))
            decoded[index] = decode_texture(content.tobytes(), left)
        except MeshError as error:
            raise MeshError(f"image {index}: {error}") from error
        left -= decoded[index].size // 3
    return [decoded.get(index) for index in indices], "" if decoded else name
