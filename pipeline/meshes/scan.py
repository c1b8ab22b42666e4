"""A scan as it lies on disk: a mesh file, and perhaps a texture and landmarks beside it."""

from dataclasses import replace
from pathlib import Path

from pipeline.meshes.companions import Companions
from pipeline.meshes.landmarks import read_landmarks
from pipeline.meshes.mesh import Mesh
from pipeline.meshes.reader import read_mesh
from pipeline.meshes.texture import read_texture


def read_scan(
    mesh_path: Path, texture_path: Path | None, landmarks_path: Path | None, companions: Companions | None = None
) -> Mesh:
    """Read a mesh, with the texture and the landmarks of those files.

    A path that is None leaves what the mesh file itself gives: a GLB brings its texture along, others none. The files
    that the mesh names are its `companions`, or else those beside it.

    Raises:
        MeshError: one of the files cannot be read; the message begins with its path.
    """
    mesh = read_mesh(mesh_path, companions)
    if texture_path is not None:
        mesh = replace(mesh, texture=read_texture(texture_path))
    if landmarks_path is not None:
        mesh = replace(mesh, landmarks=read_landmarks(landmarks_path))
    return mesh
