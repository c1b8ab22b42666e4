"""Any content gives a mesh or a MeshError, in bounded time and memory, for every format."""

import contextlib
import copy
import functools
import io
import json
import operator
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_gltf import SmallGltf
from smile_pipe.pipeline.landmarks.files import read_landmarks, read_landmarks_2d, write_bnd, write_lm3
from smile_pipe.pipeline.meshes.bnt import write_bnt
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import SUFFIXES, read_mesh
from smile_pipe.pipeline.meshes.vrml import write_wrl

pytestmark = pytest.mark.fuzz

_SECONDS, _BYTES = 5.0, 24 << 20  # for a file of a few kilobytes; the machine may be busy
_SPHERE = trimesh.creation.icosphere(subdivisions=1)
_MESH = Mesh.build(_SPHERE.vertices, _SPHERE.faces, (_SPHERE.vertices[:, :2] + 1) / 2, _SPHERE.faces)
_SNIPPETS = [b"\n", b"-1 ", b"99999 ", b"-99999999999 ", b"nan", b"1e39 ", b"{", b"}", b"[", b"]", b'"', b"\\", b"\0"]
_SNIPPETS += [b"#", b"/", b",", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"USE P ", b"DEF P ", b"f 1 2 3\n", b"\r\n"]
_EDITS = st.tuples(st.floats(0, 1), st.integers(0, 5), st.one_of(st.sampled_from(_SNIPPETS), st.binary(max_size=8)))


def _exported(kind: str) -> bytes:
    data = trimesh.Trimesh(_MESH.vertices, _MESH.faces, process=False).export(file_type=kind)
    return data if isinstance(data, bytes) else data.encode()


def _ply(order: str) -> bytes:
    kinds = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}
    header = f"ply\nformat {kinds[order]} 1.0\nelement vertex {len(_MESH.vertices)}\n"
    header += "".join(f"property float {name}\n" for name in "xyzst")
    header += f"element face {len(_MESH.faces) + 1}\nproperty list uchar int vertex_indices\nend_header\n"
    vertices = np.hstack([_MESH.vertices, _MESH.uvs])
    faces = [*_MESH.faces.tolist(), [0, 1, 2, 3]]
    if not order:
        rows = [*vertices.tolist(), *([len(face), *face] for face in faces)]
        return (header + "\n".join(" ".join(map(repr, row)) for row in rows)).encode()
    packed = [struct.pack(f"{order}B{len(face)}i", len(face), *face) for face in faces]
    return header.encode() + vertices.astype(f"{order}f4").tobytes() + b"".join(packed)


def _obj() -> bytes:
    lines = ["mtllib f.mtl", *(f"v {x} {y} {z} 0.5 0 1" for x, y, z in _MESH.vertices)]
    lines += [f"vt {u} {v}" for u, v in _MESH.uvs] + ["usemtl skin", "f 1/1/1 2//1 3/3 4", "f -1 -2/-2 -3"]
    return "\n".join(lines + [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in _MESH.faces + 1]).encode()


def _saved_bytes(save: Callable[[Path], None], folder: Path) -> bytes:
    save(folder / "f")
    return (folder / "f").read_bytes()


def _npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, vertices=_MESH.vertices, faces=_MESH.faces, uvs=_MESH.uvs, face_uvs=_MESH.face_uvs)


def _range_image(path: Path) -> None:
    y, x = np.mgrid[0:6, 0:5] * 1.0
    write_bnt(path, np.stack([x, -y, np.where(x + y > 8, np.nan, 0)], axis=2), np.stack([x / 4, y / 5], 2), "a.png")


def _gltf() -> bytes:
    sphere = trimesh.Trimesh(_MESH.vertices, _MESH.faces, process=False)
    return sphere.export(file_type="gltf", embed_buffers=True)["model.gltf"]


def _gltf_scene(path: Path) -> None:
    """The sphere in two places, with texture, colours, a strip and a mirrored part."""
    gltf = SmallGltf()
    arrays = {"POSITION": gltf.array(_MESH.vertices), "TEXCOORD_0": gltf.array(255 * _MESH.uvs, "u1", normalized=True)}
    arrays["COLOR_0"] = gltf.array(np.tile([9, 99, 200, 255], (len(_MESH.vertices), 1)), "u1", normalized=True)
    corners = gltf.array(_MESH.faces.ravel(), "u2")
    material = gltf.image(np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    child = gltf.show({"indices": corners, "material": material}, {"scale": [1, -1, 2]}, **arrays)
    gltf.show({"indices": corners, "material": gltf.image(np.zeros((1, 1, 3), np.uint8)), "mode": 5}, **arrays)
    gltf.doc["scenes"][0]["nodes"][0] = gltf.add("nodes", matrix=np.eye(4).ravel().tolist(), children=[child])
    gltf.write(path)


_FORMS = [
    "obj",
    "ply",
    "ply little",
    "ply big",
    "wrl",
    "bnt",
    "npz",
    "stl",
    "stl text",
    "off",
    "glb",
    "glb scene",
    "gltf",
    "gltf scene",
]
_LANDMARKS = ["bnd", "txt", "lm3", "lm2"]


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One file of each format. Reading each once compiles and imports everything that is needed."""
    folder = tmp_path_factory.mktemp("good")
    points = np.random.default_rng(0).normal(0, 90, (22, 3))
    good = {"obj": _obj(), "ply": _ply(""), "ply little": _ply("<"), "ply big": _ply(">")}
    good |= {"stl": _exported("stl"), "stl text": _exported("stl_ascii"), "off": _exported("off")}
    good |= {"glb": _exported("glb"), "gltf": _gltf()}
    good["wrl"] = _saved_bytes(lambda path: write_wrl(path, _MESH, "t.png"), folder)
    for suffix in ("glb", "gltf"):
        _gltf_scene(folder / f"scene.{suffix}")
        good[f"{suffix} scene"] = (folder / f"scene.{suffix}").read_bytes()
    good["npz"], good["bnt"] = _saved_bytes(_npz, folder), _saved_bytes(_range_image, folder)
    good["bnd"] = _saved_bytes(lambda path: write_bnd(path, range(22), points), folder)
    good["lm3"] = _saved_bytes(lambda path: write_lm3(path, points), folder)
    good["lm2"] = _saved_bytes(lambda path: write_lm3(path, points[:, :2]), folder)
    good["txt"] = b"\n".join(b"%f %f %f" % tuple(row) for row in points)
    for form, content in good.items():
        (folder / f"f.{form.split()[0]}").write_bytes(content)
        _read(folder / f"f.{form.split()[0]}")
    return good


def _read(path: Path) -> Mesh | np.ndarray:
    if path.suffix == ".lm2":
        return read_landmarks_2d(path)
    return read_mesh(path) if path.suffix in SUFFIXES else read_landmarks(path)


def _read_untrusted(path: Path, content: bytes) -> Mesh | np.ndarray | None:
    """Read a file and check the guarantees of a reader; None if the file is rejected."""
    path.write_bytes(content)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        result = _read(path)
    except MeshError as error:
        assert str(error).startswith(f"{path}: ")
        result = None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - start < _SECONDS
    assert peak < _BYTES
    if isinstance(result, Mesh):
        assert np.isfinite(result.vertices).all() and len(result.faces)
        assert 0 <= result.faces.min() <= result.faces.max() < len(result.vertices)
        if result.uvs is not None and result.face_uvs is not None:
            assert 0 <= result.face_uvs.min() <= result.face_uvs.max() < len(result.uvs)
    elif result is not None:
        assert result.ndim == 2 and len(result) and not np.isinf(result).any()
    return result


def _damaged(content: bytes, keep: float, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Truncate a file and replace some bytes."""
    bad = bytearray(content[: round(keep * len(content))])
    for where, count, snippet in edits:
        at = round(where * len(bad))
        bad[at : at + count] = snippet
    return bytes(bad)


def test_every_suffix_is_covered() -> None:
    assert {f".{form.split()[0]}" for form in _FORMS} == set(SUFFIXES)


@pytest.mark.parametrize("form", _FORMS + _LANDMARKS)
def test_undamaged_file_is_read(tmp_path: Path, good_files: dict[str, bytes], form: str) -> None:
    result = _read_untrusted(tmp_path / f"f.{form.split()[0]}", good_files[form])
    if isinstance(result, Mesh):
        assert len(result.faces) >= 35
    else:
        assert result is not None and len(result) == 22


@pytest.mark.parametrize("form", _FORMS + _LANDMARKS)
def test_damaged_file_gives_mesh_or_mesh_error(
    tmp_path_factory: pytest.TempPathFactory, good_files: dict[str, bytes], form: str
) -> None:
    path = tmp_path_factory.mktemp("bad") / f"f.{form.split()[0]}"

    @settings(max_examples=80, deadline=None)
    @given(st.one_of(st.just(1.0), st.floats(0, 1)), st.lists(_EDITS, max_size=6))
    def read_damaged(keep: float, edits: list[tuple[float, int, bytes]]) -> None:
        _read_untrusted(path, _damaged(good_files[form], keep, edits))

    read_damaged()


@pytest.mark.parametrize("form", _FORMS + _LANDMARKS)
def test_random_bytes_give_mesh_or_mesh_error(
    tmp_path_factory: pytest.TempPathFactory, good_files: dict[str, bytes], form: str
) -> None:
    path = tmp_path_factory.mktemp("bad") / f"f.{form.split()[0]}"
    start = good_files[form].split(b"\n")[0][:80] + b"\n"  # so that more than the first check is reached

    @settings(max_examples=40, deadline=None)
    @given(st.booleans(), st.binary(max_size=400))
    def read_bytes(with_start: bool, content: bytes) -> None:
        _read_untrusted(path, start + content if with_start else content)

    read_bytes()


def _json_paths(value: Any, above: tuple = ()) -> list[tuple]:
    """The path to every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for key, item in items for place in _json_paths(item, (*above, key)))]


_VALUES = st.one_of(st.integers(-2, 12), st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))
_VALUES |= st.sampled_from(["VEC3", "SCALAR", 5121, 5123, 5125, 5126, 10**9, 2**40, 1e39, "../a", [], {}, [0, 1], [[]]])


def test_random_json_values_give_mesh_or_mesh_error(
    tmp_path_factory: pytest.TempPathFactory, good_files: dict[str, bytes]
) -> None:
    path, document = tmp_path_factory.mktemp("bad") / "f.gltf", json.loads(good_files["gltf scene"])
    places = [place for place in _json_paths(document) if place]

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(places), _VALUES), min_size=1, max_size=2))
    def read_changed(changes: list[tuple[tuple, Any]]) -> None:
        changed = copy.deepcopy(document)
        for (*parents, last), value in changes:
            with contextlib.suppress(LookupError, TypeError):  # the first change took the place of the second away
                functools.reduce(operator.getitem, parents, changed)[last] = value
        _read_untrusted(path, json.dumps(changed).encode())

    read_changed()


@pytest.mark.parametrize("form", _FORMS)
def test_truncated_file_gives_mesh_or_mesh_error(tmp_path: Path, good_files: dict[str, bytes], form: str) -> None:
    content = good_files[form]
    for size in np.linspace(0, len(content) - 1, 60).astype(int).tolist():
        _read_untrusted(tmp_path / f"f.{form.split()[0]}", content[:size])


def _header_with_huge_counts(form: str) -> bytes:
    """A file of a few bytes that declares a billion elements."""
    billion = 10**9
    if form == "stl":
        return bytes(80) + struct.pack("<I", billion) + bytes(100)
    if form == "off":
        return b"OFF\n%d %d 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n" % (billion, billion)
    if form == "obj":
        return b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 %d\n" % billion
    if form == "wrl":
        points = b"coord Coordinate { point [0 0 0, 1 0 0, 0 1 0] }"
        return b"#VRML V2.0 utf8\nIndexedFaceSet { %s coordIndex [0 0 %d] }" % (points, billion)
    if form == "bnt":
        return struct.pack("<HHdHI", 2000, 2000, 0.0, 0, 20_000_000)
    kind = {"ply": "ascii", "ply little": "binary_little_endian", "ply big": "binary_big_endian"}[form]
    return (
        f"ply\nformat {kind} 1.0\nelement vertex {billion}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {billion}\nproperty list uchar int vertex_indices\nend_header\n0 0 0"
    ).encode()


@pytest.mark.parametrize("form", ["stl", "off", "obj", "wrl", "bnt", "ply", "ply little", "ply big"])
def test_declared_sizes_are_not_allocated(tmp_path: Path, good_files: dict[str, bytes], form: str) -> None:
    path = tmp_path / f"f.{form.split()[0]}"
    path.write_bytes(_header_with_huge_counts(form))
    tracemalloc.start()
    with pytest.raises(MeshError):
        read_mesh(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_archive_bomb_is_rejected(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, vertices=np.zeros((12_000_000, 3)), faces=np.zeros((1, 3), np.int32))
    (tmp_path / "f.npz").write_bytes(buffer.getvalue())
    tracemalloc.start()
    with pytest.raises(MeshError, match=r"array vertices too large: 288000128 bytes; the limit is 268435456"):
        read_mesh(tmp_path / "f.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
