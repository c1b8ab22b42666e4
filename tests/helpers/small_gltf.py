"""glTF files of a few triangles, built piece by piece; pieces may be invalid."""

import base64
import json
import struct
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
UVS = np.array([[0, 0], [1, 0], [0, 1]], np.float32)  # from the upper left, as in the file
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}


def png(pixels: np.ndarray) -> bytes:
    """Pixels [H, W, 3] as a PNG."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """Encode bytes as a data URI."""
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()


@dataclass
class SmallGltf:
    """A document and its binary chunk. `doc` may be edited before writing."""

    doc: dict[str, Any] = field(default_factory=lambda: {"asset": {"version": "2.0"}, "scenes": [{"nodes": []}]})
    binary: bytes = b""

    def add(self, kind: str, **values: Any) -> int:
        """Append an object to one of the document's lists; return its index."""
        items = self.doc.setdefault(kind, [])
        items.append(values)
        return len(items) - 1

    def view(self, content: bytes, **values: Any) -> int:
        """Add a bufferView of new bytes."""
        start, self.binary = len(self.binary), self.binary + content
        return self.add("bufferViews", buffer=0, byteOffset=start, byteLength=len(content), **values)

    def array(self, values: Any, dtype: str = "f4", **accessor: Any) -> int:
        """Add an accessor of new numbers [N] or [N, columns]."""
        values = np.asarray(values, dtype)
        columns = 1 if values.ndim == 1 else values.shape[1]
        shape = {"count": len(values), "type": _TYPES[columns], "componentType": _COMPONENTS[dtype]}
        return self.add("accessors", **{"bufferView": self.view(values.tobytes()), **shape, **accessor})

    def image(self, pixels: np.ndarray) -> int:
        """Add a material with a new embedded texture."""
        image = self.add("images", bufferView=self.view(png(pixels)), mimeType="image/png")
        return self.material(self.add("textures", source=image))

    def material(self, texture: int, **info: Any) -> int:
        """Add a material with an existing texture."""
        return self.add("materials", pbrMetallicRoughness={"baseColorTexture": {"index": texture, **info}})

    def show(
        self, primitive: dict[str, Any] | None = None, node: dict[str, Any] | None = None, **attributes: int
    ) -> int:
        """Add a mesh of one primitive to the scene, by default a triangle."""
        attributes = attributes or {"POSITION": self.array(TRIANGLE)}
        mesh = self.add("meshes", primitives=[{"attributes": attributes, **(primitive or {})}])
        index = self.add("nodes", mesh=mesh, **(node or {}))
        self.doc["scenes"][0]["nodes"].append(index)
        return index

    def write(self, path: Path, uri: str | None = None) -> Path:
        """Write in the format of the suffix. The bytes are embedded unless `uri` names a file for them."""
        if path.suffix == ".gltf":
            self.doc["buffers"] = [{"byteLength": len(self.binary), "uri": uri or data_uri(self.binary)}]
            path.write_text(json.dumps(self.doc))
            return path
        self.doc.setdefault("buffers", [{"byteLength": len(self.binary)}])
        text = json.dumps(self.doc).encode()
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.binary), b"BIN\0") + self.binary
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path
