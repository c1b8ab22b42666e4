"""Checked values of the JSON of a glTF 2.0 file (ISO/IEC 12113:2022). Every problem is a `MeshError`."""

import json
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError

_MAX_ITEMS, _MAX_PARTS = 1 << 14, 1 << 8  # limits for lists of one kind, and for meshes and their primitives
_MAX_COUNT = 1 << 40

MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
_KNOWN = ("KHR_mesh_quantization", "KHR_texture_transform", *MESHOPT)
_HARMLESS = ("KHR_materials_", "KHR_lights_")  # affect only shading, which is ignored


@dataclass(slots=True)
class JsonObject:
    """An object of the JSON. It is false if it is empty or missing."""

    values: dict[str, Any]

    def __bool__(self) -> bool:
        return bool(self.values)

    def items(self, name: str) -> list[Any]:
        """Return a list, empty if it is missing."""
        items = self.values.get(name, [])
        limit = _MAX_PARTS if name in ("meshes", "primitives") else _MAX_ITEMS
        if not isinstance(items, list) or len(items) > limit:
            raise MeshError(f"invalid glTF file: {name} must be a list of at most {limit} items")
        return items

    def item(self, name: str, index: int) -> Self:
        """Return the object at `index` of a list."""
        items = self.items(name)
        if index >= len(items):
            raise MeshError(f"index out of range: {index} of {len(items)} {name}")
        return type(self)({name: items[index]}).inside(name)

    def inside(self, *path: str) -> Self:
        """Return an object inside other objects."""
        values = self.values
        for name in path:
            values = values.get(name, {})
            if not isinstance(values, dict):
                raise MeshError(f"invalid glTF file: {name} must be an object")
        return type(self)(values)

    def count(self, name: str, default: int | None = None) -> int:
        """Return an integer of at least 0."""
        value = self.values.get(name, default)
        if type(value) is not int or not 0 <= value <= _MAX_COUNT:
            raise MeshError(f"invalid glTF file: {name} must be an integer from 0 to {_MAX_COUNT}")
        return value

    def index(self, name: str) -> int | None:
        """Return an index, or None if it is missing."""
        return None if self.values.get(name) is None else self.count(name)

    def indices(self, name: str) -> list[int]:
        """Return a list of indices, empty if it is missing."""
        return [JsonObject({name: index}).count(name) for index in self.items(name)]

    def numbers(self, name: str, default: tuple[float, ...]) -> NDArray[np.float64]:
        """Return as many finite numbers as `default` has."""
        try:
            numbers = np.array(self.values.get(name, default), np.float64)
        except (TypeError, ValueError, OverflowError):
            numbers = np.empty(0)
        if numbers.shape != (len(default),) or not np.isfinite(numbers).all():
            raise MeshError(f"invalid glTF file: {name} must be {len(default)} finite numbers")
        return numbers

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        text = self.values.get(name, default)
        if not isinstance(text, str):
            raise MeshError(f"invalid glTF file: {name} must be a text")
        return text


def parse_document(text: bytes) -> JsonObject:
    """Parse the JSON.

    Raises:
        MeshError: it is not JSON, the version is not 2, or the file requires an unsupported extension.
    """
    try:
        values = json.loads(text)
        version = str(values["asset"]["version"])
    except (ValueError, RecursionError):
        raise MeshError("invalid glTF file: not JSON") from None
    except (TypeError, LookupError):
        raise MeshError("not glTF 2.0: no version") from None
    if not version.startswith("2."):
        raise MeshError(f"unsupported glTF version: {version[:8]!a}; only version 2 is supported")
    document = JsonObject(values)
    required = document.items("extensionsRequired")
    for name in [*required, *document.items("extensionsUsed")]:
        needed = name == "KHR_draco_mesh_compression" or name in required
        if needed and name not in _KNOWN and not str(name).startswith(_HARMLESS):
            raise MeshError(f"unsupported extension: {str(name)[:80]!a}; export the file without it")
    return document
