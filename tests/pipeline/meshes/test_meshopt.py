"""glTF files whose buffers are compressed with meshopt, with quantised vertices, as web files are."""

import base64
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import trimesh

from helpers.small_gltf import TRIANGLE, SmallGltf
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.meshopt import decode_meshopt
from smile_pipe.pipeline.meshes.reader import read_mesh

_SPHERE = trimesh.creation.icosphere(subdivisions=1)
# Encoded by meshoptimizer: the triangles of the sphere, reordered, and triangles of random vertices.
_SPHERE_TRIANGLES = base64.b64decode(
    "4f4vLz8RX0/fb++AAt8U3xPdF0+OES8FzwM+HJ8PkD8MTwifFn8RnwpvAV8RKR8HbwH+IS8YXxHvDDGvH68SjxH/Iz8fTwE3Pw8fXxshLz8R"
    "/0opIikSByYIIyZHDDgpIAcbFhsKCxEWHikoRhEKDjM6ESP/MA8INSoKJxweGSE6AHaHVmd4qYZliWiYAWkAAA=="
)
_RANDOM_TRIANGLES = base64.b64decode(
    "4f////////////////+A62e9ihqBrg//i7sdttIEz8kg/7aXBLGVB6iwE//m8E2dgBTYkiD/0fgxwskMlrks/7u5HZPvC4vpCv/K/gHm5S35"
    "pFD/lN5BodkR08dR/+bjL67GOOP/JP+xyD/QolnDpgT/8KIOj/NRwcUK/4i8XunVZoCzPwB2h1ZneKmGZYlomAFpAAA="
)


def _triangles(data: bytes, num_triangles: int, stride: int = 4) -> np.ndarray:
    decoded = decode_meshopt(np.frombuffer(data, np.uint8), "TRIANGLES", "NONE", 3 * num_triangles, stride)
    return decoded.view(f"<u{stride}").reshape(-1, 3)


def _cycles(faces: np.ndarray) -> set[tuple[int, ...]]:
    """Triangles from their smallest vertex on."""
    return {tuple(np.roll(face, -int(np.argmin(face))).tolist()) for face in np.asarray(faces)}


@pytest.mark.parametrize("stride", [2, 4])
def test_triangles_are_decoded(stride: int) -> None:
    assert _cycles(_triangles(_SPHERE_TRIANGLES, 80, stride)) == _cycles(_SPHERE.faces)
    expected = np.random.default_rng(0).integers(0, 10**6, (12, 3))
    assert np.array_equal(_triangles(_RANDOM_TRIANGLES, 12, stride), expected % 2 ** (8 * stride))


def test_damaged_triangles_are_rejected_or_indices() -> None:
    rng = np.random.default_rng(1)
    for data in (_SPHERE_TRIANGLES, _RANDOM_TRIANGLES):
        for cut in (data[:-1], data[:20], data[:1], b"", data[1:], data + b"0"):
            with pytest.raises(MeshError, match="damaged meshopt data"):
                _triangles(cut, 12)
        for _ in range(300):
            changed = bytearray(data)
            changed[int(rng.integers(len(data)))] = int(rng.integers(256))
            try:
                _triangles(bytes(changed), 80 if data is _SPHERE_TRIANGLES else 12)
            except MeshError as error:
                assert str(error) == "damaged meshopt data"


def _pack(gltf: SmallGltf, data: bytes, count: int, stride: int, mode: str = "ATTRIBUTES", **other: Any) -> int:
    """Add a compressed bufferView."""
    start, gltf.binary = len(gltf.binary), gltf.binary + data
    packed = {"buffer": 0, "byteOffset": start, "byteLength": len(data), "count": count, "byteStride": stride}
    extensions = {"EXT_meshopt_compression": {**packed, "mode": mode, **other}}
    return gltf.add("bufferViews", buffer=1, byteLength=count * stride, extensions=extensions)


def _encode(values: np.ndarray) -> bytes:
    return imagecodecs.meshopt_encode(values.view(np.uint8).reshape(len(values), -1))


def _web_sphere(**packed: Any) -> SmallGltf:
    """The sphere as gltfpack writes it: 16-bit vertices and coordinates, scaled back by the node and the material."""
    gltf = SmallGltf()
    points, uvs = np.zeros((42, 4), "<u2"), np.zeros((42, 2), "<u2")
    points[:, :3] = np.rint((_SPHERE.vertices + 1) * 8191)
    uvs[:] = np.rint((_SPHERE.vertices[:, :2] + 1) / 2 * 4095)
    kinds = {"POSITION": (points, "VEC3", False), "TEXCOORD_0": (uvs, "VEC2", True)}
    attributes = {}
    for name, (values, kind, normalized) in kinds.items():
        view = _pack(gltf, _encode(values), 42, values.strides[0], **packed)
        accessor = {"bufferView": view, "type": kind, "componentType": 5123, "normalized": normalized, "count": 42}
        attributes[name] = gltf.add("accessors", **accessor)
    view = _pack(gltf, _SPHERE_TRIANGLES, 240, 2, "TRIANGLES")
    indices = gltf.add("accessors", bufferView=view, type="SCALAR", componentType=5123, count=240)
    transform = {"KHR_texture_transform": {"scale": [65535 / 4095] * 2}}
    material = gltf.material(gltf.add("textures", source=gltf.add("images", uri="a.png")), extensions=transform)
    node = {"scale": [1 / 8191] * 3, "translation": [-1, -1, -1]}
    gltf.show({"indices": indices, "material": material}, node, **attributes)
    required = ["KHR_mesh_quantization", "KHR_texture_transform", "EXT_meshopt_compression"]
    gltf.doc |= {"extensionsRequired": required, "extensionsUsed": required}
    fallback = {"byteLength": 99, "extensions": {"EXT_meshopt_compression": {"fallback": True}}}
    gltf.doc["buffers"] = [{"byteLength": len(gltf.binary)}, fallback]
    return gltf


def test_compressed_quantised_file_equals_the_original(tmp_path: Path) -> None:
    mesh = read_mesh(_web_sphere().write(tmp_path / "f.glb"))
    np.testing.assert_allclose(mesh.vertices, _SPHERE.vertices, atol=1e-4)
    np.testing.assert_allclose(mesh.uvs, (_SPHERE.vertices[:, :2] + 1) / 2 * [1, -1] + [0, 1], atol=2e-4)
    assert _cycles(mesh.faces) == _cycles(_SPHERE.faces) and mesh.texture_name == "a.png"


def test_floats_stored_as_exponents(tmp_path: Path) -> None:
    gltf = SmallGltf()
    exponents, mantissas = np.array([[-3, 0, 2]] * 3), np.array([[5, -7, 1], [8, 0, 2**23 - 1], [0, -(2**23), 3]])
    words = (exponents << 24 | mantissas & 0xFFFFFF).astype("<u4")
    view = _pack(gltf, _encode(words), 3, 12, filter="EXPONENTIAL")
    points = gltf.add("accessors", bufferView=view, type="VEC3", componentType=5126, count=3)
    gltf.show(POSITION=points)
    expected = (mantissas * 2.0**exponents).astype(np.float32)
    assert np.array_equal(read_mesh(gltf.write(tmp_path / "f.glb")).vertices, expected)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"filter": "OCTAHEDRAL"}, "unsupported meshopt data: mode 'ATTRIBUTES', filter 'OCTAHEDRAL', 8 bytes"),
        ({"mode": "INDICES"}, "unsupported meshopt data: mode 'INDICES'"),
        ({"mode": "TRIANGLES"}, "unsupported meshopt data: mode 'TRIANGLES', filter 'NONE', 8 bytes"),
        ({"byteLength": 30}, "damaged meshopt data"),
        ({"byteLength": 0}, "damaged meshopt data"),
        ({"byteLength": 10**6}, "truncated buffer 0"),
        ({"count": 10**9}, "invalid size of compressed bufferView 0; the limit is 268435456 bytes"),
        ({"count": 41}, "invalid size of compressed bufferView 0"),
        ({"count": 56, "byteStride": 6}, "damaged meshopt data"),
        ({"count": 1, "byteStride": 336}, "overlapping elements in accessor 0: 6 bytes every 336 bytes"),
        ({"buffer": 2}, "index out of range: 2 of 2 buffers"),
        ({"byteStride": None}, "byteStride must be an integer"),
    ],
)
def test_invalid_compression_is_described(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    gltf = _web_sphere()
    gltf.doc["bufferViews"][0]["extensions"]["EXT_meshopt_compression"] |= change
    path = gltf.write(tmp_path / "f.glb")
    tracemalloc.start()
    with pytest.raises(MeshError, match=problem):
        read_mesh(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_decoded_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _web_sphere().write(tmp_path / "f.glb")
    monkeypatch.setattr("smile_pipe.pipeline.meshes.gltf._MAX_DECODED", 42 * 12 + 480)
    assert len(read_mesh(path).faces) == 80
    monkeypatch.setattr("smile_pipe.pipeline.meshes.gltf._MAX_DECODED", 42 * 12 + 479)
    with pytest.raises(MeshError, match="invalid size of compressed bufferView"):
        read_mesh(path)


def test_uncompressed_parts_may_be_in_the_same_file(tmp_path: Path) -> None:
    gltf = _web_sphere()
    gltf.show(POSITION=gltf.array(TRIANGLE))
    gltf.doc["buffers"][0]["byteLength"] = len(gltf.binary)
    mesh = read_mesh(gltf.write(tmp_path / "f.glb"))
    assert len(mesh.faces) == 81 and np.array_equal(mesh.vertices[-3:], TRIANGLE)
