"""Write the files of one synthetic scan: mesh, texture and landmarks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.files import write_bnd
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.meshes.vrml import write_wrl
from smile_pipe.shards.storage import StoragePath

NUM_BND_LANDMARKS = 83


@dataclass(frozen=True)
class ScanPaths:
    """Paths of the files of one scan; mesh and texture are in the same folder."""

    mesh: StoragePath
    texture: StoragePath
    landmarks: StoragePath

    @property
    def all(self) -> tuple[StoragePath, StoragePath, StoragePath]:
        """All three paths."""
        return self.mesh, self.texture, self.landmarks


def write_scan(paths: ScanPaths, mesh: Mesh, texture: bytes, landmarks: NDArray[np.intp]) -> None:
    """Write the files of a scan.

    Args:
        paths: Paths of the files.
        mesh: The mesh.
        texture: The encoded image.
        landmarks: int [L], vertices of the landmarks.

    Raises:
        OSError: A file cannot be written.
    """
    with _open_local(paths.mesh) as file:
        write_wrl(file, mesh, paths.texture.name)
    with _open_local(paths.texture) as file:
        file.write_bytes(texture)
    points = mesh.vertices[landmarks]
    with _open_local(paths.landmarks) as file:
        if paths.landmarks.suffix == ".bnd":
            write_bnd(file, landmarks, points)
        else:
            rows = "".join(f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in points.tolist())
            file.write_text(rows, encoding="ascii", newline="\n")


@contextmanager
def _open_local(path: StoragePath) -> Iterator[Path]:
    """Yield a local path to write; for a URL it is a temporary file, which is uploaded at the end."""
    if path.is_local:
        # Written in place, without a temporary name: the data set is incomplete until `synth.json` exists.
        path.parent.ensure_folder()
        yield path.local
        return
    with path.replacing() as temporary:
        yield temporary
