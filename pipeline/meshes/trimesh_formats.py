"""GLB and glTF, by way of trimesh: formats that few scans come in, so speed does not matter.

A glTF must hold its buffers itself (data URIs); files that it names are never opened.
"""

import io
import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import Mesh, MeshError
from pipeline.meshes.source import Source
from pipeline.meshes.texture import MAX_PIXELS

SUFFIXES = (".glb", ".gltf")
_GLB_HEADER, _CHUNK_HEADER = 12, 8
_MAX_DRAWN = 1 << 20  # vertices that any file may have

logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # what goes wrong is told by the exception


def parse_with_trimesh(source: Source) -> Mesh:
    """Read a file of one of `SUFFIXES`; all its parts become one mesh, in the places that its scene gives them.

    Raises:
        MeshError: trimesh cannot read it, or the mesh is empty or inconsistent.
    """
    import trimesh  # takes a third of a second, which the formats with a reader of their own need not pay

    suffix = source.path.suffix.lower()
    _check_promises(source, suffix)
    try:
        scene = trimesh.load_scene(io.BytesIO(source.data), file_type=suffix[1:], process=False)
        for geometry in scene.geometry.values():
            _check_texture(_texture_image(geometry))
        mesh = scene.to_mesh()
        vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        uvs, image = getattr(mesh.visual, "uv", None), _texture_image(mesh)
        colors = mesh.visual.vertex_colors[:, :3] if mesh.visual.kind == "vertex" else None
        texture = None if image is None or uvs is None else np.array(image.convert("RGB"))
    except (MeshError, MemoryError):
        raise
    except Exception as error:  # trimesh raises whatever a damaged file makes it stumble over
        raise MeshError(f"is not a readable {suffix[1:]} file: {type(error).__name__}: {error}") from error
    if vertices.ndim != 2 or faces.ndim != 2 or faces.shape[1:] != (3,):
        raise MeshError("has no triangles")
    built = Mesh.build(vertices, faces, uvs, None if uvs is None else faces, _rgb(colors))
    return replace(built, texture=texture)


def _texture_image(geometry: Any) -> Any:
    """The PIL image that a trimesh geometry is coloured with, or None."""
    material = getattr(getattr(geometry, "visual", None), "material", None)
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)


def _check_texture(image: Any) -> None:
    if image is not None and image.width * image.height > MAX_PIXELS:
        raise MeshError(f"has a texture of {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")


def _rgb(colors: Any) -> NDArray[np.uint8] | None:
    return None if colors is None else np.ascontiguousarray(colors, np.uint8)


def _check_promises(source: Source, suffix: str) -> None:
    """Refuse what trimesh would allocate: accessors of more elements than the file has bytes, meshes drawn many times.

    Raises:
        MeshError: there are such, or the JSON cannot be read.
    """
    start, stop = 0, source.size
    if suffix == ".glb":
        start = _GLB_HEADER + _CHUNK_HEADER
        stop = start + int.from_bytes(source.cut(_GLB_HEADER, _GLB_HEADER + 4), "little")
    try:
        document = json.loads(source.cut(start, stop))
        counts = [int(accessor["count"]) for accessor in document.get("accessors", [])]
        parts = [mesh.get("primitives", []) for mesh in document.get("meshes", [])]
        sizes = [sum(counts[part["attributes"]["POSITION"]] for part in mesh) for mesh in parts]
        drawn = sum(sizes[node["mesh"]] for node in document.get("nodes", []) if "mesh" in node)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise MeshError(f"is not a readable {suffix[1:]} file: its JSON is malformed") from error
    if max(counts, default=0) > source.size:
        raise MeshError(f"promises {max(counts)} elements in {source.size} bytes")
    if drawn > max(source.size, _MAX_DRAWN):
        raise MeshError(f"draws {drawn} vertices out of {source.size} bytes; meshes are used too often")
