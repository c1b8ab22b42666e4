"""VRML 2.0: the files of BU-3DFE, and those of other programs."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.shapes import area
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.vrml import parse_wrl, write_wrl
from smile_pipe.pipeline.meshes.vrml_syntax import read_nodes

_SQUARE = "coord Coordinate { point [0 0 0, 1 0 0, 1 1 0, 0 1 0] }"


def _parse(text: str) -> Mesh:
    return parse_wrl(Source.from_bytes(f"#VRML V2.0 utf8\n{text}".encode(), Path("face.wrl")))


def _shape(fields: str) -> str:
    return f"Shape {{ geometry IndexedFaceSet {{ {fields} }} }}"


def _random_mesh(seed: int) -> Mesh:
    rng = np.random.default_rng(seed)
    num_vertices, num_uvs, num_faces = rng.integers(3, 60, 3)
    return Mesh.build(
        rng.normal(0, 100, (num_vertices, 3)),
        rng.integers(0, num_vertices, (num_faces, 3)),
        rng.random((num_uvs, 2)),
        rng.integers(0, num_uvs, (num_faces, 3)),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("wrl") / "face.wrl"
    mesh = _random_mesh(seed)
    write_wrl(path, mesh, 'a "b" \\c.png')
    again = read_mesh(path)
    assert np.array_equal(again.faces, mesh.faces)
    assert np.array_equal(again.face_uvs, mesh.face_uvs)
    np.testing.assert_allclose(again.vertices, mesh.vertices, atol=5.01e-5)
    np.testing.assert_allclose(again.uvs, mesh.uvs, atol=5.01e-7)
    assert again.texture_name == 'a "b" \\c.png'


def test_the_same_mesh_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.wrl", "b.wrl"):
        write_wrl(tmp_path / name, _random_mesh(1), "t.png")
    assert (tmp_path / "a.wrl").read_bytes() == (tmp_path / "b.wrl").read_bytes()


def test_a_mesh_without_uvs_is_written_without_texture(tmp_path: Path) -> None:
    write_wrl(tmp_path / "face.wrl", Mesh.build(np.eye(3), np.array([[0, 1, 2]])), "t.png")
    again = read_mesh(tmp_path / "face.wrl")
    assert again.uvs is None and again.face_uvs is None and again.texture_name == ""


def test_convex_polygons_become_fans_together_with_their_texture_coordinates() -> None:
    mesh = _parse(
        _shape(
            _SQUARE
            + "coordIndex [0 1 2 3 -1 0,1,2 -1]"
            + "texCoord TextureCoordinate { point [0 0 1 0 1 1 0 1 .5 .5] } texCoordIndex [3 2 1 0 -1 4 4 4 -1]"
        )
    )
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[3, 2, 1], [3, 1, 0], [4, 4, 4]]


@pytest.mark.parametrize("stub", ["-1 0 1 -1", "0 -1 1 -1", "0 1 -1 -1", "0 1 -1 -1 -1 -1", "-1", "2", "-1 1"])
def test_polygons_with_fewer_than_three_corners_are_dropped(stub: str) -> None:
    mesh = _parse(_shape(f"{_SQUARE} coordIndex [0 1 2 -1 {stub}]"))
    assert mesh.faces.tolist() == [[0, 1, 2]]


def test_without_tex_coord_index_the_coordinates_follow_coord_index() -> None:
    mesh = _parse(_shape(_SQUARE + "coordIndex [0 1 2 -1] texCoord TextureCoordinate { point [0 0 1 0 1 1 0 1] }"))
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("ends", [("", ""), (" -1", ""), ("", ",-1"), (",-1,", "-1")])
def test_last_polygon_may_lack_its_end(ends: tuple[str, str]) -> None:
    mesh = _parse(
        _shape(
            f"{_SQUARE} coordIndex [0 1 2 -1 0 2 3{ends[0]}]"
            f"texCoord TextureCoordinate {{ point [0 0 1 0 1 1] }} texCoordIndex [0 1 2 -1 2 1 0 {ends[1]}]"
        )
    )
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[0, 1, 2], [2, 1, 0]]


def test_comments_commas_and_unknown_fields_are_skipped() -> None:
    mesh = _parse(
        'WorldInfo { info ["a } # not a comment", "\\" ]"] title "x" }\n'
        '# { [ " a comment\n'
        "DEF Cam Viewpoint { position 0 0 1, orientation 0 0 1 0 }\n"
        "Group { children [ Shape { appearance Appearance { material Material { diffuseColor 1 1 1 }\n"
        'texture DEF Skin ImageTexture { url ["first.png" "second.png"] repeatS FALSE } }\n'
        "geometry DEF Face IndexedFaceSet { solid FALSE normal Normal { vector [0 0 1, 0 0 1] } normalIndex [0 -1]\n"
        "coord DEF C Coordinate{point[0 0 0,# one\n1 0 0,,1 1 0]}coordIndex[0,1,2,-1]creaseAngle .5 } } ] }"
    )
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert mesh.texture_name == "first.png"


def test_several_shapes_become_one_mesh() -> None:
    mesh = _parse(
        _shape(_SQUARE + "coordIndex [0 1 2 -1]")
        + _shape(
            "coord Coordinate { point [5 5 5 6 5 5 6 6 5] } coordIndex [2 1 0 -1]"
            "texCoord TextureCoordinate { point [0 0 1 0 1 1] }"
        )
    )
    assert mesh.faces.tolist() == [[0, 1, 2], [6, 5, 4]]
    assert mesh.uvs is not None and mesh.face_uvs is not None
    assert mesh.uvs[mesh.face_uvs].tolist() == [[[0, 0]] * 3, [[1, 1], [1, 0], [0, 0]]]


def test_named_coordinate_can_be_reused() -> None:
    first = _shape("coord DEF P Coordinate { point [0 0 0 1 0 0 1 1 0] } coordIndex [0 1 2 -1]")
    mesh = _parse(first + _shape("coord USE P coordIndex [2 1 0 -1]"))
    assert mesh.vertices.shape == (6, 3) and mesh.faces.tolist() == [[0, 1, 2], [5, 4, 3]]


def test_vertex_colors_are_read_if_one_per_vertex() -> None:
    colors = "color Color { color [1 0 0 0 1 0 0 0 1 .5 .5 .5] }"
    mesh = _parse(_shape(_SQUARE + "coordIndex [0 1 2 -1]" + colors))
    assert mesh.colors is not None and mesh.colors.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [128] * 3]
    assert _parse(_shape(_SQUARE + "coordIndex [0 1 2 -1] colorIndex [0 -1]" + colors)).colors is None


def test_transforms_apply_to_their_children_only() -> None:
    shape = _shape("coord Coordinate { point [1 0 0 0 1 0 0 0 1] } coordIndex [0 1 2 -1]")
    turn = f"rotation 0 0 2 {math.pi / 2}"
    mesh = _parse(
        f"Transform {{ {turn} scale 2 3 4 translation 10 0 0 children [ {shape} ] }} {shape}"
        f"Transform {{ center 1 0 0 {turn} children Transform {{ translation 0 0 5 children {shape} }} }}"
    )
    expected = [[10, 2, 0], [7, 0, 0], [10, 0, 4], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 5], [0, -1, 5], [1, -1, 6]]
    np.testing.assert_allclose(mesh.vertices, expected, atol=1e-5)


def test_scale_orientation_turns_the_axes_of_the_scale() -> None:
    shape = _shape("coord Coordinate { point [1 0 0 0 1 0 0 0 1] } coordIndex [0 1 2 -1]")
    mesh = _parse(f"Transform {{ scale 2 1 1 scaleOrientation 0 0 1 {math.pi / 2} children {shape} }}")
    np.testing.assert_allclose(mesh.vertices, [[1, 0, 0], [0, 2, 0], [0, 0, 1]], atol=1e-6)


def test_an_identity_transform_changes_no_bit() -> None:
    shape = _shape("coord Coordinate { point [0.1 -0.0 1e-39 0 1 0 0 0 1] } coordIndex [0 1 2 -1]")
    mesh = _parse(f"Transform {{ scale 1 1 1 translation 0 0 0 rotation 0 1 0 0 children {shape} }}")
    assert mesh.vertices.tobytes() == _parse(shape).vertices.tobytes()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no IndexedFaceSet"),
        (_shape("\n\ncoord Coordinate { point [0 0 x] }"), "line 4: 'x' is not a number"),
        (
            _shape("\ncoord Coordinate { point [0 0] }"),
            r"line 3: incomplete Coordinate: 2 numbers are not a multiple of 3",
        ),
        (_shape(_SQUARE + "\ncoordIndex [0 1 2.5 -1]"), "line 3: expected a number or ] in coordIndex"),
        (_shape(_SQUARE + "\ncoordIndex [0 1 2 -1"), "line 3: expected a number or ] in coordIndex"),
        (_shape(_SQUARE + "coordIndex [0 1 4 -1]"), "coordIndex from 0 to 4 for 4 elements"),
        (_shape(_SQUARE + "coordIndex [0 1 -2 -1]"), "coordIndex from -2 to 1 for 4 elements"),
        (_shape(_SQUARE + "coordIndex [0 1 -1]"), "0 faces"),
        (_shape("coord Coordinate { point [0 0 0 1 0 0 nan 1 0] } coordIndex [0 1 2]"), "vertex 2 is not finite"),
        (_shape("coord Coordinate { point [0 0 0 1 0 0 1e99 1 0] } coordIndex [0 1 2]"), "vertex 2 is not finite"),
        (_shape(_SQUARE)[:-1], "truncated file: it ends within Shape"),
        (_shape(_SQUARE) + '\n"never closed', "line 3: truncated file: it ends within the scene"),
        ("}", "line 2: unmatched }"),
        ("Group {" * 300, "line 2: nodes nested too deeply: the limit is 256 levels"),
        (
            f"Transform {{ scale 1 2 children {_shape(_SQUARE + 'coordIndex [0 1 2]')} }}",
            "invalid scale of Transform: it must be 3 finite",
        ),
        ("Transform {\nscale 1 2 3x }", "line 3: invalid scale: '3x' is not a number"),
        (
            _shape(
                _SQUARE + "coordIndex [0 1 2 3 -1 0 1 2 -1] texCoord TextureCoordinate { point [0 0 0 0] }"
                "texCoordIndex [0 1 1 -1 0 1 1 1 -1]"
            ),
            "texCoordIndex does not match coordIndex",
        ),
    ],
)
def test_malformed_file_is_described_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(MeshError, match=problem):
        _parse(text)


@pytest.mark.parametrize(
    ("magic", "problem"),
    [
        (b"\x1f\x8b", r"not a VRML text file: its first line must start with #VRML V2\.0"),
        (b"#VRML V3.0 utf8\n", r"not a VRML text file: its first line must start with #VRML V2\.0"),
        (b"#VRML V1.0 ascii\n", r"unsupported format: VRML 1\.0 or Inventor; convert it to VRML 2\.0, PLY or OBJ"),
        (b"#Inventor V2.1 binary\n", r"unsupported format: VRML 1\.0 or Inventor"),
    ],
)
def test_other_formats_are_refused(magic: bytes, problem: str) -> None:
    with pytest.raises(MeshError, match=problem):
        parse_wrl(Source.from_bytes(magic, Path("face.wrl")))


def test_shapes_geometry_and_textures_can_be_reused() -> None:
    image = 'appearance Appearance { texture DEF T ImageTexture { url "skin.png" } }'
    geometry = f"geometry DEF G IndexedFaceSet {{ {_SQUARE} coordIndex [0 1 2 -1] }}"
    again = "Shape { appearance Appearance { texture USE T } geometry USE G }"
    mesh = _parse(
        f"DEF S Shape {{ {image} {geometry} }} Transform {{ translation 0 0 5 children [ USE S, {again} ] }}"
        "Group { children [ USE nothing ] }"
    )
    assert mesh.faces.tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert mesh.vertices[:, 2].tolist() == [0] * 4 + [5] * 8
    assert mesh.texture_name == "skin.png"


_TEXTURED = _SQUARE + "coordIndex [0 1 2 -1] texCoord TextureCoordinate { point [0 0 1 0 1 1 0 1] }"


def _with_appearance(fields: str) -> str:
    return f"Shape {{ appearance Appearance {{ {fields} }} geometry IndexedFaceSet {{ {_TEXTURED} }} }}"


def test_each_shape_has_its_own_image_and_colour() -> None:
    mesh = _parse(
        _with_appearance('texture ImageTexture { url "one.png" }')
        + _with_appearance('texture ImageTexture { url ["gone.png", "two.png"] repeatT FALSE }')
        + _with_appearance("material Material { diffuseColor .2 0 1 }")
        + _shape(_SQUARE + "coordIndex [0 1 2 -1]")
    )
    materials = [mesh.materials[number] for number in mesh.face_materials]
    assert [material.names for material in materials] == [("one.png",), ("gone.png", "two.png"), (), ()]
    assert [material.wrap for material in materials[:2]] == [("repeat", "repeat"), ("repeat", "clamp")]
    assert [material.color for material in materials] == [None, None, (51, 0, 255), None]
    assert [material.has_uvs for material in materials] == [True, True, True, False]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("translation .5 0", [[0.5, 0], [1.5, 0], [1.5, 1], [0.5, 1]]),
        ("scale 2 3", [[0, 0], [2, 0], [2, 3], [0, 3]]),
        ("scale 2 2 center .5 .5", [[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]]),
        (f"rotation {math.pi / 2} translation 0 1", [[-1, 0], [-1, 1], [-2, 1], [-2, 0]]),
    ],
)
def test_texture_transform_moves_coordinates(fields: str, expected: list[list[float]]) -> None:
    texture = 'texture ImageTexture { url "a.png" } textureTransform TextureTransform'
    mesh = _parse(_with_appearance(f"{texture} {{ {fields} }}"))
    np.testing.assert_allclose(mesh.uvs, expected, atol=1e-6)
    with pytest.raises(MeshError, match="invalid scale of TextureTransform: it must be 2 finite numbers"):
        _parse(_with_appearance(f"{texture} {{ scale 1 2 3 }}"))


def test_notch_of_a_concave_polygon_stays_open() -> None:
    points = "coord Coordinate { point [0 0 0, 4 0 0, 4 4 0, 2 1 0, 0 4 0] }"
    mesh = _parse(_shape(f"{points} coordIndex [4 0 1 2 3 -1]"))
    assert area(mesh) == pytest.approx(10) and len(mesh.faces) == 3


def test_name_refers_to_its_last_closed_definition() -> None:
    first = "DEF A Group { children [ USE A " + _shape(_SQUARE + "coordIndex [0 1 2 -1]") + " ] }"
    second = "DEF A " + _shape("coord Coordinate { point [7 0 0 8 0 0 7 1 0] } coordIndex [0 1 2]")
    assert _parse(f"{first} {second} USE A").vertices[:, 0].tolist() == [0, 1, 1, 0, 7, 8, 7, 7, 8, 7]


def test_exponential_reuse_of_nodes_is_rejected() -> None:
    shape = _shape(_SQUARE + "coordIndex [0 1 2 -1]")
    doubling = "".join(f"DEF G{i} Group {{ children [ USE G{i - 1} USE G{i - 1} ] }}" for i in range(1, 40))
    with pytest.raises(MeshError, match="too many nodes: the limit is 65536"):
        _parse(f"DEF G0 {shape} {doubling}")
    chain = "".join(f"DEF G{i} Group {{ children USE G{i - 1} }}" for i in range(1, 400))
    with pytest.raises(MeshError, match="nodes nested too deeply: the limit is 256 levels"):
        _parse(f"DEF G0 {shape} {chain}")
    with pytest.raises(MeshError, match="too many nodes: the limit is 65536"):
        _parse("A{}" * 70_000)


def test_excessive_array_reuse_takes_little_memory() -> None:
    points = " ".join(["0 0 0 1 0 0 1 1 0"] * 20_000)
    shapes = _shape("coord USE P coordIndex [0 1 2]") * 1000
    source = f"{_shape(f'coord DEF P Coordinate {{ point [{points}] }} coordIndex [0 1 2]')} {shapes}"
    tracemalloc.start()
    with pytest.raises(MeshError, match="arrays reused too often"):
        _parse(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_many_small_shapes_take_bounded_memory() -> None:
    text = "#VRML V2.0 utf8\n" + _shape(_SQUARE + "coordIndex [0 1 2 -1] texCoordIndex [0 1 2 -1]") * 2000
    source = Source.from_bytes(text.encode(), Path("face.wrl"))
    tracemalloc.start()
    scene = read_nodes(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    indices = [array for shape in scene.children for array in shape.children[0].indices.values()]
    assert len(indices) == 4000 and all(array.base is None and array.nbytes == 16 for array in indices)
    assert peak < 64 << 20


@pytest.mark.parametrize("node", ["LOD { level [] }", "Switch { whichChoice 0 choice [] }"])
def test_nodes_that_show_some_of_their_children_are_rejected(node: str) -> None:
    with pytest.raises(MeshError, match=r"line 3: unsupported node (LOD|Switch); export the file without it"):
        _parse(_shape(_SQUARE + "coordIndex [0 1 2 -1]") + f"\n{node}")


def test_indexed_colors_are_read_if_one_per_vertex() -> None:
    fields = _SQUARE + "coordIndex [0 1 2 -1 0 2 3 -1] color Color { color [1 0 0, 0 1 0, 0 0 1] }"
    mesh = _parse(_shape(fields + "colorIndex [2 1 0 -1 2 0 1 -1]"))
    assert mesh.colors is not None
    assert mesh.colors.tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 0], [0, 255, 0]]
    for others in ("2 1 0 -1 1 0 1 -1", "2 1 0 -1", "2 1 0 -1 2 0 3 -1", "0 1", "-5 1 0 -1 -5 0 1 -1"):
        assert _parse(_shape(fields + f"colorIndex [{others}]")).colors is None


def test_face_colors_are_not_vertex_colors() -> None:
    four = "color Color { color [1 0 0, 0 1 0, 0 0 1, 1 1 1] }"
    fields = _SQUARE + "coordIndex [0 1 2 -1 0 2 3 -1 0 1 3 -1 1 2 3 -1]" + four
    assert _parse(_shape(fields)).colors is not None
    assert _parse(_shape(fields + "colorPerVertex TRUE")).colors is not None
    assert _parse(_shape(fields + "colorPerVertex FALSE")).colors is None
    assert _parse(_shape(fields + "colorPerVertex FALSE colorIndex [0 1 2 3]")).colors is None


def test_other_fields_of_face_set_are_ignored() -> None:
    plain = _parse(_shape(_SQUARE + "coordIndex [0 1 2 -1]"))
    mesh = _parse(_shape(_SQUARE + "ccw FALSE solid TRUE convex FALSE normalPerVertex FALSE coordIndex [0 1 2 -1]"))
    assert np.array_equal(mesh.faces, plain.faces) and np.array_equal(mesh.vertices, plain.vertices)


def test_hostile_comments_and_strings_are_fast() -> None:
    for text in ("#" * 200_000, "#\n" * 100_000 + '"', '"\\' * 100_000, ", #a\n" * 100_000 + "{"):
        with pytest.raises(MeshError):
            _parse(text)
