"""glTF 2.0 face scans, as JSON (`.gltf`) or binary (`.glb`): all triangles of the scene as one mesh.

Compressed and sparse arrays are refused by name; morph targets, skins and animations are passed over.
"""

import struct
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.gltf_buffers import Buffers
from pipeline.meshes.gltf_document import parse_document
from pipeline.meshes.gltf_parts import parts_of
from pipeline.meshes.gltf_textures import textured
from pipeline.meshes.mesh import Mesh, MeshError
from pipeline.meshes.shapes import join
from pipeline.meshes.source import Source

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
    parts = parts_of(buffers)
    if not parts:
        raise MeshError("shows no triangles in its scene")
    shapes, texture, name = textured(buffers, parts)
    return replace(join(shapes, name), texture=texture)


def _split(source: Source) -> tuple[bytes, NDArray[np.uint8] | None]:
    """The JSON and the binary chunk, if there is one."""
    if source.cut(0, len(_MAGIC)) != _MAGIC:
        return source.cut(0, source.size).removeprefix(_BOM), None
    if source.size < _HEADER.size + _CHUNK.size:
        raise MeshError("is cut off in its header")
    _, version, length = _HEADER.unpack_from(source.data)
    if version != 2:
        raise MeshError(f"is GLB of version {version}; only version 2 is read")
    if length > source.size:
        raise MeshError(f"promises {length} bytes, but has {source.size}; it is cut off")
    start, stop = _chunk(source, _HEADER.size, length, b"JSON")
    first, last = _chunk(source, stop, length, b"BIN\0") if stop + _CHUNK.size <= length else (0, 0)
    return source.cut(start, stop), source.text[first:last]


def _chunk(source: Source, at: int, length: int, kind: bytes) -> tuple[int, int]:
    """First and last byte of the chunk at byte `at`; none where it is of another kind, which files may have."""
    size, found = _CHUNK.unpack_from(source.data, at)
    start = at + _CHUNK.size
    if start + size > length:
        raise MeshError(f"promises {size} bytes after byte {start}, but has {length}")
    return (start, start + size) if found == kind else (start, start)
