"""The files of one synthetic scan: where they lie, and how they are written."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.landmarks import write_bnd
from pipeline.meshes.mesh import Mesh
from pipeline.meshes.wrl import write_wrl

NUM_BND_LANDMARKS = 83


@dataclass(frozen=True)
class ScanPaths:
    """Where one scan lies; mesh and texture lie in one folder."""

    mesh: Path
    texture: Path
    landmarks: Path

    @property
    def all(self) -> tuple[Path, Path, Path]:
        """All three."""
        return self.mesh, self.texture, self.landmarks


def write_scan(paths: ScanPaths, mesh: Mesh, texture: bytes, landmarks: NDArray[np.intp]) -> None:
    """Write a scan whose `landmarks` [L] are vertices; `texture` is an encoded image.

    Raises:
        OSError: a file cannot be written.
    """
    for path in paths.all:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_wrl(paths.mesh, mesh, paths.texture.name)
    paths.texture.write_bytes(texture)
    points = mesh.vertices[landmarks]
    if paths.landmarks.suffix == ".bnd":
        write_bnd(paths.landmarks, landmarks, points)
    else:
        rows = "".join(f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in points.tolist())
        paths.landmarks.write_text(rows, encoding="ascii", newline="\n")
