"""The header of a PLY file: encoding, elements and their properties."""

import re
from dataclasses import dataclass, field

import numpy as np

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.source import Source

_MAX_BYTES = 65536
MAGIC = re.compile(rb"ply[ \t]*(\r?\n|\r)")
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}


@dataclass(frozen=True)
class Property:
    """A property: type of its values, and type of the count if it is a list."""

    name: str
    dtype: np.dtype
    count_dtype: np.dtype | None


@dataclass(frozen=True)
class Element:
    """An element: its name, declared number of rows, and properties."""

    name: str
    count: int
    properties: list[Property]


@dataclass(frozen=True)
class Header:
    """A PLY header.

    Attributes:
        order: "<" or ">" for binary data, "" for text.
        elements: in the order of the file.
        texture_name: from the comment `TextureFile`, or "".
        size: bytes of the header; the data follow.
    """

    order: str
    elements: list[Element] = field(default_factory=list)
    texture_name: str = ""
    size: int = 0


def read_header(source: Source) -> Header:
    """Read the header.

    Raises:
        MeshError: the header is missing, malformed (with its line), or does not end within 64 KiB.
    """
    text = source.slice(0, _MAX_BYTES)
    magic = MAGIC.match(text)
    if magic is None:
        raise MeshError("not a PLY file: the first line must be `ply`")
    order, texture_name = None, ""
    elements: list[Element] = []
    pos = 0
    end = text.find(magic[1][-1:] + b"end_header")  # the data may follow as megabytes without a line end
    for raw in (text if end < 0 else text[: end + 80]).splitlines(keepends=True):
        words = raw.decode("latin-1").split()
        try:
            if words[:1] == ["end_header"]:
                if order is None:
                    raise MeshError("missing format line in the header")
                # After a carriage return alone, a line feed is data.
                is_data = magic[1] == b"\r" and raw.endswith(b"\r\n")
                return Header(order, elements, texture_name, pos + len(raw) - is_data)
            if words[:1] == ["format"]:
                order = _ORDERS[words[1]]
            elif words[:1] == ["element"]:
                elements.append(Element(words[1], _count(words[2]), []))
            elif words[:1] == ["property"]:
                elements[-1].properties.append(_property(words, order or "<"))
            elif words[:2] == ["comment", "TextureFile"] and not texture_name:
                texture_name = raw.decode("utf-8", "replace").split("TextureFile", 1)[1].strip()
        except (IndexError, KeyError, ValueError) as error:
            problem = (
                str(error) if isinstance(error, MeshError) else f"{' '.join(words)[:80]!r} is not a valid header line"
            )
            raise source.error_at(pos, problem) from error
        pos += len(raw)
    raise MeshError(f"missing end_header within {_MAX_BYTES} bytes")


def _count(word: str) -> int:
    if not word.isdecimal() or len(word) > 18:
        raise MeshError(f"{word[:40]!r} is not a number of elements")
    return int(word)


def _property(words: list[str], order: str) -> Property:
    if words[1] == "list":
        count_dtype = np.dtype(order + _TYPES[words[2]])
        if count_dtype.kind == "f":
            raise MeshError("invalid list: its count must be an integer type")
        return Property(words[4], np.dtype(order + _TYPES[words[3]]), count_dtype)
    return Property(words[2], np.dtype(order + _TYPES[words[1]]), None)
