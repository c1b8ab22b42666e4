"""Invalid glTF files, and files that require unsupported features, are rejected with a reason and in little memory."""

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.small_gltf import TRIANGLE, UVS, SmallGltf
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh

_MIB = 1 << 20


def _triangle() -> SmallGltf:
    gltf = SmallGltf()
    gltf.show({"indices": gltf.array([0, 1, 2], "u1")}, POSITION=gltf.array(TRIANGLE), COLOR_0=gltf.array(TRIANGLE))
    return gltf


def _refused(path: Path, problem: str, peak: int = 2 * _MIB) -> None:
    """Assert that reading fails with `problem` and takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(MeshError, match=problem):
            read_mesh(path)
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("accessors", 0, "count"), 10**9, "truncated accessor 0: 1000000000 elements in 3 bytes"),
        (("accessors", 0, "count"), -1, "count must be an integer from 0 to 1099511627776"),
        (("accessors", 0, "count"), 4, "truncated accessor 0: 4 elements in 3 bytes"),
        (("accessors", 0, "count"), 2, "incomplete triangle: 2 corners are not a multiple of three"),
        (("accessors", 1, "byteOffset"), 1, "truncated accessor 1: 3 elements in 36 bytes"),
        (("accessors", 0, "componentType"), 5120, "invalid vertex indices: they have the type int8"),
        (("accessors", 0, "componentType"), 5130, "invalid accessor 0: its type must be SCALAR of known numbers"),
        (("accessors", 1, "type"), "VEC2", "invalid accessor 1: its type must be VEC3 of known numbers"),
        (("accessors", 2, "count"), 2, "inconsistent part: 3 vertices, 2 colours"),
        (("accessors", 1, "count"), 2, "index out of range: a face uses vertex 2, but the part has 2"),
        (("accessors", 1, "sparse"), {"count": 1}, "unsupported accessor 1: it is sparse or has no bytes"),
        (("accessors", 1, "bufferView"), None, "unsupported accessor 1: it is sparse or has no bytes"),
        (("accessors", 1, "bufferView"), 9, "index out of range: 9 of 3 bufferViews"),
        (("bufferViews", 1, "byteStride"), 4, "overlapping elements in accessor 1: 12 bytes every 4 bytes"),
        (("bufferViews", 1, "byteOffset"), 99, "truncated buffer 0: bytes 99 to 135 of 75 are used"),
        (("bufferViews", 1, "buffer"), 1, "index out of range: 1 of 1 buffers"),
        (("meshes", 0, "primitives", 0, "indices"), 7, "index out of range: 7 of 3 accessors"),
        (("meshes", 0, "primitives", 0, "material"), 7, "index out of range: 7 of 0 materials"),
        (("nodes", 0, "mesh"), 7, "index out of range: 7 of 1 meshes"),
        (("nodes", 0, "matrix"), [1] * 15, "matrix must be 16 finite numbers"),
        (("nodes", 0, "translation"), [float("nan"), 0, 0], "translation must be 3 finite numbers"),
        (("nodes", 0, "scale"), [1e999, 0, 0], "scale must be 3 finite numbers"),
        (("nodes", 0, "rotation"), ["x", 0, 0, 1], "rotation must be 4 finite numbers"),
        (("nodes", 0, "children"), [0], "invalid scene: node 0 is reached twice"),
        (("scenes", 0, "nodes"), [0, 0], "invalid scene: node 0 is reached twice"),
        (("scene",), 1, "index out of range: 1 of 1 scenes"),
        (("asset", "version"), "1.0", "unsupported glTF version: '1.0'; only version 2 is supported"),
        (("meshes",), [{"primitives": []}] * 257, "meshes must be a list of at most 256 items"),
        (("nodes",), [{}] * 16385, "nodes must be a list of at most 16384 items"),
    ],
)
def test_invalid_json_values_are_described(tmp_path: Path, place: tuple, value: Any, problem: str) -> None:
    gltf = _triangle()
    read_mesh(gltf.write(tmp_path / "f.glb"))
    *parents, last = place
    target: Any = gltf.doc
    for parent in parents:
        target = target[parent]
    target[last] = value
    _refused(gltf.write(tmp_path / "f.glb"), problem, peak=_MIB if len(gltf.doc["nodes"]) == 1 else 16 * _MIB)


@pytest.mark.parametrize("name", ["KHR_draco_mesh_compression", "KHR_texture_basisu", "EXT_\x1b[2J"])
def test_required_unsupported_extension_is_named(tmp_path: Path, name: str) -> None:
    gltf = _triangle()
    gltf.doc["extensionsRequired"] = [name]
    _refused(gltf.write(tmp_path / "f.glb"), "unsupported extension: '[A-Za-z_]+(.x1b.*)?'; export the file")


def test_shading_extensions_are_accepted(tmp_path: Path) -> None:
    gltf = _triangle()
    gltf.doc["extensionsUsed"] = ["EXT_whatever", "KHR_materials_ior"]
    gltf.doc["extensionsRequired"] = ["KHR_materials_unlit"]
    assert len(read_mesh(gltf.write(tmp_path / "f.glb")).faces) == 1
    gltf.doc["extensionsUsed"].append("KHR_draco_mesh_compression")
    _refused(gltf.write(tmp_path / "f.glb"), "unsupported extension: 'KHR_draco_mesh_compression'")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"glTF" + bytes(15), "truncated header"),
        (
            struct.pack("<4sIII4s", b"glTF", 1, 20, 0, b"JSON"),
            "is glTF 1.0; convert it to glTF 2.0",
        ),
        (
            struct.pack("<4sIII4s", b"glTF", 2, 21, 0, b"JSON"),
            "truncated file: the header declares 21 bytes, the file has 20",
        ),
        (struct.pack("<4sIII4s", b"glTF", 2, 20, 1, b"JSON"), "truncated chunk: 1 bytes declared after byte 20 of 20"),
        (struct.pack("<4sIII4s", b"glTF", 2, 20, 0, b"JSON"), "invalid glTF file: not JSON"),
        (b"[" * 100_000, "invalid glTF file: not JSON"),
        (b'{"asset": {"version": "2.0"}}', "no triangles in the scene"),
        (b"{}", "not glTF 2.0: no version"),
    ],
)
def test_invalid_container_is_described(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "f.gltf").write_bytes(content)
    _refused(tmp_path / "f.gltf", problem)


@pytest.mark.parametrize(
    "uri", ["data:;base64,A", "data:;base64,AAAA!", "data:;base64,\xff", "data:,abcd", "data:;base64"]
)
def test_damaged_data_uri_is_rejected(tmp_path: Path, uri: str) -> None:
    _refused(_triangle().write(tmp_path / "f.gltf", uri), "invalid data URI: not base64")


def test_truncated_data_uri_is_rejected(tmp_path: Path) -> None:
    _refused(_triangle().write(tmp_path / "f.gltf", "data:;base64,AAAA"), "truncated buffer 0: .* of 3 are used")


def test_glb_without_binary_chunk_is_rejected(tmp_path: Path) -> None:
    gltf = _triangle()
    gltf.binary = b""
    _refused(gltf.write(tmp_path / "f.glb"), "truncated buffer 0: .* of 0 are used")
    gltf.doc["buffers"] *= 2
    gltf.doc["bufferViews"][1]["buffer"] = 1
    gltf.binary = bytes(99)
    _refused(gltf.write(tmp_path / "f.glb"), "no bytes for buffer 1")
    gltf.doc["bufferViews"][1]["buffer"] = 0
    (tmp_path / "f.gltf").write_text(json.dumps(gltf.doc))
    _refused(tmp_path / "f.gltf", "no bytes for buffer 0")


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = _triangle().write(tmp_path / "f.gltf")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_mesh(path).faces) == 1


def test_excessive_mesh_reuse_is_rejected_before_allocation(tmp_path: Path) -> None:
    gltf = SmallGltf()
    corners = gltf.array(np.zeros(3000), "u1")
    gltf.show({"indices": corners}, POSITION=gltf.array(TRIANGLE), TEXCOORD_0=gltf.array(UVS))
    gltf.doc["nodes"] *= 16_000
    gltf.doc["scenes"][0]["nodes"] = list(range(16_000))
    path = gltf.write(tmp_path / "f.gltf")
    _refused(path, r"meshes reused too often: \d+ vertices from \d+ bytes", peak=80 * _MIB)


def test_too_large_buffers_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gltf = _triangle()
    path = gltf.write(tmp_path / "f.gltf", "f.bin")
    (tmp_path / "f.bin").write_bytes(gltf.binary)
    gltf.doc["buffers"] *= 2
    gltf.doc["bufferViews"][2]["buffer"] = 1
    path.write_text(json.dumps(gltf.doc))
    monkeypatch.setattr("smile_pipe.pipeline.meshes.gltf.MAX_BYTES", 150)
    assert len(read_mesh(path).faces) == 1
    monkeypatch.setattr("smile_pipe.pipeline.meshes.gltf.MAX_BYTES", 149)
    _refused(path, "buffers too large: more than 149 bytes together")
