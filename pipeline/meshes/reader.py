"""`read_mesh`: a Mesh from a file, by the file's suffix."""

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
from smile_pipe.pipeline.meshes.source import Source
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
"""The suffixes that `read_mesh` knows, in lower case and with their dot."""


def read_mesh(path: Path, sidecars: SidecarFiles | None = None) -> Mesh:
    """Read a mesh file; the suffix decides how, whatever its case.

    The files that it names are its `sidecars`, or else those beside it.

    Raises:
        MeshError: the suffix is unknown, or the file cannot be read or is malformed; the message begins with the
            path and says what is wrong and, for text, in which line.
    """
    try:
        parse = _PARSERS.get(path.suffix.lower())
        if parse is None:
            raise MeshError(f"has no suffix of a mesh; those are {', '.join(SUFFIXES)}")
        mesh = parse(Source.read(path, sidecars))
        return mesh if mesh.texture is None else replace(mesh, texture=downscale_texture(mesh.texture))
    except MemoryError as error:
        raise MeshError(f"{path}: takes more memory than there is") from error
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error
