"""What a face model is: identities and action units go in, meshes and textures come out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.faces.look import Look
from pipeline.meshes.mesh import Mesh

# Strength of each action unit on the subject's left and right side: 0 absent, 1 as strong as it gets.
ActionUnits = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Identity:
    """One subject.

    Attributes:
        shape: float [K], weights of the model's identity modes, in standard deviations.
        look: what the texture is painted from.
    """

    shape: NDArray[np.float64]
    look: Look


class FaceModel(Protocol):
    """A face that can be anyone and make any expression.

    Attributes:
        name: goes into manifests.
        landmarks: int [L], the landmark vertices: 83 in the order of BU-3DFE, or 68 in that of Multi-PIE.
    """

    name: str
    landmarks: NDArray[np.intp]

    def identity(self, rng: np.random.Generator) -> Identity:
        """A subject at random."""
        ...

    def mesh(self, identity: Identity, action_units: ActionUnits) -> Mesh:
        """The subject's face with these action units, millimetres, facing +z; an unknown unit is a KeyError."""
        ...

    def texture(self, identity: Identity, size: int) -> NDArray[np.uint8]:
        """The subject's texture, uint8 [size, size, 3], row 0 at the top."""
        ...
