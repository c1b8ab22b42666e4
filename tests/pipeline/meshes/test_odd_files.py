"""Files that other programs write in odd ways are read, with a note; files that are something else are named."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from helpers.small_gltf import SmallGltf
from smile_pipe.pipeline.landmarks.files import read_landmarks, read_landmarks_2d
from smile_pipe.pipeline.meshes.mesh import BAD_UVS, EXTRA_VALUES, FEW_CORNERS, NO_UVS, Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.texture import read_texture

POINTS = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5]]
FACES = [[0, 1, 2], [0, 2, 3]]
OBJ = "".join("v {} {} {}\n".format(*p) for p in POINTS) + "f 1 2 3\nf 1 3 4\n"
PLY_HEADER = (
    "ply\nformat ascii 1.0\ncomment made by a program\nelement vertex 4\nproperty float x\nproperty float y\n"
    "property float z\nelement face {}\nproperty list uchar int vertex_indices\nend_header\n"
)
ROWS = "".join("{} {} {}\n".format(*p) for p in POINTS)
PLY = PLY_HEADER.format(2) + ROWS + "3 0 1 2\n3 0 2 3\n"
OFF = f"OFF\n4 2 0\n{ROWS}3 0 1 2\n3 0 2 3\n"
STL = "solid f\n" + "".join(
    "facet normal 0 0 1\nouter loop\n{}endloop\nendfacet\n".format(
        "".join("vertex {} {} {}\n".format(*POINTS[i]) for i in face)
    )
    for face in FACES
)
WRL = (
    "#VRML V2.0 utf8\n# made by a program\nShape { geometry IndexedFaceSet { coord Coordinate { point [\n"
    f"{ROWS}] }}\ncoordIndex [ 0 1 2 -1 0 2 3 -1 ] }} }}\n"
)


def _gltf() -> str:
    gltf = SmallGltf()
    gltf.show({"indices": gltf.array(np.ravel(FACES), "u2")}, POSITION=gltf.array(POINTS))
    gltf.doc["buffers"] = [{"byteLength": len(gltf.binary), "uri": "f.bin"}]
    return json.dumps(gltf.doc, indent=1)


TEXTS = {"obj": OBJ, "ply": PLY, "off": OFF, "stl": STL, "wrl": WRL, "gltf": _gltf()}


def _read(tmp_path: Path, form: str, content: str | bytes) -> Mesh:
    gltf = SmallGltf()
    gltf.show({"indices": gltf.array(np.ravel(FACES), "u2")}, POSITION=gltf.array(POINTS))
    (tmp_path / "f.bin").write_bytes(gltf.binary)
    path = tmp_path / f"f.{form}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_mesh(path)


def _is_square(mesh: Mesh) -> bool:
    return bool(np.array_equal(mesh.vertices[mesh.faces], np.array(POINTS, np.float32)[FACES]))


@pytest.mark.parametrize("form", TEXTS)
class TestText:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    def test_any_encoding_and_line_ends(self, tmp_path, form, encoding, line_end):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        text = TEXTS[form].replace("\n", line_end)
        mesh = _read(tmp_path, form, (mark + text).encode(encoding))
        assert _is_square(mesh) and mesh.notes == ()

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "a Git LFS pointer; run `git"),
            (b"\n<!DOCTYPE html><html><body>v 0 0 0</body></html>\n", "an HTML page; download the file again"),
            (b"<HTML>\n<head>\n", "an HTML page"),
            (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML document"),
            (b"\x1f\x8b\x08\0\0\0\0\0" + bytes(range(99)), "gzip data; unpack it"),
            (b"PK\x03\x04" + bytes(99), "a ZIP archive; unpack it"),
            (bytes(400), "zeros only, as an interrupted copy leaves them"),
            (struct.pack("<4sIII4s", b"glTF", 1, 20, 0, b"\0\0\0\0"), "glTF 1.0; convert it to glTF 2.0"),
        ],
    )
    def test_what_is_something_else_is_named(self, tmp_path, form, content, what):
        with pytest.raises(MeshError, match=f"f.{form}: is {what}"):
            _read(tmp_path, form, content)

    def test_an_empty_file_and_a_mesh_under_another_suffix_are_named(self, tmp_path, form):
        with pytest.raises(MeshError, match=f"f.{form}: empty file: 0 bytes"):
            _read(tmp_path, form, b"")
        other, what = (OFF, "an OFF file; rename it") if form == "ply" else (PLY, "a PLY file; rename it")
        with pytest.raises(MeshError, match=what):
            _read(tmp_path, form, other)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("obj", OBJ + "f 1 2\nf 3\n"),
        ("ply", PLY.replace("face 2", "face 4") + "2 0 1\n1 3\n"),
        ("off", OFF.replace("4 2 0", "4 4 0") + "2 0 1\n1 3\n"),
        ("wrl", WRL.replace("0 2 3 -1", "0 2 3 -1 0 1 -1 3 -1")),
    ],
)
def test_faces_of_fewer_than_three_corners_are_left_out_with_a_note(tmp_path, form, text):
    mesh = _read(tmp_path, form, text)
    assert _is_square(mesh) and mesh.notes == (FEW_CORNERS,)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("ply", PLY.replace("1 1 0\n", "1 1 0 7\n")),
        ("ply", PLY.replace("3 0 1 2\n3 0 2 3\n", "3 0 1 2 9 9\n3 0 2 3 9 9\n")),
        ("ply", PLY.replace("0 0 0\n", "0 0 0 255 1\n").replace("1 1 0\n", "1 1 0 255 1\n")),
        ("off", OFF.replace("1 1 0\n", "1 1 0 255 255\n")),
        ("stl", STL.replace("vertex 1 1 0\n", "vertex 1 1 0 7\n")),
    ],
)
def test_values_beyond_the_declared_ones_are_left_out_with_a_note(tmp_path, form, text):
    mesh = _read(tmp_path, form, text)
    assert _is_square(mesh) and mesh.notes == (EXTRA_VALUES,)


def test_numbers_after_the_last_row_of_a_ply_are_no_problem(tmp_path):
    assert _read(tmp_path, "ply", PLY + "7 7\n").notes == ()
    one_line = PLY_HEADER.format(2) + (ROWS + "3 0 1 2\n3 0 2 3\n").replace("\n", " ")
    assert _is_square(_read(tmp_path, "ply", one_line + "\n7 7\n"))


@pytest.mark.parametrize("magic", ["ply ", "ply\t", "ply \r", "ply\r"])
@pytest.mark.parametrize("is_binary", [False, True])
def test_first_line_of_a_ply_may_have_blanks(tmp_path, magic, is_binary):
    line_end = "\r" if magic == "ply\r" else "\n"
    header = PLY_HEADER.format(2).replace("\n", line_end).replace("ply" + line_end, magic + line_end.strip("\r"), 1)
    body = (ROWS + "3 0 1 2\n3 0 2 3\n").encode()
    if is_binary:
        header = header.replace("ascii", "binary_little_endian")
        # The first byte is a line feed.
        points = np.array(POINTS, "<f4")
        points[0, 0] = np.frombuffer(b"\n\0\0\0", "<f4")[0]
        body = points.tobytes() + b"".join(struct.pack("<B3i", 3, *face) for face in FACES)
    mesh = _read(tmp_path, "ply", header.encode() + body)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], np.array(POINTS, np.float32)[FACES], atol=1e-40)


class TestTextureCoordinates:
    UVS = "vt 0 0\nvt 1 0\nvt 1 1\n"

    @pytest.mark.parametrize(("index", "uv"), [("0", [0, 0]), ("9", [0, 0]), ("-9", [0, 0]), ("2", [1, 0])])
    def test_index_that_does_not_exist_in_an_obj(self, tmp_path, index, uv):
        mesh = _read(tmp_path, "obj", OBJ.replace("f 1 2 3\nf 1 3 4", self.UVS + f"f 1/1 2/{index} 3/3\nf 1/1 3/3 4/2"))
        assert mesh.uvs[mesh.face_uvs].tolist() == [[[0, 0], uv, [1, 1]], [[0, 0], [1, 1], [1, 0]]]
        assert mesh.notes == ((BAD_UVS,) if index != "2" else ())

    def test_indices_without_coordinates_in_an_obj(self, tmp_path):
        mesh = _read(tmp_path, "obj", OBJ.replace("f 1 2 3", "f 1/1 2/2 3/3"))
        assert _is_square(mesh) and mesh.uvs is None and mesh.notes == (NO_UVS,)

    def test_index_that_does_not_exist_in_one_of_two_shapes_of_a_vrml(self, tmp_path):
        uvs = "texCoord TextureCoordinate { point [ 0 0, 1 0, 1 1 ] } texCoordIndex [ 0 1 2 -1 0 2 LAST -1 ] coordIndex"
        shapes = [WRL.replace("coordIndex", uvs.replace("LAST", last)) for last in "31"]
        mesh = _read(tmp_path, "wrl", shapes[0] + shapes[1].partition("\n")[2])
        corners = mesh.uvs[mesh.face_uvs]
        assert corners[1].tolist() == [[0, 0], [1, 1], [0, 0]] and corners[3].tolist() == [[0, 0], [1, 1], [1, 0]]
        assert mesh.notes == (BAD_UVS,)

    def test_coordinates_that_are_not_finite(self, tmp_path):
        uvs = self.UVS.replace("vt 1 0", "vt nan 0")
        mesh = _read(tmp_path, "obj", OBJ.replace("f 1 2 3\nf 1 3 4", uvs + "f 1/1 2/2 3/3\nf 1/1 3/3 4/2"))
        assert mesh.uvs[mesh.face_uvs[0]].tolist() == [[0, 0], [0, 0], [1, 1]] and mesh.notes == (BAD_UVS,)

    @pytest.mark.parametrize("index", [-1, 3, 2**40])
    def test_index_that_does_not_exist_in_an_archive(self, tmp_path, index):
        face_uvs = np.array([[0, 1, 2], [0, 2, index]], np.int64)
        np.savez(
            tmp_path / "f.npz", vertices=np.array(POINTS, "f4"), faces=FACES, uvs=np.eye(3)[:, :2], face_uvs=face_uvs
        )
        mesh = read_mesh(tmp_path / "f.npz")
        assert mesh.uvs[mesh.face_uvs[1]].tolist() == [[1, 0], [0, 0], [0, 0]] and mesh.notes == (BAD_UVS,)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
@pytest.mark.parametrize(
    ("name", "text"), [("f.bnd", "7 1 2 3\n8 4 5 6\n"), ("f.txt", "1 2 3\n4 5 6\n"), ("f.lm3", "a\n1 2 3\nb\n4 5 6\n")]
)
def test_landmarks_of_any_encoding(tmp_path, name, text, encoding, line_end):
    (tmp_path / name).write_bytes(text.replace("\n", line_end).encode(encoding))
    assert read_landmarks(tmp_path / name).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_landmarks_and_textures_that_are_something_else_are_named(tmp_path):
    for name, read in (("f.bnd", read_landmarks), ("f.lm2", read_landmarks_2d), ("f.png", read_texture)):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(MeshError, match=f"{name}: is a Git LFS pointer"):
            read(tmp_path / name)
    (tmp_path / "f.png").write_bytes(b"\x89PNG cut")
    with pytest.raises(MeshError, match="not a readable JPEG, PNG, BMP, TIFF image"):
        read_texture(tmp_path / "f.png")
