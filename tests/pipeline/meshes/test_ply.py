"""PLY: text and both byte orders, with any other properties."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.shapes import area
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.ply import parse_ply
from smile_pipe.pipeline.meshes.source import Source

_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {
    "i1": "char",
    "f4": "float",
    "f8": "double",
    "u1": "uchar",
    "u2": "ushort",
    "i4": "int",
    "i2": "short",
    "u4": "uint32",
}


def _parse(data: bytes) -> Mesh:
    return parse_ply(Source.from_bytes(data, Path("face.ply")))


class _Ply:
    """Writes PLY files with any elements. Rows are lists of numbers and of lists of numbers."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.header = ["ply", f"format {order} 1.0"]
        self.body = b""

    def element(self, name: str, properties: dict[str, str], rows: list[list]) -> "_Ply":
        self.header.append(f"element {name} {len(rows)}")
        for key, kind in properties.items():
            words = [_TYPES[k] for k in kind.split()]
            self.header.append(f"property {'list ' if len(words) == 2 else ''}{' '.join(words)} {key}")
        for row in rows:
            for value, kind in zip(row, properties.values(), strict=True):
                self._value(value, kind.split())
            self.body += b"" if _ORDERS[self.order] else b"\n"
        return self

    def _value(self, value, kinds: list[str]) -> None:
        values = [len(value), *value] if len(kinds) == 2 else [value]
        for number, kind in zip(values, kinds[:1] + kinds[-1:] * (len(values) - 1), strict=True):
            if _ORDERS[self.order]:
                self.body += np.array(number).astype(_ORDERS[self.order] + kind).tobytes()
            else:
                self.body += f"{number!r} ".encode()

    def data(self, end: str = "\n") -> bytes:
        return (end.join([*self.header, "end_header"]) + end).encode() + self.body


def _square(order: str, faces: list[list[int]], count: str = "u1 i4") -> _Ply:
    points = [[0.0, 0.0, 0.5], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    ply = _Ply(order).element("vertex", dict.fromkeys("xyz", "f4"), points)
    return ply.element("face", {"vertex_indices": count}, [[face] for face in faces])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(_ORDERS)), st.sampled_from(["f4", "f8"]), st.booleans())
def test_round_trip_is_exact(seed: int, order: str, kind: str, polygons: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 10.0 ** rng.integers(-9, 9), (rng.integers(3, 50), 3)).astype(kind)
    colors = rng.integers(0, 256, (len(points), 3))
    sizes = rng.integers(3, 7, 20) if polygons else [3] * 20
    faces = [rng.integers(0, len(points), size).tolist() for size in sizes]
    properties = {"x": kind, "quality": "f4", "y": kind, "z": kind, "red": "u1", "green": "u1", "blue": "u1"}
    rows = [[x, 7.5, y, z, *c] for (x, y, z), c in zip(points.tolist(), colors.tolist(), strict=True)]
    ply = _Ply(order).element("camera", {"a": "i2", "b": "u2 f8"}, [[1, [2.0, 3.0]], [4, []], [5, [6.0]]])
    ply = ply.element("vertex", properties, rows)
    face_rows = [[1, face, [0.5] * (i % 3)] for i, face in enumerate(faces)]
    mesh = _parse(ply.element("face", {"flags": "u2", "vertex_index": "u1 i4", "w": "i2 f4"}, face_rows).data())
    assert np.array_equal(mesh.vertices, points.astype(np.float32))
    assert np.array_equal(mesh.colors, colors)
    if not polygons:
        assert mesh.faces.tolist() == faces
        return
    ends = np.cumsum([len(face) - 2 for face in faces])
    triangles = np.split(mesh.faces, ends)
    assert [len(part) for part in triangles] == [len(face) - 2 for face in faces] + [0]
    assert all(set(part.ravel()) <= set(face) for part, face in zip(triangles, faces, strict=False))


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("count", ["u1 i4", "i4 u4", "u2 u2", "i2 i2", "u1 u1", "u4 i4", "i1 i1", "u1 f4"])
def test_lists_of_equal_and_of_unequal_lengths(order: str, count: str) -> None:
    assert _parse(_square(order, [[0, 1, 2], [0, 2, 3]], count).data()).faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert _parse(_square(order, [[0, 1, 2, 3]], count).data()).faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    mixed = [[0, 1, 2, 3], [3, 1, 0], [1, 2], [], [2, 1, 0]]
    expected = [[0, 1, 2], [0, 2, 3], [3, 1, 0], [2, 1, 0]]
    assert _parse(_square(order, mixed, count).data()).faces.tolist() == expected


@pytest.mark.parametrize("order", _ORDERS)
def test_texture_coordinates_of_vertices(order: str) -> None:
    rows = [[0.0, 0.0, 0.0, 0.25, 0.75], [1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.5, 1.0]]
    ply = _Ply(order).element("vertex", dict.fromkeys(["x", "y", "z", "s", "t"], "f4"), rows)
    mesh = _parse(ply.element("face", {"vertex_indices": "u1 i4"}, [[[2, 1, 0]]]).data())
    assert mesh.uvs is not None and mesh.uvs.tolist() == [[0.25, 0.75], [1, 0], [0.5, 1]]
    assert mesh.face_uvs is not None and mesh.face_uvs.tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("order", _ORDERS)
def test_texture_coordinates_of_corners_and_texture_name(order: str) -> None:
    ply = _square(order, [])
    ply.header = [line for line in ply.header if "face" not in line and "list" not in line]
    ply.header.insert(2, "comment TextureFile my face.png")
    quad, triangle = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.25, 0.5, 0.5, 0.25]
    rows = [[[0, 1, 2, 3], quad], [[2, 1, 0], triangle]]
    mesh = _parse(ply.element("face", {"vertex_indices": "u1 i4", "texcoord": "u1 f4"}, rows).data())
    assert mesh.texture_name == "my face.png"
    assert mesh.uvs is not None and mesh.face_uvs is not None
    assert mesh.uvs[mesh.face_uvs].tolist() == [
        [[0, 0], [1, 0], [1, 1]],
        [[0, 0], [1, 1], [0, 1]],
        [[0.5, 0.5], [0.25, 0.5], [0.5, 0.25]],
    ]


@pytest.mark.parametrize("order", _ORDERS)
def test_texnumber_gives_the_image_of_each_polygon(order: str) -> None:
    ply = _square(order, [])
    ply.header = [line for line in ply.header if "face" not in line and "list" not in line]
    ply.header[2:2] = ["comment TextureFile a.png", 'comment texturefile "b.png"']
    uvs = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    rows = [[[0, 1, 2, 3], uvs, 1], [[2, 1, 0], uvs[:6], 0], [[2, 1, 0], uvs[:6], -1], [[2, 1, 0], uvs[:6], 2]]
    properties = {"vertex_indices": "u1 i4", "texcoord": "u1 f4", "texnumber": "i4"}
    mesh = _parse(ply.element("face", properties, rows).data())
    materials = [mesh.materials[number] for number in mesh.face_materials]
    assert [material.names for material in materials] == [("b.png",), ("b.png",), ("a.png",), (), ()]
    assert [material.has_uvs for material in materials[3:]] == [False, False]


def test_notch_of_a_concave_polygon_stays_open() -> None:
    points = [[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [4.0, 4.0, 0.0], [2.0, 1.0, 0.0], [0.0, 4.0, 0.0]]
    ply = _Ply("ascii").element("vertex", dict.fromkeys("xyz", "f4"), points)
    mesh = _parse(ply.element("face", {"vertex_indices": "u1 i4"}, [[[4, 0, 1, 2, 3]]]).data())
    assert area(mesh) == pytest.approx(10)


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("u1", [1, 0, 1], [1, 0, 1]),
        ("f4", [1.0, 0.5, 0.0], [255, 128, 0]),
        ("u2", [65535, 257, 0], [255, 1, 0]),
        ("i4", [300, 128, -5], [255, 128, 0]),
    ],
)
def test_colors_of_any_type(order: str, kind: str, values: list, expected: list[int]) -> None:
    properties = dict.fromkeys("xyz", "f4") | dict.fromkeys(["red", "green", "blue"], kind)
    ply = _Ply(order).element("vertex", properties, [[float(i), 0.0, 0.0, *values] for i in range(3)])
    mesh = _parse(ply.element("face", {"vertex_indices": "u1 i4"}, [[[0, 1, 2]]]).data())
    assert mesh.colors is not None and mesh.colors.tolist() == [expected] * 3


def test_comment_may_contain_end_header() -> None:
    ply = _square("binary_little_endian", [[0, 1, 2]])
    ply.header.insert(2, "comment what follows end_header is binary " + "x" * 100)
    assert _parse(ply.data()).faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_many_rows_equal_few_rows(order: str, kind: str) -> None:
    points = np.random.default_rng(0).normal(0, 9, (1500, 3)).astype(np.float32)
    rows = [[1, *point] for point in points.tolist()]  # a byte in front leaves the numbers unaligned
    ply = _Ply(order).element("vertex", {"flag": "u1"} | dict.fromkeys("xyz", kind), rows)
    faces = np.random.default_rng(1).integers(0, 1500, (2000, 3)).tolist()
    mesh = _parse(ply.element("face", {"vertex_indices": "u1 i4"}, [[face] for face in faces]).data())
    assert np.array_equal(mesh.vertices, points) and mesh.faces.tolist() == faces


def test_windows_line_ends_in_header() -> None:
    data = _square("binary_little_endian", [[0, 1, 2]])
    assert np.array_equal(_parse(data.data("\r\n")).vertices, _parse(data.data()).vertices)


def test_declared_elements_are_not_allocated() -> None:
    for order in _ORDERS:
        for element in ("vertex", "face"):
            data = _square(order, [[0, 1, 2, 3], [0, 1, 2]]).data().split(b"\n")
            lines = [
                b"element %s 1000000000" % element.encode() if b"element " + element.encode() in x else x for x in data
            ]
            tracemalloc.start()
            start = time.perf_counter()
            with pytest.raises(MeshError, match=f"truncated data: the header declares 1000000000 rows of {element}"):
                _parse(b"\n".join(lines))
            assert tracemalloc.get_traced_memory()[1] < 1 << 21
            assert time.perf_counter() - start < 1.0
            tracemalloc.stop()


@pytest.mark.parametrize("count", [200, 255])
def test_list_longer_than_the_file_is_rejected(count: int) -> None:
    ply = _square("binary_little_endian", [[0, 1, 2], [0, 2, 3]])
    body = bytearray(ply.body)
    body[-13] = count
    ply.body = bytes(body)
    with pytest.raises(MeshError, match="the file ends within row 1 of face"):
        _parse(ply.data())


def test_truncated_file_is_rejected_at_every_byte() -> None:
    for order in ("binary_little_endian", "binary_big_endian"):
        data = _square(order, [[0, 1, 2, 3], [0, 1, 2]]).data()
        for size in range(1, len(data)):
            with pytest.raises(MeshError):
                _parse(data[:size])


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b"ply\n", b"plx\n", "not a PLY file"),
        (b"format ascii 1.0\n", b"", "line 8: missing format line"),
        (b"format ascii", b"format morse", "line 2: 'format morse 1.0' is not a valid header line"),
        (b"element vertex 4", b"element vertex -4", "line 3: '-4' is not a number of elements"),
        (b"element vertex 4", b"element vertex", "line 3: 'element vertex' is not a valid header line"),
        (b"float x", b"half x", "line 4: 'property half x' is not a valid header line"),
        (b"list uchar int", b"list float int", "line 8: invalid list: its count must be an integer"),
        (b"float x", b"float a", "missing element: `vertex` with properties x y z"),
        (b"vertex_indices", b"indices", "missing element: `face` with a list vertex_indices"),
        (b"end_header", b"end", "missing end_header"),
        (b"3 0 1 2", b"3 0 1 4", "index out of range: faces use 0.0 to 4.0, but there are 4 vertices"),
        (b"3 0 1 2", b"3 0 1 -1", "index out of range: faces use -1.0 to 1.0"),
        (b"3 0 1 2", b"3 0 1 1.5", "invalid vertex index: not an integer"),
        (b"3 0 1 2", b"3 0 1 nan", "invalid vertex index: not an integer"),
        (b"3 0 1 2", b"2.5 0 1 2", "the file ends within row 0 of face"),
        (b"3 0 1 2", b"2 0 1 2", "4 vertices, 0 faces"),
        (b"0.5", b"nan", "vertex 0 is not finite"),
        (b"0.5", b"0.5x", "line 10: '0.5x' is not a number"),
        (b"0.5", b"]", "line 10: expected a number"),
    ],
)
def test_malformed_file_is_described(old: bytes, new: bytes, problem: str) -> None:
    data = _square("ascii", [[0, 1, 2]]).data()
    assert data.count(old) == 1
    _parse(data)
    with pytest.raises(MeshError, match=problem):
        _parse(data.replace(old, new))
