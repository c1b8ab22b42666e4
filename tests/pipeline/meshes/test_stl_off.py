"""STL and OFF, formats of plain triangles and polygons."""

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.off import parse_off
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.stl import parse_stl

_TRIANGLES = [[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0.5, 0, -1e-3], [1.25, 0, 0], [0, 1, 7]]]
_OFF = "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n"


def _stl(data: bytes | str) -> Mesh:
    return parse_stl(Source.from_bytes(data.encode() if isinstance(data, str) else data, Path("face.stl")))


def _off(text: str) -> Mesh:
    return parse_off(Source.from_bytes(text.encode(), Path("face.off")))


def _binary(triangles: list, header: bytes = b"made by hand") -> bytes:
    rows = [struct.pack("<12fH", 0, 0, 1, *np.ravel(triangle), 7) for triangle in triangles]
    return header.ljust(80, b" ") + struct.pack("<I", len(rows)) + b"".join(rows)


def _text(triangles: list) -> str:
    lines = ["solid a vertex 1 2 3"]
    for triangle in triangles:
        corners = [f"      vertex {x!r} {y!r} {z!r}" for x, y, z in triangle]
        lines += ["  facet normal 0 0 1", "    outer loop", *corners, "    endloop", "  endfacet"]
    return "\n".join([*lines, "endsolid a"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_stl_triangles_are_read_to_the_bit(seed: int, as_text: bool) -> None:
    rng = np.random.default_rng(seed)
    triangles = rng.normal(0, 10.0 ** rng.integers(-9, 9), (rng.integers(1, 40), 3, 3)).astype(np.float32)
    mesh = _stl(_text(triangles.tolist()) if as_text else _binary(triangles.tolist()))
    assert np.array_equal(mesh.vertices[mesh.faces], triangles)
    assert mesh.uvs is None and mesh.colors is None


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace("\n", "\r\n"), lambda text: "\n\t" + text])
def test_stl_text_variants(change) -> None:
    assert np.array_equal(_stl(change(_text(_TRIANGLES))).vertices, np.reshape(_TRIANGLES, (-1, 3)).astype(np.float32))


def test_binary_stl_may_start_with_solid() -> None:
    assert len(_stl(_binary(_TRIANGLES, b"solid made by a program")).faces) == 2
    assert len(_stl(_binary(_TRIANGLES) + b"more").faces) == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"solid", "not text, and too short for the binary form"),
        (_binary(_TRIANGLES)[:-1], "truncated data: the header declares 2 triangles of 50 bytes, 99 bytes follow"),
        (_binary([]), "0 vertices, 0 faces"),
        (_binary([[[np.nan] * 3] * 3]), "vertex 0 is not finite"),
        ("solid\nendsolid", "0 vertices, 0 faces"),
        (_text(_TRIANGLES).replace("1.25", "x"), "line 12: expected three numbers in a vertex"),
        (_text(_TRIANGLES).replace("1.25", "1_2"), "line 12: expected three numbers in a vertex"),
        (_text(_TRIANGLES).replace("1.25", ""), "incomplete triangle: 17 coordinates are not a multiple of nine"),
    ],
)
def test_malformed_stl_is_described(data: bytes | str, problem: str) -> None:
    with pytest.raises(MeshError, match=problem):
        _stl(data)


def test_off_polygons_become_fans() -> None:
    assert _off(_OFF + "3 0 1 2\n4 0 1 2 3\n").faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]]
    assert _off(_OFF + "4 0 1 2 3\n4 3 2 1 0\n").faces.tolist() == [[0, 1, 2], [0, 2, 3], [3, 2, 1], [3, 1, 0]]


@pytest.mark.parametrize(
    "text",
    [
        _OFF + "3 0 1 2\n3 0 2 3\n",
        _OFF + "3 0 1 2 255 0 0\n3 0 2 3 0 255 0\n",
        _OFF + "3 0 1 2 255 0 0\n3 0 2 3\n",
        _OFF + "3 0 1 2 9\n3 0 2 3\n",
        "OFF 4 2\n" + _OFF.split("\n", 2)[2] + "3 0 1 2\r\n\r\n3 0 2 3",
        "# made by hand\nOFF # OFF 1 1 1\n\n4 2 0\n" + _OFF.split("\n", 2)[2] + "# faces\n3 0 1 2 # one\n3 0 2 3\n",
        _OFF.replace("OFF", "NOFF").replace(" 0\n", " 0 0 0 1\n").replace("2 0 0 0 1", "2 0") + "3 0 1 2\n3 0 2 3\n",
    ],
)
def test_off_variants(text: str) -> None:
    mesh = _off(text)
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.colors is None


@pytest.mark.parametrize(("color", "expected"), [("255 128 0", [255, 128, 0]), ("1.0 0.5 0.0 1.0", [255, 128, 0])])
def test_coff_has_colors_of_vertices(color: str, expected: list[int]) -> None:
    mesh = _off(f"COFF\n3 1 0\n0 0 0 {color}\n1 0 0 {color}\n0 1 0 {color}\n3 0 1 2\n")
    assert mesh.colors is not None and mesh.colors.tolist() == [expected] * 3


def test_off_equals_trimesh() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=2)
    mesh = _off(sphere.export(file_type="off"))
    assert np.array_equal(mesh.faces, sphere.faces)
    np.testing.assert_allclose(mesh.vertices, sphere.vertices, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("PFF\n1 1 0\n", "not an OFF text file"),
        (_OFF.replace("1 1 0", "1,5 1,5 0,0") + "3 0 1 2\n", "comma in line 5: numbers need decimal points"),
        ("OFF\n4 x 0\n", "not an OFF text file"),
        ("OFF\n4 -2 0\n", "not an OFF text file"),
        ("OFF BINARY\n", "not an OFF text file"),
        (_OFF, "truncated data: 4 vertices and 2 faces in 4 lines"),
        ("OFF\n0 1 0\n3 0 1 2", "empty mesh: 0 vertices, 1 faces"),
        (_OFF.replace("1 1 0", "1 1") + "3 0 1 2\n3 0 2 3", "line 5: a vertex needs three numbers"),
        (_OFF.replace("1 1 0", "1 y 0") + "3 0 1 2\n3 0 2 3", "line 5: 'y' is not a number"),
        (_OFF + "3 0 1 2\n3 0 2 z", "line 8: 'z' is not a number"),
        (_OFF + "3 0 1 2\n3 0 2 }", "line 8: expected a number"),
        (_OFF + "3 0 1 2\n3 0 2", "malformed face: fewer corners than declared"),
        (_OFF + "3 0 1 2\n,", "comma in line 8"),
        (_OFF + "3 0 1 2\n3 0\x012 3 0", "malformed face: corners must be separated by blanks"),
        (_OFF + "3 0 1 2\n-3 0 2 3", "malformed face: fewer corners than declared"),
        (_OFF + "3 0 1 2\n3 0 2 4", "faces use index 4, but there are 4 vertices"),
        (_OFF + "3 0 1 2\n3 0 2 -2", "invalid vertex index: not an integer of at least 0"),
        (_OFF + "3 0 1 2\n3 0 2 1.5", "invalid vertex index: not an integer of at least 0"),
        (_OFF + "3 0 1 2\n3 0 2 nan", "invalid vertex index: not an integer of at least 0"),
    ],
)
def test_malformed_off_is_described(text: str, problem: str) -> None:
    with pytest.raises(MeshError, match=problem):
        _off(text)
