"""What a subject looks like apart from shape: the colours and marks that a texture is painted from."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

SKINS = ((246, 214, 194), (229, 186, 158), (206, 156, 122), (164, 114, 84), (110, 74, 54))
HAIRS = ((34, 26, 22), (66, 45, 32), (112, 80, 50), (58, 54, 54), (150, 118, 78))
IRISES = ((84, 56, 34), (98, 122, 140), (92, 112, 72), (54, 36, 24))


@dataclass(frozen=True)
class Look:
    """Colours are red, green, blue, 0-255; amounts are 0-1.

    Attributes:
        skin, hair, iris: colours.
        lip: how red the lips are. blush: how red cheeks and nose are. stubble: how dark the beard area is.
        brow: thickness of the eyebrows, millimetres.
        seed: of the fine detail.
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
    def sample(cls, rng: np.random.Generator) -> "Look":
        """A look at random; skin tones are spread evenly between the lightest and the darkest."""
        tone = rng.uniform(0, len(SKINS) - 1)
        skin = [float(np.interp(tone, range(len(SKINS)), channel)) for channel in zip(*SKINS, strict=True)]
        # Dark skin comes with dark hair and eyes.
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
