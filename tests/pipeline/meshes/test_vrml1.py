"""VRML 1.0 and Inventor: shapes are drawn with the state that earlier nodes set."""

import math
from pathlib import Path

import numpy as np
import pytest

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.vrml import parse_wrl

_POINTS = "Coordinate3 { point [0 0 0, 1 0 0, 1 1 0, 0 1 0] }"
_UVS = "TextureCoordinate2 { point [0 0, 1 0, 1 1, 0 1] }"
_AXES = "Coordinate3 { point [1 0 0, 0 1 0, 0 0 1] }"
_FACE = "IndexedFaceSet { coordIndex [0, 1, 2, -1] }"


def _parse(text: str, magic: str = "#VRML V1.0 ascii") -> Mesh:
    return parse_wrl(Source.from_bytes(f"{magic}\n{text}".encode(), Path("face.wrl")))


def _corners(mesh: Mesh) -> list:
    return mesh.vertices[mesh.faces].tolist()


@pytest.mark.parametrize("magic", ["#VRML V1.0 ascii", "#Inventor V2.0 ascii", "#Inventor V2.1 ascii  "])
def test_typical_scan(magic: str) -> None:
    mesh = _parse(
        "Separator {\n  ShapeHints { vertexOrdering COUNTERCLOCKWISE shapeType SOLID }\n"
        '  Texture2 { filename "face one.png" wrapS CLAMP }  # the skin\n'
        f"  Material {{ diffuseColor 0.8 0.8 0.8 shininess 0.2 }}\n {_POINTS} {_UVS}\n"
        "  Normal { vector [0 0 1, 0 0 1] } NormalBinding { value PER_VERTEX_INDEXED }\n"
        "  IndexedFaceSet { coordIndex [0, 1, 2, 3, -1, 0, 1, 2, -1] normalIndex [0, 1, -1]\n"
        "    textureCoordIndex [3, 2, 1, 0, -1, 1, 1, 1, -1] }\n}",
        magic,
    )
    assert mesh.texture_name == "face one.png"
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[3, 2, 1], [3, 1, 0], [1, 1, 1]]


def test_separator_restores_state_and_group_does_not() -> None:
    other = "Coordinate3 { point [5 0 0, 6 0 0, 5 1 0] }"
    assert _corners(_parse(f"{_POINTS} Separator {{ {other} }} {_FACE}"))[0][0] == [0, 0, 0]
    assert _corners(_parse(f"{_POINTS} Group {{ {other} }} {_FACE}"))[0][0] == [5, 0, 0]
    moved = "Translation { translation 0 0 9 }"
    assert _corners(_parse(f"{_POINTS} Separator {{ {moved} }} {_FACE}"))[0][0] == [0, 0, 0]
    assert _corners(_parse(f"{_POINTS} Group {{ {moved} }} {_FACE}"))[0][0] == [0, 0, 9]
    kept = _corners(_parse(f"{_POINTS} TransformSeparator {{ {moved} {other} }} {_FACE}"))[0][0]
    assert kept == [5, 0, 0]


def test_first_of_several_textures_is_named() -> None:
    images = 'Texture2 { filename "" } Texture2 { filename "one.png" } Texture2 { filename "two.png" }'
    assert _parse(f"{images} {_POINTS} {_FACE}").texture_name == "one.png"


def test_shapes_share_earlier_state() -> None:
    last = "IndexedFaceSet { coordIndex [2 3 0] }"
    mesh = _parse(f"Separator {{ {_POINTS} {_FACE} Separator {{ {_AXES} {_FACE} }} {last} }}")
    assert _corners(mesh) == [
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 1, 0], [0, 1, 0], [0, 0, 0]],
    ]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("Translation { translation 1 2 3 }", [[2, 2, 3], [1, 3, 3], [1, 2, 4]]),
        (f"Rotation {{ rotation 0 0 1 {math.pi / 2} }}", [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
        ("Scale { scaleFactor 2 3 4 }", [[2, 0, 0], [0, 3, 0], [0, 0, 4]]),
        (
            "MatrixTransform { matrix 0 1 0 0  -1 0 0 0  0 0 1 0  5 6 7 1 }",
            [[5, 7, 7], [4, 6, 7], [5, 6, 8]],
        ),
        (
            f"Transform {{ translation 0 0 5 rotation 0 0 1 {math.pi / 2} scaleFactor 2 2 2 center 1 0 0 }}",
            [[1, 0, 5], [-1, -2, 5], [1, -2, 7]],
        ),
        (
            f"Scale {{ scaleFactor 2 1 1 }} Rotation {{ rotation 0 0 1 {math.pi / 2} }}",
            [[0, 1, 0], [-2, 0, 0], [0, 0, 1]],
        ),
    ],
)
def test_transform_nodes_apply_to_later_shapes(node: str, expected: list) -> None:
    mesh = _parse(f"Separator {{ {node} {_AXES} {_FACE} }} Separator {{ {_AXES} {_FACE} }}")
    np.testing.assert_allclose(mesh.vertices[:3], expected, atol=1e-6)
    assert mesh.vertices[3:].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_without_transforms_coordinates_are_exact() -> None:
    points = "Coordinate3 { point [0.1 -0.0 1e-39, 0 1 0, 0 0 1] }"
    still = "Translation { translation 0 0 0 } Scale { scaleFactor 1 1 1 }"
    assert _parse(f"{still} {points} {_FACE}").vertices.tobytes() == _parse(f"{points} {_FACE}").vertices.tobytes()


def test_reused_node_takes_the_state_at_its_use() -> None:
    mesh = _parse(
        f"Separator {{ DEF P {_POINTS} DEF F {_FACE} }}"
        "Separator { USE P Translation { translation 0 0 2 } USE F }"
        f"DEF S Separator {{ {_AXES} USE F }} Separator {{ Scale {{ scaleFactor 3 3 3 }} USE S }}"
    )
    assert _corners(mesh) == [
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]],
        [[0, 0, 2], [1, 0, 2], [1, 1, 2]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[3, 0, 0], [0, 3, 0], [0, 0, 3]],
    ]


@pytest.mark.parametrize("index", ["", "textureCoordIndex -1", "textureCoordIndex [-1]", "textureCoordIndex []"])
def test_without_indices_uvs_follow_the_points(index: str) -> None:
    mesh = _parse(f"{_POINTS} {_UVS} IndexedFaceSet {{ coordIndex [0 2 3 -1] {index} }}")
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[0, 2, 3]]


def test_uvs_of_another_shape_are_dropped() -> None:
    other = "Coordinate3 { point [0 0 0, 1 0 0, 0 1 0] }"
    mesh = _parse(f"{_POINTS} {_UVS} {_FACE} {other} {_FACE}")
    assert mesh.uvs is not None and mesh.face_uvs is not None
    assert mesh.uvs[mesh.face_uvs].tolist() == [[[0, 0], [1, 0], [1, 1]], [[0, 0]] * 3]


_COLORS = "Material { diffuseColor [1 0 0, 0 1 0, 0 0 1, 1 1 1] }"


def test_per_vertex_materials_are_colors() -> None:
    bound = "MaterialBinding { value PER_VERTEX_INDEXED }"
    mesh = _parse(f"{_COLORS} {bound} {_POINTS} {_FACE}")
    assert mesh.colors is not None
    assert mesh.colors.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3]
    index = "materialIndex [3 1 0 -1]"
    mesh = _parse(f"{_COLORS} {bound} {_POINTS} IndexedFaceSet {{ coordIndex [0 1 2 -1] {index} }}")
    assert mesh.colors is not None and mesh.colors[:3].tolist() == [[255] * 3, [0, 255, 0], [255, 0, 0]]


@pytest.mark.parametrize("value", ["DEFAULT", "OVERALL", "PER_FACE", "PER_FACE_INDEXED", "PER_PART", "PER_VERTEX"])
def test_other_material_bindings_are_dropped(value: str) -> None:
    assert _parse(f"{_COLORS} MaterialBinding {{ value {value} }} {_POINTS} {_FACE}").colors is None


def test_first_level_of_detail_and_choice_of_switch_are_read() -> None:
    both = f"Separator {{ {_POINTS} {_FACE} }} Separator {{ {_AXES} {_FACE} }}"
    assert len(_parse(f"LOD {{ range [1] {both} }}").vertices) == 4
    assert len(_parse(f"Switch {{ whichChild 1 {both} }}").vertices) == 3
    assert len(_parse(f"Switch {{ whichChild -3 {both} }}").vertices) == 7
    with pytest.raises(MeshError, match="no IndexedFaceSet"):
        _parse(f"Switch {{ {both} }}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no IndexedFaceSet"),
        (_FACE, "no IndexedFaceSet"),
        (f"{_POINTS} Separator {{ {_FACE}", "line 2: truncated file: it ends within Separator"),
        (
            f"{_POINTS}\nIndexedFaceSet {{ coordIndex [0 1 4] }}",
            "line 3: index out of range: coordIndex from 0 to 4 for 4 elements",
        ),
        (
            f"{_POINTS}\n\nScale {{ scaleFactor 1 2 }} {_FACE}",
            "line 4: invalid scaleFactor of Scale: it must be 3 finite",
        ),
        (
            f"MatrixTransform {{ matrix 1 0 0 }} {_POINTS} {_FACE}",
            "invalid matrix of MatrixTransform: it must be 16 finite numbers",
        ),
        (
            f"Switch {{ whichChild x1 }} Translation {{ translation 1 2 3z }} {_FACE}",
            "invalid translation: '3z' is not a number",
        ),
        ("Coordinate3 { point [0 0] }", "line 2: incomplete Coordinate3: 2 numbers are not a multiple of 3"),
        (
            f"{_POINTS} {_UVS} IndexedFaceSet {{ coordIndex [0 1 2 -1] textureCoordIndex [0 1 -1 2] }}",
            "does not match coordIndex",
        ),
    ],
)
def test_malformed_file_is_described_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(MeshError, match=problem):
        _parse(text)
