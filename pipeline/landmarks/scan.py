"""A scan as it lies on disk: a mesh file, and landmarks beside it. Textures, which scans share, are read apart."""

from dataclasses import replace
from pathlib import Path

from smile_pipe.pipeline.landmarks.files import read_landmarks
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles


def read_scan(mesh_path: Path, landmarks_path: Path | None, companions: SidecarFiles | None = None) -> Mesh:
    """Read a mesh with its landmarks, if it has any, and with the texture that is in the file, as in a GLB.

    The files that the mesh names are its `companions`, or else those beside it.

    Raises:
        MeshError: one of the files cannot be read; the message begins with its path.
    """
    mesh = read_mesh(mesh_path, companions)
    if landmarks_path is not None:
        mesh = replace(mesh, landmarks=read_landmarks(landmarks_path))
    return mesh
