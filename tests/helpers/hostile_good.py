"""Small valid files of every mesh format, and of landmarks, which `hostile_meshes` damages."""

import base64
import io
import json
import struct

import numpy as np

from helpers.shapes import sphere

_BALL = sphere(0, 90.0)
V, F = _BALL.vertices, _BALL.faces
UVS = ((V[:, :2] + 90) / 180).astype(np.float32)

SUFFIX = {form: form for form in ("obj", "ply", "wrl", "bnt", "npz", "stl", "off", "glb", "gltf")}
SUFFIX |= {"little": "ply", "big": "ply", "text-stl": "stl"}
BND = b"".join(b"%d %.4f %.4f %.4f\n" % (i, *row) for i, row in enumerate(V.tolist()))
LM3 = b"2 landmarks:\n\nNose tip\n0.0 0.0 90.0\nChin middle\n0.0 -80.0 10.0\n"


def obj(library: str = "") -> bytes:
    """An OBJ with texture coordinates, and optionally a material file."""
    lines = [f"mtllib {library}", "usemtl skin"] if library else []
    lines += ["v {} {} {}".format(*row) for row in V.tolist()] + ["vt {} {}".format(*row) for row in UVS.tolist()]
    lines += ["f " + " ".join(f"{i}/{i}" for i in face) for face in (F + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _ply(kind: str, texture: str = "") -> bytes:
    header = [f"ply\nformat {kind} 1.0", *([f"comment TextureFile {texture}"] if texture else [])]
    header += [f"element vertex {len(V)}", *(f"property float {name}" for name in "xyzst")]
    header += [f"element face {len(F)}", "property list uchar int vertex_indices", "end_header\n"]
    vertices = np.hstack([V, UVS])
    if kind == "ascii":
        rows = [*vertices.tolist(), *([3, *face] for face in F.tolist())]
        return "\n".join([*header[:-1], "end_header", *(" ".join(map(str, row)) for row in rows)]).encode()
    order = "<" if "little" in kind else ">"
    faces = b"".join(struct.pack(f"{order}B3i", 3, *face) for face in F.tolist())
    return "\n".join(header).encode() + vertices.astype(f"{order}f4").tobytes() + faces


def _listed(rows: np.ndarray, end: str = "") -> str:
    return ", ".join(" ".join(map(str, row)) + end for row in rows.tolist())


def _wrl(texture: str = "skin.png") -> bytes:
    return (
        "#VRML V2.0 utf8\nShape {\n appearance Appearance { texture ImageTexture { url "
        + json.dumps(texture)
        + f" }} }}\n geometry IndexedFaceSet {{\n  coord Coordinate {{ point [ {_listed(V)} ] }}\n"
        + f"  coordIndex [ {_listed(F, ' -1')} ]\n  texCoord TextureCoordinate {{ point [ {_listed(UVS)} ] }}\n"
        + f"  texCoordIndex [ {_listed(F, ' -1')} ]\n }}\n}}\n"
    ).encode()


def bnt(texture: str = "", side: int = 6) -> bytes:
    y, x = np.mgrid[0:side, 0:side] * 20.0
    table = np.stack([x, -y, np.hypot(x - 50, y - 50) * -0.3, x / 100, 1 - y / 100]).reshape(5, -1)
    name = texture.encode()
    return struct.pack("<HHdH", side, side, -1e9, len(name)) + name + struct.pack("<I", table.size) + table.tobytes()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"vertices": V, "faces": F, "uvs": UVS, "face_uvs": F, **arrays})
    return buffer.getvalue()


def _stl() -> bytes:
    body = b"".join(struct.pack("<12fH", 0, 0, 1, *V[face].ravel().tolist(), 0) for face in F)
    return bytes(80) + struct.pack("<I", len(F)) + body


def _text_stl() -> bytes:
    facets = [
        "facet normal 0 0 1\n outer loop\n"
        + "".join("  vertex {} {} {}\n".format(*point) for point in V[face].tolist())
        + " endloop\nendfacet\n"
        for face in F
    ]
    return ("solid ball\n" + "".join(facets) + "endsolid ball\n").encode()


def _off() -> bytes:
    rows = [*(" ".join(map(str, v)) for v in V.tolist()), *("3 {} {} {}".format(*f) for f in F.tolist())]
    return f"OFF\n{len(V)} {len(F)} 0\n".encode() + "\n".join(rows).encode()


def document(**changes: object) -> dict[str, object]:
    """The JSON of a glTF with one buffer that holds the faces and then the vertices."""
    document: dict[str, object] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5125, "count": F.size, "type": "SCALAR"},
            {"bufferView": 1, "componentType": 5126, "count": len(V), "type": "VEC3"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": F.nbytes},
            {"buffer": 0, "byteOffset": F.nbytes, "byteLength": V.nbytes},
        ],
        "buffers": [{"byteLength": F.nbytes + V.nbytes}],
    }
    return document | changes


def glb(binary: bytes | None = None, **changes: object) -> bytes:
    text = json.dumps(document(**changes)).encode()
    text += b" " * (-len(text) % 4)
    binary = F.astype("<u4").tobytes() + V.tobytes() if binary is None else binary
    size = 12 + 8 + len(text) + 8 + len(binary)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<III", 0x46546C67, 2, size) + chunks


def gltf(uri: str | None = None, **changes: object) -> bytes:
    binary = base64.b64encode(F.astype("<u4").tobytes() + V.tobytes()).decode()
    uri = "data:application/octet-stream;base64," + binary if uri is None else uri
    return json.dumps(document(buffers=[{"byteLength": F.nbytes + V.nbytes, "uri": uri}]) | changes).encode()


GOOD = {"obj": obj(), "ply": _ply("ascii"), "little": _ply("binary_little_endian"), "big": _ply("binary_big_endian")}
GOOD |= {"wrl": _wrl(), "bnt": bnt(), "npz": npz(), "stl": _stl(), "text-stl": _text_stl()}
GOOD |= {"off": _off(), "glb": glb(), "gltf": gltf()}


def naming(texture: str, library: str) -> dict[str, bytes]:
    """A mesh of each form that can name a texture, naming that one; an OBJ by way of a material file."""
    names = {"obj": obj(library), "ply": _ply("ascii", texture), "wrl": _wrl(texture)}
    return names | {"bnt": bnt(texture)}
