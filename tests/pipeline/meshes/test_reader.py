"""`read_mesh` and `read_scan`: selection of the format, and guarantees for every file."""

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh

from helpers.paths import REPOSITORY
from smile_pipe.pipeline.landmarks.files import read_scan, write_bnd
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import SUFFIXES, read_mesh
from smile_pipe.pipeline.meshes.vrml import write_wrl

_FACES = Path(os.environ.get("SMILE_PIPE_FACES", REPOSITORY.parent / "shared" / "faces"))
_PIXELS = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)


def _mesh() -> Mesh:
    """A small sphere with texture coordinates."""
    sphere = trimesh.creation.icosphere(subdivisions=1)
    vertices, faces = np.asarray(sphere.vertices), np.asarray(sphere.faces)
    return Mesh.build(vertices, faces, (vertices[:, :2] + 1) / 2, faces)


def _good_file(suffix: str) -> bytes:
    mesh = _mesh()
    if suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, vertices=mesh.vertices, faces=mesh.faces, uvs=mesh.uvs, face_uvs=mesh.face_uvs)
        return buffer.getvalue()
    if suffix == ".obj":
        corners = mesh.faces + 1
        lines = ["mtllib f.mtl", *(f"v {x} {y} {z}" for x, y, z in mesh.vertices)]
        lines += [f"vt {u} {v}" for u, v in mesh.uvs] + [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in corners]
        return "\n".join(lines).encode()
    exported = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    if suffix == ".gltf":
        files = exported.export(file_type="gltf", embed_buffers=True)
        return files["model.gltf"]
    data = exported.export(file_type=suffix[1:])
    return data.encode() if isinstance(data, str) else data


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("good") / "f.wrl"
    write_wrl(path, _mesh(), "t.png")
    suffixes = [suffix for suffix in SUFFIXES if suffix != ".bnt"]  # a range image cannot be a sphere
    return {suffix: path.read_bytes() if suffix == ".wrl" else _good_file(suffix) for suffix in suffixes}


def test_every_suffix_in_any_case_gives_the_same_surface(tmp_path: Path, good_files: dict[str, bytes]) -> None:
    assert set(SUFFIXES) == {".wrl", ".obj", ".ply", ".bnt", ".stl", ".off", ".glb", ".gltf", ".npz"}
    expected = _mesh()
    for suffix, data in good_files.items():
        for name in (f"f{suffix}", f"f{suffix.upper()}"):
            (tmp_path / name).write_bytes(data)
            mesh = read_mesh(tmp_path / name)
            np.testing.assert_allclose(mesh.vertices[mesh.faces], expected.vertices[expected.faces], atol=1e-4)
            assert mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int32


@pytest.mark.parametrize("name", ["f.txt", "f", "obj", ".obj"])
def test_unknown_suffix_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        MeshError, match=f"^{re.escape(str(tmp_path / name))}: unknown mesh format; supported suffixes are .wrl,"
    ):
        read_mesh(tmp_path / name)


def test_missing_file_folder_and_empty_file_are_mesh_errors(tmp_path: Path) -> None:
    (tmp_path / "folder.obj").mkdir()
    (tmp_path / "empty.ply").touch()
    for name, problem in (
        ("gone.wrl", "No such file"),
        ("folder.obj", "Is a directory"),
        ("empty.ply", "empty file: 0 bytes"),
    ):
        with pytest.raises(MeshError, match=problem):
            read_mesh(tmp_path / name)


def test_npz_holds_every_field_of_a_mesh(tmp_path: Path) -> None:
    mesh = _mesh()
    colors = np.arange(3 * len(mesh.vertices), dtype=np.uint8).reshape(-1, 3)
    arrays = {"vertices": mesh.vertices.astype("f8"), "faces": mesh.faces.astype("u2"), "colors": colors}
    np.savez_compressed(tmp_path / "f.npz", landmarks=np.eye(3), texture=_PIXELS, other=np.zeros(3), **arrays)
    again = read_mesh(tmp_path / "f.npz")
    assert np.array_equal(again.vertices, mesh.vertices) and np.array_equal(again.faces, mesh.faces)
    assert np.array_equal(again.colors, colors) and np.array_equal(again.texture, _PIXELS)
    assert again.landmarks is not None and again.landmarks.dtype == np.float32 and again.uvs is None


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"vertices": np.eye(3)}, "missing arrays: `vertices` and `faces` are required"),
        ({"vertices": np.eye(3), "faces": np.eye(3)}, "unsupported array faces: type float64"),
        (
            {"vertices": np.eye(2), "faces": np.array([[0, 1, 2]])},
            r"unsupported array vertices: type float64, shape \(2, 2\)",
        ),
        ({"vertices": np.array([[{}] * 3]), "faces": np.array([[0, 0, 0]])}, "unsupported array vertices: type object"),
    ],
)
def test_npz_with_invalid_arrays_is_rejected(tmp_path: Path, arrays: dict, problem: str) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(MeshError, match=problem):
        read_mesh(tmp_path / "f.npz")


def test_truncated_npz_is_rejected(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**10, 3)})
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("vertices.npy", header.getvalue())
    with pytest.raises(MeshError, match=r"truncated array vertices: shape \(10000000000, 3\) declared in 128 bytes"):
        read_mesh(tmp_path / "f.npz")


def test_read_scan_combines_mesh_and_landmarks(tmp_path: Path) -> None:
    write_wrl(tmp_path / "f.wrl", _mesh(), "t.png")
    write_bnd(tmp_path / "f.bnd", [3, 4], np.array([[1.0, 2, 3], [4, 5, 6]]))
    scan = read_scan(tmp_path / "f.wrl", tmp_path / "f.bnd")
    assert scan.landmarks is not None and scan.landmarks.tolist() == [[1, 2, 3], [4, 5, 6]]
    bare = read_scan(tmp_path / "f.wrl", None)
    assert bare.landmarks is None and np.array_equal(bare.faces, scan.faces)


@pytest.mark.skipif(not (_FACES / "ict_facekit.npz").is_file(), reason=f"no face model at {_FACES}")
def test_head_is_equal_from_obj_vrml_and_ply(tmp_path: Path) -> None:
    head = np.load(_FACES / "ict_facekit.npz")
    mesh = Mesh.build(head["neutral"], head["faces"], head["uv"], head["faces_uv"])
    write_wrl(tmp_path / "f.wrl", mesh, "t.png")
    corners = (np.stack([mesh.faces, mesh.face_uvs], axis=2) + 1).reshape(-1, 6)
    with open(tmp_path / "f.obj", "w") as file:
        np.savetxt(file, mesh.vertices, "v %.4f %.4f %.4f")
        np.savetxt(file, mesh.uvs, "vt %.6f %.6f")
        np.savetxt(file, corners, "f %d/%d %d/%d %d/%d")
    trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).export(tmp_path / "f.ply")
    wrl, obj, ply = (read_mesh(tmp_path / name) for name in ("f.wrl", "f.obj", "f.ply"))
    for name in ("vertices", "faces", "uvs", "face_uvs"):
        assert np.array_equal(getattr(wrl, name), getattr(obj, name)), name
    expected = [[float(f"{x:.4f}") for x in row] for row in mesh.vertices.tolist()]
    assert np.array_equal(wrl.vertices, np.array(expected).astype(np.float32))
    assert np.array_equal(ply.vertices, mesh.vertices) and np.array_equal(ply.faces, mesh.faces)
