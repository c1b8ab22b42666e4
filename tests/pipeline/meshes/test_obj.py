"""OBJ: all forms of faces, colours, seams, and the texture of the material."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.numbers import MAX_FALLBACKS
from smile_pipe.pipeline.meshes.obj import parse_obj
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.source import Source

_POINTS = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
_UVS = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def _parse(text: str | bytes) -> Mesh:
    return parse_obj(Source.from_bytes(text.encode() if isinstance(text, str) else text, Path("nowhere/face.obj")))


def _write(mesh: Mesh) -> str:
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist()]
    if mesh.colors is not None:
        lines = [f"{v} {r / 255} {g / 255} {b / 255}" for v, (r, g, b) in zip(lines, mesh.colors.tolist(), strict=True)]
    if mesh.uvs is None or mesh.face_uvs is None:
        return "\n".join(lines + ["f " + " ".join(str(i + 1) for i in face) for face in mesh.faces.tolist()])
    lines += [f"vt {u!r} {v!r}" for u, v in mesh.uvs.tolist()]
    corners = np.stack([mesh.faces, mesh.face_uvs], axis=2) + 1
    return "\n".join(lines + ["f " + " ".join(f"{v}/{t}" for v, t in face) for face in corners.tolist()])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_round_trip_is_exact(seed: int, with_uvs: bool, with_colors: bool) -> None:
    rng = np.random.default_rng(seed)
    num_vertices, num_uvs, num_faces = rng.integers(3, 60, 3)
    mesh = Mesh.build(
        rng.normal(0, 10.0 ** rng.integers(-12, 12), (num_vertices, 3)),
        rng.integers(0, num_vertices, (num_faces, 3)),
        rng.random((num_uvs, 2)) if with_uvs else None,
        rng.integers(0, num_uvs, (num_faces, 3)) if with_uvs else None,
        rng.integers(0, 256, (num_vertices, 3), np.uint8) if with_colors else None,
    )
    again = _parse(_write(mesh))
    for name in ("vertices", "faces", "uvs", "face_uvs", "colors"):
        assert np.array_equal(getattr(again, name), getattr(mesh, name)), name


@pytest.mark.parametrize("form", ["{}", "{}//7", "{}/{}", "{}/{}/7", "{}/", "{}/{}/"])
def test_face_corner_forms(form: str) -> None:
    mesh = _parse(_POINTS + _UVS + "f " + " ".join(form.format(i, i) for i in (1, 2, 4)) + "\n")
    assert mesh.faces.tolist() == [[0, 1, 3]]
    assert mesh.face_uvs is not None
    assert mesh.face_uvs.tolist() == ([[0, 1, 3]] if form.count("{}") == 2 else [[4, 4, 4]])


def test_polygons_become_fans() -> None:
    mesh = _parse(_POINTS + _UVS + "f 1/4 2/3 3/2 4/1\nf 1/1 2/2 3/3\n")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[3, 2, 1], [3, 1, 0], [0, 1, 2]]


def test_seam_does_not_duplicate_vertices() -> None:
    mesh = _parse(_POINTS + _UVS + "f 1/1 2/2 3/3\nf 1/2 3/4 4/1\n")
    assert mesh.vertices.shape == (4, 3)
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[0, 1, 2], [1, 3, 0]]


def test_negative_indices_count_back_from_their_line() -> None:
    mesh = _parse(
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nvt 1 1\nf -3/-1 -2/-2 -1/-1\nv 9 9 9\nvt 2 2\nf -1/-1 -2/1 -4/1\n"
    )
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 2, 0]]
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[1, 0, 1], [2, 0, 0]]


def test_faces_may_come_before_their_vertices() -> None:
    assert _parse("f 1 2 3\n" + _POINTS).faces.tolist() == [[0, 1, 2]]


def test_corners_without_uv_get_an_additional_one() -> None:
    mesh = _parse(_POINTS + _UVS + "f 1/3 2/3 3/3\nf 1 3 4\n")
    assert mesh.uvs is not None and mesh.face_uvs is not None
    assert mesh.uvs[mesh.face_uvs].tolist() == [[[1, 1]] * 3, [[0, 0]] * 3]


def test_texture_coordinates_may_have_one_or_three_numbers() -> None:
    mesh = _parse(_POINTS + "vt .25\nvt .5 .75 1\nf 1/1 2/2 3/2\n")
    assert mesh.uvs is not None and mesh.uvs.tolist() == [[0.25, 0], [0.5, 0.75]]


def test_colors_are_kept_if_every_vertex_has_them() -> None:
    mesh = _parse("v 0 0 0 1 0 0\nv 1 0 0 0 0.5 0\nv 1 1 0 0 0 1\nf 1 2 3")
    assert mesh.colors is not None and mesh.colors.tolist() == [[255, 0, 0], [0, 128, 0], [0, 0, 255]]
    assert _parse("v 0 0 0 255 1 1\nv 1 0 0 2 2 2\nv 1 1 0 3 3 3\nf 1 2 3").colors.tolist()[0] == [255, 1, 1]
    assert _parse("v 0 0 0 1 0 0\nv 1 0 0\nv 1 1 0 0 0 1\nf 1 2 3").colors is None


@pytest.mark.parametrize("rest", ["1", "1 1", "1e-400", "1 1e-400"])
def test_fourth_coordinate_is_not_a_color(rest: str) -> None:
    mesh = _parse(f"v 0 0 0 {rest}\nv 1 0 0 {rest}\nv 1 1 0 {rest}\nf 1 2 3")
    assert _parse(f"v 0 0 0 {rest}\nv 1 0 0\nv 1 1 0\nf 1 2 3").colors is None
    assert mesh.colors is None and mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    "text",
    [
        (_POINTS + "f 1 2 3").replace("\n", "\r\n"),
        "\ufeff" + _POINTS + "f 1 2 3",
        "\tv\t0 0 0 # zero\n  v 1 0 0\nv 1 1 0\nvn 0 0 1\nvp 1\no x\ng y\ns off\nl 1 2\np 1\n\nv 0 1 0\nf\t1  2\t3 # f",
        _POINTS.replace("v 1 1 0", "v 1 \\\n 1 0") + "f 1 2 \\\r\n 3",
    ],
)
def test_line_ends_blanks_comments_and_other_lines(text: str) -> None:
    mesh = _parse(text)
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2]]


def test_more_elements_than_estimated() -> None:
    polygon = "f " + " ".join(["1 2 3"] * 5000)
    mesh = _parse(_POINTS * 50 + "vt 0\n" * 500 + f"{polygon}\nf 1 2 3\n")
    assert mesh.faces.shape == (14999, 3) and mesh.faces[-1].tolist() == [0, 1, 2]
    assert mesh.vertices.shape == (200, 3)


def test_more_fallbacks_than_one_obj_pass_holds() -> None:
    count = MAX_FALLBACKS
    mesh = _parse("".join(f"v {i}e-70 {i}.25 1e-90 1 {i}e-80 0\n" for i in range(count)) + "f 1 2 3\n")
    assert np.array_equal(mesh.vertices[:, 1], np.arange(count) + 0.25)
    assert not mesh.vertices[:, [0, 2]].any()
    assert mesh.colors is not None and mesh.colors.tolist() == [[255, 0, 0]] * count


def test_vertex_that_is_not_finite_and_that_no_face_uses_becomes_0() -> None:
    mesh = _parse("v nan 7 inf\n" + _POINTS + "f 2 3 4")
    assert mesh.vertices[0].tolist() == [0, 7, 0] and mesh.faces.tolist() == [[1, 2, 3]]
    assert mesh.is_used.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n", "empty mesh: 0 vertices, 0 faces"),
        (_POINTS, "4 vertices, 0 faces"),
        (_POINTS + "v 1 2\nf 1 2 3", "line 5: too few numbers: a vertex needs three"),
        (_POINTS + "v 1 2 3 x\nf 1 2 3", "line 5: 'x' is not a number"),
        (_POINTS + "vt\nf 1 2 3", "line 5: too few numbers: a vertex needs three, a texture coordinate one"),
        (_POINTS + "v 1 abc 3\nf 1 2 3", "line 5: 'abc' is not a number"),
        (_POINTS + "f 1 2 x", "line 5: malformed face corner: it must be `v`"),
        (_POINTS + "f 1 2 3.5", "line 5: malformed face corner: it must be `v`"),
        (_POINTS + "f 1/1/1/1 2 3", "line 5: malformed face corner: it must be `v`"),
        (_POINTS + "f 1 2 99999999999", "line 5: malformed face corner: it must be `v`"),
        (_POINTS + "f 0 1 2", "line 5: invalid face index: it is 0"),
        (_POINTS + "f 1 2 -5", "line 5: invalid face index: it is 0 or points before"),
        (_POINTS + "f 1 2 5", "faces use index 4, but there are 4 vertices"),
        (_POINTS + "v nan 0 0\nf 1 2 5", "vertex 4 is not finite"),
        (_POINTS + "v 1e39 0 0\nf 1 2 5", "vertex 4 is not finite"),
        (_POINTS + "v 1 \0 3\nf 1 2 3", "line 5: '' is not a number"),
    ],
)
def test_malformed_file_is_described_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(MeshError, match=problem):
        _parse(text)


def _texture(folder: Path, obj: str, **files: str) -> str:
    for name, text in files.items():
        (folder / name.replace("__", "/")).parent.mkdir(parents=True, exist_ok=True)
        (folder / name.replace("__", "/")).with_suffix(".mtl").write_text(text)
    (folder / "face.obj").write_text(obj + "\n" + _POINTS + "f 1 2 3\n")
    return read_mesh(folder / "face.obj").texture_name


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("map_Kd skin.png", "skin.png"),
        ("  map_kd\tmy skin.png  ", "my skin.png"),
        ("map_Kd -s 1 1 1 -clamp on skin.png", "skin.png"),
        ("map_Kd -o 0.5 2.png", "2.png"),
        ("map_Kd tex\\skin.png", "tex/skin.png"),
        ("map_Kd -imfchan r -bm 0.5 skin.png", "skin.png"),
        ('map_Kd "my skin.png"', "my skin.png"),
        ("map_Kd skin.png # of the face", "skin.png"),
        ("map_Kd my #1.png", "my #1.png"),
        ("map_Kd C:\\scans\\skin.png", "C:/scans/skin.png"),
        ("map_Ka other.png", "other.png"),
        ("map_Ka other.png\nmap_Kd skin.png", "skin.png"),
        ("map_Kd", ""),
    ],
)
def test_texture_is_the_map_kd_of_the_material(tmp_path: Path, line: str, name: str) -> None:
    assert _texture(tmp_path, "mtllib a.mtl\nusemtl skin", a=f"newmtl skin\n{line}\n") == name


def test_faces_without_usemtl_have_the_first_image_and_unknown_names_the_only_one(tmp_path: Path) -> None:
    materials = "newmtl eyes\nmap_Kd eyes.png\nnewmtl plain\nKd 1 1 1\nnewmtl skin\nmap_Kd skin.png\n"
    assert _texture(tmp_path, "mtllib a.mtl", a=materials) == "eyes.png"
    for unknown in ("usemtl other", "usemtl"):
        assert _texture(tmp_path, f"mtllib a.mtl\n{unknown}", a=materials) == ""
        assert _texture(tmp_path, f"mtllib a.mtl\n{unknown}", a=materials.replace("map_Kd eyes", "# ")) == "skin.png"


@pytest.mark.parametrize("line", ["mtllib a.mtl b.mtl", "mtllib a.mtl\nmtllib b.mtl", 'mtllib a.mtl\nmtllib "b.mtl"'])
def test_several_material_files(tmp_path: Path, line: str) -> None:
    files = {"a": "newmtl skin\nKd 1 0 0\n", "b": "newmtl skin\nmap_Kd b.png\nnewmtl eyes\nmap_Kd eyes.png\n"}
    assert _texture(tmp_path, f"{line}\nusemtl eyes", **files) == "eyes.png"
    assert _texture(tmp_path, f"{line}\nusemtl skin", **files) == ""


def test_each_face_has_the_material_before_it(tmp_path: Path) -> None:
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd a.png\nnewmtl b\nmap_Kd -clamp on -s 2 3 -o .5 b.png\nKd 0 1 0\n")
    faces = "f 1 2 3\nusemtl b\nf 1 2 3 4\nusemtl a\nusemtl b\nf 1 2 3\nusemtl a\nf 2 3 4\nusemtl b\n"
    points = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    (tmp_path / "face.obj").write_text(f"mtllib a.mtl\n{points}usemtl a\n{faces}")
    mesh = read_mesh(tmp_path / "face.obj")
    names = [mesh.materials[number].names for number in mesh.face_materials]
    assert names == [("a.png",), ("b.png",), ("b.png",), ("b.png",), ("a.png",)]
    second = next(material for material in mesh.materials if material.names == ("b.png",))
    assert (second.color, second.wrap) == ((0, 255, 0), ("clamp", "clamp"))
    assert (second.uv_scale, second.uv_offset) == ((2, 3), (0.5, 0))


def test_textures_are_relative_to_the_material_file(tmp_path: Path) -> None:
    assert _texture(tmp_path, "mtllib sub/a.mtl", sub__a="newmtl m\nmap_Kd t.png\n") == "sub/t.png"


def test_material_files_outside_the_folder_are_not_opened(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "outside.mtl").write_text("newmtl m\nmap_Kd secret.png\n")
    (inner / "link.mtl").symlink_to(tmp_path / "outside.mtl")
    for name in ("../outside.mtl", str(tmp_path / "outside.mtl"), "link.mtl", "missing.mtl", ".", "a\0b"):
        assert _texture(inner, f"mtllib {name}") == ""


def test_oversized_material_file_is_not_read(tmp_path: Path) -> None:
    assert _texture(tmp_path, "mtllib a.mtl", a="newmtl m\nmap_Kd t.png\n" + "#" * (1 << 20)) == ""


def _outcome(text: str) -> list[list[float]] | str:
    """The arrays of the mesh, or the error."""
    try:
        mesh = _parse(text)
    except MeshError as error:
        return str(error)
    assert mesh.uvs is not None and mesh.face_uvs is not None
    return [mesh.vertices.ravel().tolist(), mesh.faces.tolist(), mesh.uvs.ravel().tolist(), mesh.face_uvs.tolist()]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.decimals(-(10**8), 10**8, places=6).map(str)
        | st.sampled_from(["-0.5", ".5", "5.", "7", "1e-3", "0.123456789"]),
        min_size=5,
        max_size=5,
    ),
    st.lists(
        st.sampled_from(["1", "2/1", "3//9", "1/2/12345678", "2/", "-1/-1", "3/3/", "0001/00000002"]),
        min_size=3,
        max_size=5,
    ),
    st.sampled_from(["\n", "\r\n", " \n", "\t\n", " # c\n", "\n\n"]),
)
def test_simple_lines_are_read_like_other_lines(numbers: list[str], corners: list[str], end: str) -> None:
    # With two blanks between words no line is simple.
    lines = [_POINTS + _UVS, "v " + " ".join(numbers[:3]), "vt " + " ".join(numbers[3:]), "f " + " ".join(corners)]
    text = end.join([*lines, *lines, ""])
    assert _outcome(text) == _outcome(text.replace(" ", "  "))


@pytest.mark.parametrize(
    "corner", ["0", "1/0", "5/1", "1/9", "1x", "1/", "123456789", "1/123456789", "1/2/3/4", "", "/1"]
)
def test_bad_corners_of_simple_lines(corner: str) -> None:
    text = _POINTS + _UVS + "f 1/1 2/2 3/3\nf 1/1 " + corner + " 3/3\n"
    assert _outcome(text) == _outcome(text.replace(" ", "  "))
