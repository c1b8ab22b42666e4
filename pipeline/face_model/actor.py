"""Expressions as people show them: which action units make an emotion, how strongly, and how each person differs.

Goes in: an expression, a level, a subject's manner and a random generator. Comes out: action units for a face model.

How an expression runs over time: neutral, onset, apex, offset and neutral again, as posed sequences have it.

Goes in: an expression, how many frames, a subject's tempo and a random generator. Comes out: the action units of each
frame. Promised: the first and the last frame are neutral, and nothing jumps. All figures here are ours.

The people whose faces are made: who they are, and how they act.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_pipe.pipeline.face_model.interface import ActionUnits, FaceModel, Identity

# Strength of an expression at the levels 1 to 4.
LEVELS = {1: 0.38, 2: 0.6, 3: 0.8, 4: 1.0}

Units = Mapping[str, float]

# For each expression, the ways to show it: action units and their strengths at level 4. After the combinations that
# Ekman and Friesen list for the basic emotions (Unmasking the Face, 1975; EMFACS); strengths and choice are ours.
PROTOTYPES: dict[str, tuple[Units, ...]] = {
    "AN": (
        {"AU4": 1.0, "AU5": 0.4, "AU7": 0.8, "AU23": 0.9, "AU24": 0.6, "AU17": 0.3},
        {"AU4": 1.0, "AU7": 1.0, "AU24": 1.0, "AU17": 0.5, "AU15": 0.25, "AU9": 0.2},
        {"AU4": 1.0, "AU5": 0.5, "AU7": 0.7, "AU10": 0.5, "AU16": 0.8, "AU25": 0.6, "AU26": 0.15},
    ),
    "DI": (
        {"AU9": 1.0, "AU10": 0.7, "AU4": 0.2, "AU7": 0.5, "AU17": 0.5, "AU15": 0.3},
        {"AU9": 1.0, "AU10": 1.0, "AU7": 0.5, "AU25": 0.5, "AU16": 0.3, "AU6": 0.3},
        {"AU9": 1.0, "AU10": 0.9, "AU6": 0.4, "AU15": 0.5, "AU17": 0.8},
    ),
    "FE": (
        {"AU1": 1.0, "AU2": 0.6, "AU4": 0.6, "AU5": 1.0, "AU20": 1.0, "AU25": 0.7, "AU26": 0.25},
        {"AU1": 1.0, "AU2": 0.4, "AU4": 0.7, "AU5": 1.0, "AU20": 0.9, "AU25": 0.9},
        {"AU1": 0.9, "AU2": 0.5, "AU4": 0.5, "AU5": 0.9, "AU7": 0.2, "AU20": 0.9, "AU16": 0.4, "AU26": 0.4},
    ),
    "HA": (
        {"AU6": 0.8, "AU12": 1.0},
        {"AU6": 0.9, "AU12": 1.0, "AU25": 0.9, "AU10": 0.2},
        {"AU6": 1.0, "AU12": 1.0, "AU25": 1.0, "AU26": 0.4, "AU7": 0.2},
    ),
    "SA": (
        {"AU1": 1.0, "AU4": 0.5, "AU15": 1.0, "AU17": 0.4, "AU64": 0.3},
        {"AU1": 1.0, "AU15": 0.9, "AU17": 0.8, "AU43": 0.2},
        {"AU1": 0.9, "AU4": 0.6, "AU15": 1.0, "AU64": 0.6, "AU43": 0.15},
    ),
    "SU": (
        {"AU1": 1.0, "AU2": 1.0, "AU5": 0.9, "AU25": 0.4, "AU26": 0.8},
        {"AU1": 0.9, "AU2": 1.0, "AU5": 0.7, "AU18": 0.5, "AU25": 0.5, "AU26": 0.7},
        {"AU1": 1.0, "AU2": 0.9, "AU5": 1.0, "AU25": 0.3, "AU26": 1.0},
    ),
    "NE": ({},),
}

# Action units that may stir a little in any expression.
RESTLESS = ("AU1", "AU2", "AU4", "AU5", "AU7", "AU10", "AU12", "AU14", "AU15", "AU17", "AU18", "AU24")


@dataclass(frozen=True)
class ActorStyle:
    """How one subject acts: habits that all of the subject's scans share.

    Attributes:
        gain: strength of each action unit relative to the average.
        left: how much stronger the left side of the face is than the right, as a share.
        prototype: which prototype of each expression the subject shows.
        tempo: how fast the subject's expressions come and go, relative to the average.
    """

    gain: Mapping[str, float]
    left: float
    prototype: Mapping[str, int]
    tempo: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "ActorStyle":
        """The manner of a subject at random."""
        units = sorted({unit for ways in PROTOTYPES.values() for way in ways for unit in way} | set(RESTLESS))
        return cls(
            gain={unit: float(np.clip(rng.normal(1, 0.1), 0.75, 1.25)) for unit in units},
            left=float(np.clip(rng.normal(0, 0.05), -0.12, 0.12)),
            prototype={code: int(rng.integers(len(ways))) for code, ways in PROTOTYPES.items()},
            tempo=float(np.clip(rng.normal(1, 0.15), 0.7, 1.4)),
        )


def act(expression: str, level: int, manner: ActorStyle, rng: np.random.Generator) -> ActionUnits:
    """The action units of one scan.

    Args:
        expression: a key of `smile_pipe.pipeline.common.expressions.EXPRESSIONS`.
        level: 1 to 4; of no effect on a neutral face.
        manner: the subject's.
        rng: what tells this scan from the next.
    """
    units: dict[str, tuple[float, float]] = {}
    for name, strength in PROTOTYPES[expression][manner.prototype[expression]].items():
        # The wobble stays below the step between levels, so that a higher level is a stronger expression.
        amount = strength * LEVELS.get(level, 0.0) * manner.gain[name] * float(np.clip(rng.normal(1, 0.04), 0.9, 1.1))
        units[name] = _sides(amount, manner.left + rng.normal(0, 0.03))
    for name in rng.choice(RESTLESS, size=3, replace=False).tolist():
        left, right = units.get(name, (0.0, 0.0))
        stir = _sides(float(rng.uniform(0, 0.06)), rng.normal(0, 0.3))
        units[name] = (left + stir[0], right + stir[1])
    return units


def _sides(amount: float, left: float) -> tuple[float, float]:
    return max(amount * (1 + left), 0.0), max(amount * (1 - left), 0.0)


# Room for a neutral frame, one of the rise, the apex and a neutral frame, and one to spare.
MIN_FRAMES = 5
# How long an expression rises at an average tempo, as a share of the sequence before all shares are brought to 1.
RISE_SHARE = {"AN": 0.2, "DI": 0.19, "FE": 0.16, "HA": 0.2, "SA": 0.27, "SU": 0.13}
# The most that an action unit runs ahead of or after the others: an exponent of the common course, from 1/x to x.
SPREAD = 1.35


@dataclass(frozen=True)
class Timing:
    """When an expression comes and goes, in frames.

    Attributes:
        onset: the last neutral frame before it rises.
        apex: the first frame of its full strength.
        offset: the last frame of its full strength.
        end: the first neutral frame after it.
    """

    onset: int
    apex: int
    offset: int
    end: int

    @classmethod
    def sample(cls, expression: str, num_frames: int, tempo: float, rng: np.random.Generator) -> "Timing":
        """A timing at random; surprise is quick and sadness slow, and falling takes longer than rising."""
        rise = RISE_SHARE[expression] * rng.uniform(0.8, 1.25) / tempo
        before, apex, slower, after = rng.uniform((0.06, 0.12, 1.0, 0.06), (0.18, 0.3, 1.6, 0.18))
        ends = np.cumsum([before, rise, apex, slower * rise, after])
        onset, top, offset, end = np.round(ends[:4] / ends[4] * (num_frames - 1)).astype(int).tolist()
        # In a short sequence a phase may round to nothing, and then takes a frame of the one beside it.
        last = num_frames - 1
        top = min(max(top, onset + 2), last - 1)
        offset = min(max(offset, top), last - 1)
        return cls(onset, top, offset, min(max(end, offset + 1), last))

    def strength(self, frame: ArrayLike) -> NDArray[np.float64]:
        """Strength at frames, from 0 to 1; it starts and stops without a jolt."""
        at = np.asarray(frame, np.float64)
        rise, fall = (at - self.onset) / (self.apex - self.onset), (self.end - at) / (self.end - self.offset)
        return _ease(np.minimum(rise, fall))


def play(units: ActionUnits, timing: Timing, num_frames: int, rng: np.random.Generator) -> list[ActionUnits]:
    """The action units of each frame; `units` are those of the apex, and each keeps a little to its own course."""
    course = timing.strength(np.arange(num_frames))
    spread = np.log(SPREAD)
    own = {name: course ** np.exp(rng.uniform(-spread, spread)) for name in units}
    return [
        {name: (left * float(own[name][t]), right * float(own[name][t])) for name, (left, right) in units.items()}
        for t in range(num_frames)
    ]


def _ease(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 to 1 by the path of least jerk, whose speed is 0 at both ends (Flash and Hogan, 1985)."""
    s = np.clip(share, 0, 1)
    return s**3 * (10 - 15 * s + 6 * s**2)


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
    manner: ActorStyle

    @classmethod
    def cast(cls, model: FaceModel, seed: int, number: int) -> "Subject":
        """Subject `number` of the world that `seed` stands for, whoever else is in it."""
        rng = np.random.default_rng([seed, number])
        identity = model.identity(rng)
        # Nominal, but a beard on an F would puzzle whoever looks at the scans.
        return cls(number, "M" if identity.look.stubble else "F", identity, ActorStyle.sample(rng))
