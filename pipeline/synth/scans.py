"""Synthetic scans as BU-3DFE lays out its own: one neutral scan a subject, and six expressions at each level."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.face_model.actor import Subject, act
from smile_pipe.pipeline.face_model.interface import FaceModel
from smile_pipe.pipeline.face_model.scan_noise import scan
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.synth.files import NUM_BND_LANDMARKS, ScanPaths
from smile_pipe.shards.storage import StoragePath

ANCESTRY = "WH"
# Names have four digits for the subject.
MAX_SUBJECTS = 9999


@dataclass(frozen=True)
class Scans:
    """What is made of each subject: neutral, and each expression at each level."""

    seed: int
    levels: tuple[int, ...]

    def paths(self, out: StoragePath, subject: Subject, num_landmarks: int) -> list[ScanPaths]:
        """Where the subject's scans belong."""
        name = f"{subject.sex}{subject.number:04d}"
        ending = "_F3D.bnd" if num_landmarks == NUM_BND_LANDMARKS else "_F3D_lmk68.txt"
        stems = [f"{name}_{code}{level:02d}{ANCESTRY}" for code, level in self._takes()]
        folder = out / name
        return [ScanPaths(folder / f"{s}_F3D.wrl", folder / f"{s}_F2D.png", folder / f"{s}{ending}") for s in stems]

    def meshes(self, model: FaceModel, subject: Subject) -> Iterator[Mesh]:
        """The subject's scans, in the order of `paths`."""
        for code, level in self._takes():
            rng = np.random.default_rng([self.seed, subject.number, list(EXPRESSIONS).index(code), level])
            yield scan(model.mesh(subject.identity, act(code, level, subject.manner, rng)), rng)

    def encode(self, texture: NDArray[np.uint8]) -> bytes:
        """The texture as PNG."""
        buffer = io.BytesIO()
        Image.fromarray(texture).save(buffer, "png")
        return buffer.getvalue()

    def _takes(self) -> list[tuple[str, int]]:
        """Expression and level of each scan."""
        return [("NE", 0), *product((code for code in EXPRESSIONS if code != "NE"), self.levels)]
