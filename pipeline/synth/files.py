"""The files of one synthetic scan: where they lie, and how they are written."""

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
    """Where one scan lies; mesh and texture lie in one folder."""

    mesh: StoragePath
    texture: StoragePath
    landmarks: StoragePath

    @property
    def all(self) -> tuple[StoragePath, StoragePath, StoragePath]:
        """All three."""
        return self.mesh, self.texture, self.landmarks


def write_scan(paths: ScanPaths, mesh: Mesh, texture: bytes, landmarks: NDArray[np.intp]) -> None:
    """Write a scan whose `landmarks` [L] are vertices; `texture` is an encoded image.

    Raises:
        OSError: a file cannot be written.
    """
    with _file_for(paths.mesh) as file:
        write_wrl(file, mesh, paths.texture.name)
    with _file_for(paths.texture) as file:
        file.write_bytes(texture)
    points = mesh.vertices[landmarks]
    with _file_for(paths.landmarks) as file:
        if paths.landmarks.suffix == ".bnd":
            write_bnd(file, landmarks, points)
        else:
            rows = "".join(f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in points.tolist())
            file.write_text(rows, encoding="ascii", newline="\n")


@contextmanager
def _file_for(path: StoragePath) -> Iterator[Path]:
    """A file to write to that is, or becomes, `path`."""
    if path.is_local:
        # Not by way of a temporary name: without `synth.json` a data set is not whole anyway.
        path.parent.ensure_folder()
        yield path.local
        return
    with path.replacing() as temporary:
        yield temporary
