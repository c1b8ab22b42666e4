"""The people whose faces are made: who they are, and how they act."""

from dataclasses import dataclass

import numpy as np

from pipeline.faces.acting import Manner
from pipeline.faces.model import FaceModel, Identity


@dataclass(frozen=True)
class Subject:
    """One person.

    Attributes:
        number: from 1.
        sex: "F" or "M"; nominal.
        identity: what the face is made from.
        manner: how it acts.
    """

    number: int
    sex: str
    identity: Identity
    manner: Manner

    @classmethod
    def cast(cls, model: FaceModel, seed: int, number: int) -> "Subject":
        """Subject `number` of the world that `seed` stands for, whoever else is in it."""
        rng = np.random.default_rng([seed, number])
        identity = model.identity(rng)
        # Nominal, but a beard on an F would puzzle whoever looks at the scans.
        return cls(number, "M" if identity.look.stubble else "F", identity, Manner.sample(rng))
