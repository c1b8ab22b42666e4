"""`read_mesh`: select the parser by the suffix of the file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from smile_pipe.pipeline.meshes.bnt import parse_bnt
from smile_pipe.pipeline.meshes.gltf import parse_gltf
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.npz import parse_npz
from smile_pipe.pipeline.meshes.obj import parse_obj
from smile_pipe.pipeline.meshes.off import parse_off
from smile_pipe.pipeline.meshes.ply import parse_ply
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.source import Source, explaining
from smile_pipe.pipeline.meshes.stl import parse_stl
from smile_pipe.pipeline.meshes.texture import downscale_texture
from smile_pipe.pipeline.meshes.vrml import parse_wrl

_PARSERS: dict[str, Callable[[Source], Mesh]] = {
    ".wrl": parse_wrl,
    ".obj": parse_obj,
    ".ply": parse_ply,
    ".bnt": parse_bnt,
    ".npz": parse_npz,
    ".stl": parse_stl,
    ".off": parse_off,
    ".glb": parse_gltf,
    ".gltf": parse_gltf,
}

SUFFIXES = tuple(_PARSERS)
"""Suffixes of supported formats, in lower case, with the dot."""


def read_mesh(path: Path, sidecars: SidecarFiles | None = None) -> Mesh:
    """Read a mesh file. The suffix, in any case, selects the format.

    Args:
        path: the mesh file.
        sidecars: files that it may refer to; by default those in its own folder.

    Raises:
        MeshError: the suffix is unknown, or the file cannot be read or is malformed. The message starts with the path
            and gives, for text formats, the line.
    """
    try:
        suffix = path.suffix.lower()
        parse = _PARSERS.get(suffix)
        if parse is None:
            raise MeshError(f"unknown mesh format; supported suffixes are {', '.join(SUFFIXES)}")
        source = Source.read(path, sidecars)
        with explaining(source, suffix):
            mesh = parse(source)
        return mesh if mesh.texture is None else replace(mesh, texture=downscale_texture(mesh.texture))
    except MemoryError as error:
        raise MeshError(f"{path}: not enough memory") from error
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error
