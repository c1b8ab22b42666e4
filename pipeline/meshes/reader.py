"""`read_mesh`: select the parser by the suffix of the file."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from smile_pipe.pipeline.meshes.materials import apply_materials
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.source import Source, explaining

# The module and the function of each format. Most import Numba, which a plan does not need, so a module is imported
# when the first file of its format is read.
_PARSERS = {
    ".wrl": ("vrml", "parse_wrl"),
    ".obj": ("obj", "parse_obj"),
    ".ply": ("ply", "parse_ply"),
    ".bnt": ("bnt", "parse_bnt"),
    ".npz": ("npz", "parse_npz"),
    ".stl": ("stl", "parse_stl"),
    ".off": ("off", "parse_off"),
    ".glb": ("gltf", "parse_gltf"),
    ".gltf": ("gltf", "parse_gltf"),
}

SUFFIXES = tuple(_PARSERS)
"""Suffixes of supported formats, in lower case, with the dot."""


def read_mesh(path: Path, sidecars: SidecarFiles | None = None) -> Mesh:
    """Read a mesh file. The suffix, in any case, selects the format.

    Images in other files are not read: the mesh has `materials`. If all are in the mesh file, it has a texture.

    Args:
        path: the mesh file.
        sidecars: files that it may refer to; by default those in its own folder.

    Raises:
        MeshError: the suffix is unknown, or the file cannot be read or is malformed. The message starts with the path
            and gives, for text formats, the line.
    """
    try:
        suffix = path.suffix.lower()
        parse = _parser(suffix)
        source = Source.read(path, sidecars)
        with explaining(source, suffix):
            mesh = parse(source)
        is_complete = any(material.image is not None for material in mesh.materials) and not mesh.texture_name
        return apply_materials(mesh) if is_complete else mesh
    except MemoryError as error:
        raise MeshError(f"{path}: not enough memory") from error
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error


def _parser(suffix: str) -> Callable[[Source], Mesh]:
    if suffix not in _PARSERS:
        raise MeshError(f"unknown mesh format; supported suffixes are {', '.join(SUFFIXES)}")
    module, function = _PARSERS[suffix]
    return getattr(import_module(f"smile_pipe.pipeline.meshes.{module}"), function)
