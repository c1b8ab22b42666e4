"""Checked values of the JSON of a glTF 2.0 file (ISO/IEC 12113:2022). Every problem is a `MeshError`."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError

Json = dict[str, Any]
_MAX_ITEMS, _MAX_PARTS = 1 << 14, 1 << 8  # limits for lists of one kind, and for meshes and their primitives
_MAX_COUNT = 1 << 40

MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
_KNOWN = ("KHR_mesh_quantization", "KHR_texture_transform", *MESHOPT)
_HARMLESS = ("KHR_materials_", "KHR_lights_")  # affect only shading, which is ignored


def parse_document(text: bytes) -> Json:
    """Parse the JSON.

    Raises:
        MeshError: it is not JSON, the version is not 2, or the file requires an unsupported extension.
    """
    try:
        document = json.loads(text)
        version = str(document["asset"]["version"])
    except (ValueError, RecursionError):
        raise MeshError("invalid glTF file: not JSON") from None
    except (TypeError, LookupError):
        raise MeshError("invalid glTF file: no version") from None
    if not version.startswith("2."):
        raise MeshError(f"unsupported glTF version: {version[:8]!a}; only version 2 is supported")
    for name in [*get_items(document, "extensionsRequired"), *get_items(document, "extensionsUsed")]:
        needed = name == "KHR_draco_mesh_compression" or name in document.get("extensionsRequired", [])
        if needed and name not in _KNOWN and not str(name).startswith(_HARMLESS):
            raise MeshError(f"unsupported extension: {str(name)[:80]!a}; export the file without it")
    return document


def get_items(values: Json, name: str) -> list[Any]:
    """Return a list, empty if it is missing."""
    items = values.get(name, [])
    limit = _MAX_PARTS if name in ("meshes", "primitives") else _MAX_ITEMS
    if not isinstance(items, list) or len(items) > limit:
        raise MeshError(f"invalid glTF file: {name} must be a list of at most {limit} items")
    return items


def get_item(values: Json, name: str, index: int) -> Json:
    """Return the object at `index` of a list."""
    items = get_items(values, name)
    if index >= len(items):
        raise MeshError(f"index out of range: {index} of {len(items)} {name}")
    return get_object({name: items[index]}, name)


def get_object(values: Json, *path: str) -> Json:
    """Return an object inside other objects, empty if one of them is missing."""
    for name in path:
        values = values.get(name, {})
        if not isinstance(values, dict):
            raise MeshError(f"invalid glTF file: {name} must be an object")
    return values


def get_count(values: Json, name: str, default: int | None = None) -> int:
    """Return an integer of at least 0."""
    value = values.get(name, default)
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise MeshError(f"invalid glTF file: {name} must be an integer from 0 to {_MAX_COUNT}")
    return value


def get_index(values: Json, name: str) -> int | None:
    """Return an index, or None if it is missing."""
    return None if values.get(name) is None else get_count(values, name)


def get_numbers(values: Json, name: str, default: tuple[float, ...]) -> NDArray[np.float64]:
    """Return as many finite numbers as `default` has."""
    try:
        numbers = np.array(values.get(name, default), np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (len(default),) or not np.isfinite(numbers).all():
        raise MeshError(f"invalid glTF file: {name} must be {len(default)} finite numbers")
    return numbers


def get_uri(values: Json) -> str | None:
    """Return the URI of a buffer or an image, or None if it has none."""
    uri = values.get("uri")
    if not isinstance(uri, str | None):
        raise MeshError("invalid glTF file: uri must be a text")
    return uri
