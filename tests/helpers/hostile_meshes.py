"""Mesh and landmark files that cannot be read, each with a description of what is wrong."""

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

from helpers.hostile_good import BND, GOOD, LM3, F, V, bnt, document, glb, gltf, npz

_NUM_BOMB_BYTES = 200 << 20  # per array, below the limit for one array

_FOREIGN = {
    "empty": b"",
    "a blank": b" ",
    "a line end": b"\n",
    "zeros": bytes(1000),
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    "a gzip file": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + bytes(range(90)),
    "a program": b"\x7fELF\x02\x01\x01" + bytes(57),
    "a pointer of a large file store": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "noise": np.random.default_rng(0).bytes(700),
    "an image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200),
    "cut UTF-16": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n".encode("utf-16")[:-1],
}


def bad_meshes() -> Iterator[tuple[str, str, bytes]]:
    """Yield form, description and content."""
    for form, good in GOOD.items():
        for description, content in _FOREIGN.items():
            yield form, description, content
        for place in _cuts(form, good):
            yield form, f"cut at byte {place}", good[:place]
        for old, new in _EDITS.get(form, []):
            old, new = (part.encode("latin-1") if isinstance(part, str) else part for part in (old, new))
            assert old in good, (form, old)
            yield form, f"{old[:40]!r} become {new[:40]!r}", good.replace(old, new, 1)
    yield from _huge_counts()
    yield from _bad_archives()
    yield from _bad_scenes()
    yield from _deep()


def _cuts(form: str, good: bytes) -> list[int]:
    """Positions at which a truncated file is incomplete: at the borders of its parts, and evenly between them."""
    end = len(good)
    marks = {"npz": [b"PK\x01\x02", b"PK\x05\x06"], "glb": [b"JSON", b"BIN\0"], "text-stl": [b"vertex "]}
    fixed = {"glb": [4, 8, 12, 16, 20, end - 4], "stl": [79, 80, 83, 84, 134, end - 1], "npz": [end - 1]}
    fixed |= {"bnt": [1, 2, 4, 12, 14, 18, end - 1]}
    joints = [good.index(mark) + len(mark) for mark in marks.get(form, [])] + fixed.get(form, [])
    if form == "text-stl":
        # Up to the last number of the first triangle.
        return np.linspace(joints[0], good.rindex(b" ", 0, good.index(b"\n endloop")) + 1, 6).astype(int).tolist()
    # A text truncated after this position is still complete: an OBJ may end anywhere.
    until = end - 1
    if form in ("off", "ply", "wrl", "gltf"):
        until = good.rindex(b" " if form in ("off", "ply") else b"}")
    elif form == "obj":
        until = good.index(b"\nf ") + 3
    parts = [match.end() for match in re.finditer(rb"[\[\]{}]|end_header\n|element\s|OFF|\nShape", good)]
    evenly_spaced = np.linspace(1, until, 8).astype(int).tolist()
    return sorted({*joints, *(place for place in (*evenly_spaced, *parts) if place <= until)})


_ROW = " ".join(map(str, V[3].tolist()))
_NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "1e39",
    "-1e400",
    "x",
    "0x10",
    "1..2",
    "1e",
    "--1",
    "1_0",
    "٣".encode().decode("latin-1"),
]
_INDICES = ["99", "-99", "99999999999", "4294967296", "1e9"]
_FACE = " ".join(map(str, F[4].tolist()))
_EDITS: dict[str, list[tuple[str | bytes, str | bytes]]] = {
    "obj": [
        *((f"v {_ROW}", f"v {number} {_ROW.partition(' ')[2]}") for number in _NUMBERS),
        *((f"{F[4, 0] + 1}/{F[4, 0] + 1} ", f"{index}/1 ") for index in ("0", *_INDICES, "1.5", "x", "")),
        *((f"{F[4, 0] + 1}/{F[4, 0] + 1} ", f"1/{index} ") for index in ("x", "1/x")),
        (f"v {_ROW}", "v 1 2"),
        (f"v {_ROW}", "v"),
    ],
    "ply": [
        *((_ROW, f"{number} {_ROW.partition(' ')[2]}") for number in _NUMBERS),
        *((f"3 {_FACE}", f"3 0 1 {index}") for index in (*_INDICES, "1.5", "nan")),
        *((f"3 {_FACE}", f"{count} {_FACE}") for count in ("-3", "1.5", "999999", "inf")),
        *(("element vertex 12", f"element vertex {count}") for count in ("0", "-1", "13", "9" * 18, "9" * 99, "x", "")),
        *(("element face 20", f"element face {count}") for count in ("0", "21", "999999999")),
        *(("format ascii", f"format {kind}") for kind in ("ebcdic", "binary_little_endian", "")),
        *(("property float x", other) for other in ("property quad x", "property float w", "property", "")),
        *(("list uchar int", f"list {kinds}") for kinds in ("float int", "uchar", "uchar quad", "int")),
        ("vertex_indices", "something_else"),
        ("end_header", "no_header"),
        ("ply\n", "ply \x00\n"),
    ],
    "off": [
        *((_ROW, f"{number} {_ROW.partition(' ')[2]}") for number in _NUMBERS),
        *((f"3 {_FACE}", f"3 0 1 {index}") for index in (*_INDICES, "-1", "1.5", "nan")),
        *((f"3 {_FACE}", f"{count} {_FACE}") for count in ("-3", "4", "9999999999", "inf", "nan")),
        *(("12 20 0", counts) for counts in ("0 0 0", "12 0 0", "13 20 0", "-12 20 0", "999999999 1 0", "12", "x y z")),
        ("OFF", "OFF BINARY"),
        ("OFF", "FFO"),
    ],
    "text-stl": [
        *((f"vertex {_ROW}", f"vertex {number} {_ROW.partition(' ')[2]}") for number in _NUMBERS),
        (f"vertex {_ROW}", "vertex 1 2"),
        (f"vertex {_ROW}", ""),
    ],
    "bnt": [
        (struct.pack("<HH", 6, 6), struct.pack("<HH", rows, columns))
        for rows, columns in ((0, 6), (6, 0), (65535, 65535), (7, 6), (1, 36), (36, 1))
    ]
    + [
        (struct.pack("<I", 180), struct.pack("<I", 181)),
        (struct.pack("<I", 180), b"\xff" * 4),
        (struct.pack("<dH", -1e9, 0), struct.pack("<dH", -1e9, 65535)),
        *((struct.pack("<d", 20.0), struct.pack("<d", value)) for value in (np.nan, np.inf, 1e300)),
    ],
    "stl": [
        *((struct.pack("<I", 20), struct.pack("<I", count)) for count in (0, 21, 0xFFFFFFFF)),
        *((V[3].tobytes(), np.array([value, 0, 0], "<f4").tobytes()) for value in (np.nan, np.inf, -np.inf)),
    ],
    "little": [
        *((V[3].tobytes(), np.array([value, 0, 0], "<f4").tobytes()) for value in (np.nan, np.inf)),
        *((struct.pack("<B3i", 3, *F[4]), struct.pack("<B3i", n, *F[4, :2], i)) for n, i in ((3, 12), (3, -1), (4, 0))),
        (struct.pack("<B3i", 3, *F[0]), struct.pack("<B3i", 255, *F[0])),
        ("list uchar", "list int"),
        ("list uchar", "list char"[:9] + "r"),
        ("element face 20", "element face 99"),
        ("binary_little_endian", "binary_big_endian"),
    ],
    "big": [
        *((V[3].astype(">f4").tobytes(), np.array([value, 0, 0], ">f4").tobytes()) for value in (np.nan, np.inf)),
        *((struct.pack(">B3i", 3, *F[4]), struct.pack(">B3i", n, *F[4, :2], i)) for n, i in ((3, 12), (3, -1), (4, 0))),
        ("binary_big_endian", "binary_little_endian"),
    ],
    "wrl": [
        *((f" {_ROW}", f" {number} {_ROW.partition(' ')[2]}") for number in _NUMBERS),
        *((f"{_FACE} -1", f"0 1 {index} -1") for index in ("12", "99999", "-7")),
        *(("#VRML V2.0 utf8", other) for other in ("#VRML", "#VRML V3.0 utf8", "#VRML V1.0 ascii", "")),
        *(("point [", other) for other in ("points [", "point ", "point [ 1 ", 'point [ "', "point [ [")),
        ("IndexedFaceSet", "IndexedLineSet"),
        ("coordIndex [", "coordIndex [ { "),
        ("}\n", "}\n}\n}\n}\n"),
        ('"skin.png"', '"skin.png'),
    ],
}


def _huge_counts() -> Iterator[tuple[str, str, bytes]]:
    """A few bytes that declare a billion elements."""
    for kind in ("ascii", "binary_little_endian", "binary_big_endian"):
        header = f"ply\nformat {kind} 1.0\nelement vertex 1000000000\nproperty float x\nproperty float y\n"
        body = "property float z\nelement face 1000000000\nproperty list uint int vertex_indices\nend_header\n0 0 0"
        yield "ply", f"a billion rows, {kind}", (header + body).encode()
    yield "ply", "no vertex but a billion faces", GOOD["big"].replace(b"vertex 12", b"vertex 0")
    yield "ply", "a header without an end", b"ply\nformat ascii 1.0\n" + b"comment x\n" * 10_000
    yield "ply", "a list as long as memory", GOOD["little"].replace(b"list uchar", b"list uint")
    yield "stl", "four billion triangles", bytes(80) + b"\xff" * 4 + bytes(100)
    yield "off", "a billion vertices", b"OFF\n1000000000 1000000000 0\n0 0 0\n3 0 0 0\n"
    yield "obj", "a face of vertex a billion", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 1000000000\n"
    yield "bnt", "a large grid", struct.pack("<HHdHI", 2000, 2000, 0.0, 0, 20_000_000)
    yield "bnt", "background only", bnt().replace(bnt()[18 + 576 : 18 + 864], struct.pack("<d", -1e9) * 36)
    yield "obj", "all vertices in one point", b"v 1 2 3\n" * 3 + b"f 1 2 3\n"
    yield "obj", "a face that is a line", b"v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n"
    yield "off", "all vertices in one point", b"OFF\n3 1 0\n" + b"1 2 3\n" * 3 + b"3 0 1 2\n"


def _bomb(*names: str) -> bytes:
    """An archive of zero arrays, a thousand times smaller than its content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            kind, columns = ("<i4", 3) if "face" in name else ("<f4", 2 if name == "uvs" else 3)
            shape = (_NUM_BOMB_BYTES // 4 // columns, columns)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
                for _ in range(_NUM_BOMB_BYTES >> 20):
                    file.write(bytes(1 << 20))
    return buffer.getvalue()


class Canary:
    """An object that creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, ("unpickled",)


def _bad_archives() -> Iterator[tuple[str, str, bytes]]:
    yield "npz", "a pickle", pickle.dumps(Canary())
    yield "npz", "an array of objects", npz(vertices=np.array([[Canary()] * 3] * 12, object))
    yield "npz", "a scalar", npz(vertices=np.float32(1))
    yield "npz", "integers for vertices", npz(vertices=F)
    yield "npz", "floats for faces", npz(faces=V)
    yield "npz", "two columns", npz(vertices=V[:, :2])
    yield "npz", "no faces", npz(faces=F[:0])
    yield "npz", "no vertices", npz(vertices=V[:0])
    yield "npz", "NaN", npz(vertices=np.where(V[3] == V, np.nan, V))
    yield "npz", "complex numbers", npz(vertices=V.astype(np.complex64))
    yield "npz", "text", npz(vertices=V.astype("U8"))
    yield "npz", "fields", npz(vertices=np.zeros((12, 3), [("a", "f4"), ("b", "f4")]))
    for description, value in (("beyond", 12), ("negative", -1), ("huge", 2**40)):
        yield "npz", f"a {description} index", npz(faces=np.where(F == 4, value, F.astype(np.int64)))
    yield "npz", "colours of another mesh", npz(colors=np.zeros((5, 3), np.uint8))
    yield "npz", "a texture of no pixels", npz(texture=np.zeros((0, 4, 3), np.uint8))
    yield "npz", "a texture of no columns", npz(texture=np.zeros((4, 0, 3), np.uint8))
    yield "npz", "a grey texture", npz(texture=np.zeros((4, 4), np.uint8))
    yield "npz", "landmarks at infinity", npz(landmarks=np.full((83, 3), np.inf, np.float32))
    yield "npz", "members that lead elsewhere", _zip({"../vertices.npy": b"x", "/faces.npy": b"x"})
    for description, header in {
        "a shape of a trillion": "{'descr': '<f4', 'fortran_order': False, 'shape': (10**12, 3)}",
        "a promise of much": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 3)}",
        "a negative shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
        "code in its header": "__import__('os').mkdir('unpickled')",
        "a header without an end": "{'descr': '<f4', 'shape': (12, 3",
        "a deep header": "(" * 5000,
        "a long header": "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 3)}" + " " * 60_000,
    }.items():
        text = header.encode()
        member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + V.tobytes()
        yield "npz", description, _zip({"vertices.npy": member, "faces.npy": member})
    yield "npz", "no array", _zip({"vertices.npy": b"v 0 0 0", "faces.npy": b""})
    yield (
        "npz",
        "a locked archive",
        GOOD["npz"]
        .replace(b"PK\x03\x04\x2d\0\0", b"PK\x03\x04\x2d\0\1")
        .replace(b"PK\x01\x02\x2d\x03\x2d\0\0", b"PK\x01\x02\x2d\x03\x2d\0\1"),
    )
    yield "npz", "a wrong checksum", GOOD["npz"].replace(V.tobytes(), V[::-1].tobytes())
    yield "npz", "bombs together", _bomb("vertices", "faces", "uvs", "face_uvs", "landmarks")
    yield "npz", "a bomb", _bomb("vertices")


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _meshopt(packed: dict[str, object]) -> dict[str, object]:
    return {"extensions": {"EXT_meshopt_compression": packed}}


def _bad_scenes() -> Iterator[tuple[str, str, bytes]]:
    """GLB and glTF files with inconsistent parts."""
    accessors, views = document()["accessors"], document()["bufferViews"]
    packed = {"buffer": 0, "byteLength": 99, "byteStride": 12, "count": len(V), "mode": "ATTRIBUTES"}
    changes: dict[str, dict[str, object]] = {
        "no meshes": {"meshes": []},
        "no accessors": {"accessors": []},
        "no views": {"bufferViews": []},
        "a count that lies": {"accessors": [accessors[0], accessors[1] | {"count": 10**9}]},
        "a negative count": {"accessors": [accessors[0], accessors[1] | {"count": -1}]},
        "a count that is text": {"accessors": [accessors[0], accessors[1] | {"count": "many"}]},
        "too few vertices": {"accessors": [accessors[0], accessors[1] | {"count": 2}]},
        "an unknown type": {"accessors": [accessors[0], accessors[1] | {"componentType": 1}]},
        "positions in two columns": {"accessors": [accessors[0], accessors[1] | {"type": "VEC2"}]},
        "a view beyond the end": {"bufferViews": [views[0], views[1] | {"byteOffset": 10**6}]},
        "an accessor beyond its view": {"accessors": [accessors[0], accessors[1] | {"byteOffset": 10**6}]},
        "a view of a billion compressed numbers": {
            "bufferViews": [views[0], {"buffer": 0, "byteLength": 12 * 10**9, **_meshopt(packed | {"count": 10**9})}]
        },
        "a view of damaged compressed numbers": {"bufferViews": [views[0], views[1] | _meshopt(packed)]},
        "a view of no buffer": {"bufferViews": [views[0], views[1] | {"buffer": 7}]},
        "a mesh that is not there": {"nodes": [{"mesh": 5}]},
        "meshes that are no list": {"meshes": {"a": 1}},
        "no position": {"meshes": [{"primitives": [{"attributes": {}, "indices": 0}]}]},
        "a cycle of nodes": {"nodes": [{"children": [0]}]},
    }
    for description, change in changes.items():
        yield "glb", description, glb(**change)
        yield "gltf", description, gltf(**change)
    body = F.astype("<u4").tobytes() + V.tobytes()
    yield "glb", "an index beyond", glb(np.full(F.size, 99, "<u4").tobytes() + V.tobytes())
    yield "glb", "NaN", glb(F.astype("<u4").tobytes() + np.full_like(V, np.nan).tobytes())
    yield "glb", "no binary part", glb(b"")
    yield "glb", "half a binary part", glb(body[: len(body) // 2])
    yield "glb", "version 1", GOOD["glb"].replace(struct.pack("<II", 0x46546C67, 2), struct.pack("<II", 0x46546C67, 1))
    yield "glb", "a chunk beyond the end", GOOD["glb"][:12] + b"\xff" * 4 + GOOD["glb"][16:]
    for uri in ("../outside/trap.obj", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/b.bin", "mesh000.obj"):
        yield "gltf", f"a buffer at {uri}", gltf(uri)
    for uri in ("data:,", "data:application/octet-stream;base64,!!!!", "data:application/octet-stream;base64,AAAA"):
        yield "gltf", f"a buffer of {uri}", gltf(uri)


def _deep() -> Iterator[tuple[str, str, bytes]]:
    """Small files that would cause a naive reader to recurse or allocate without limit."""
    yield "wrl", "nested 300 deep", b"#VRML V2.0 utf8\n" + b"Group { children [ " * 300 + b"] }" * 300
    yield "wrl", "nested very deep", b"#VRML V2.0 utf8\n" + b"A{" * 100_000
    yield "wrl", "brackets nested very deep", b"#VRML V2.0 utf8\nA {" + b"[" * 100_000
    use = b"".join(b"DEF N%d Group { children [ USE N%d USE N%d ] }\n" % (i, i - 1, i - 1) for i in range(1, 60))
    yield "wrl", "uses that double", b"#VRML V2.0 utf8\nDEF N0 Shape { }\n" + use
    yield "wrl", "a node in itself", b"#VRML V2.0 utf8\nDEF A Group { children [ USE A ] }\n"
    many = b"A{" + b"B{}" * 20_000
    yield "wrl", "many nodes at many depths", b"#VRML V2.0 utf8\n" + many * 20
    yield "gltf", "nested a million deep", b"[" * 1_000_000
    yield (
        "glb",
        "nested a million deep",
        struct.pack("<IIIII", 0x46546C67, 2, 1_000_020, 10**6, 0x4E4F534A) + b"[" * 10**6,
    )
    yield "off", "many short lines", b"OFF\n1 1 0\n" + b"\n0" * 4_000_000
    yield "text-stl", "many short lines", b"solid\nfacet\n" + b"a\n" * 2_000_000 + b"vertex 1\n"


def bad_landmarks() -> Iterator[tuple[str, str, bytes]]:
    """Yield suffix, description and content."""
    for description, content in _FOREIGN.items():
        yield from ((suffix, f"{description} as {suffix}", content) for suffix in ("bnd", "txt", "lm3"))
    for number in ("inf", "-inf", "1e39", "x", "0x10", "", "1 2"):
        row = b"0 1 %s 3\n" % number.encode()
        yield "bnd", f"a row with {number or 'too little'}", BND + row
        yield "txt", f"a row with {number or 'too little'}", b"1 2 3\n" + row[2:]
        yield "lm3", f"a point with {number or 'too little'}", LM3 + b"Nose saddle left\n" + row[2:]
    yield "bnd", "cut in a row", BND.rstrip()[: BND.rstrip().rindex(b" ")]
    yield "lm3", "cut after a name", LM3[: LM3.index(b"0.0 -80")]
    yield "lm3", "cut in a point", LM3[: LM3.rindex(b" ")]
    yield "lm3", "a name that comes twice", LM3 + b"Nose tip\n1 2 3\n"
    yield "lm3", "a point without a name", b"1 landmarks:\n1 2 3\n"
    yield "lm3", "names only", b"Nose tip\n" * 3
    yield "bnd", "two megabytes", BND * 4000
    yield "txt", "one long line", b"1 2 " + b"3" * 900_000
    yield "lm2", "points in an image", b"Nose tip\n1 2\n"
    yield "csv", "an unknown suffix", BND
