"""The interface of face models: identities and action units give meshes and textures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh

Colour = tuple[float, float, float]

SKINS = ((246, 214, 194), (229, 186, 158), (206, 156, 122), (164, 114, 84), (110, 74, 54))
HAIRS = ((34, 26, 22), (66, 45, 32), (112, 80, 50), (58, 54, 54), (150, 118, 78))
IRISES = ((84, 56, 34), (98, 122, 140), (92, 112, 72), (54, 36, 24))


@dataclass(frozen=True)
class Appearance:
    """Parameters of a subject's texture: colours are red, green, blue, 0-255; amounts are 0-1.

    Attributes:
        skin, hair, iris: Colours.
        lip: Redness of the lips.
        blush: Redness of cheeks and nose.
        stubble: Darkness of the beard area; 0 without a beard.
        brow: Thickness of the eyebrows, millimetres.
        seed: Random seed of the fine detail.
    """

    skin: Colour
    hair: Colour
    iris: Colour
    lip: float
    blush: float
    stubble: float
    brow: float
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Appearance":
        """Draw an appearance; skin tones are uniformly distributed between the lightest and the darkest."""
        tone = rng.uniform(0, len(SKINS) - 1)
        skin = [float(np.interp(tone, range(len(SKINS)), channel)) for channel in zip(*SKINS, strict=True)]
        # Dark skin is combined with dark hair and eyes.
        choices = 4 if tone < 2 else 1
        return cls(
            skin=(skin[0], skin[1], skin[2]),
            hair=HAIRS[int(rng.integers(choices + 1))] if tone < 2 else HAIRS[0],
            iris=IRISES[int(rng.integers(choices))],
            lip=float(rng.uniform(0.55, 1.0)),
            blush=float(rng.uniform(0.3, 0.9)),
            stubble=float(rng.uniform(0.15, 0.55)) if rng.uniform() < 0.3 else 0.0,
            brow=float(rng.uniform(1.9, 3.0)),
            seed=int(rng.integers(1 << 31)),
        )


# Strength of each action unit on the subject's left and right side, from 0 (absent) to 1 (full).
ActionUnits = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Identity:
    """Shape and appearance of one subject.

    Attributes:
        shape: float64 [K], weights of the model's identity modes, in standard deviations.
        appearance: Parameters of the texture.
    """

    shape: NDArray[np.float64]
    appearance: Appearance


class FaceModel(Protocol):
    """Interface of a parametric face.

    Attributes:
        name: Name in manifests.
        landmarks: int [L], landmark vertices: 83 in the order of BU-3DFE, or 68 in the order of Multi-PIE.
    """

    name: str
    landmarks: NDArray[np.intp]

    def identity(self, rng: np.random.Generator) -> Identity:
        """Draw a subject."""
        ...

    def mesh(self, identity: Identity, action_units: ActionUnits) -> Mesh:
        """Build the mesh of a subject with action units, in millimetres, facing +z.

        Raises:
            KeyError: An action unit is unknown.
        """
        ...

    def texture(self, identity: Identity, size: int) -> NDArray[np.uint8]:
        """Paint the texture of a subject, uint8 [size, size, 3], row 0 at the top."""
        ...
