"""Synthetic subjects and their expressions: action units of an expression, its timing, and differences of subjects.

A scan has the action units of an expression at a level. In a sequence the expression goes from neutral through onset,
apex and offset to neutral; the first and the last frame are neutral, and strength changes smoothly. All numbers are our
choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smile_pipe.pipeline.face_model.interface import ActionUnits, FaceModel, Identity

# Strength of an expression at the levels 1 to 4.
LEVELS = {1: 0.38, 2: 0.6, 3: 0.8, 4: 1.0}

Units = Mapping[str, float]

# Prototypes of each expression: action units with their strengths at level 4. They follow the combinations that Ekman
# and Friesen list for the basic emotions (Unmasking the Face, 1975; EMFACS); strengths and selection are ours.
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

# Action units that can be slightly active in any expression.
BACKGROUND_UNITS = ("AU1", "AU2", "AU4", "AU5", "AU7", "AU10", "AU12", "AU14", "AU15", "AU17", "AU18", "AU24")


@dataclass(frozen=True)
class ActorStyle:
    """The expression style of one subject, shared by all of the subject's scans.

    Attributes:
        gain: Strength of each action unit relative to the average.
        left: Relative excess strength of the left side of the face.
        prototype: Index of the prototype of each expression.
        tempo: Speed of the subject's expressions relative to the average.
    """

    gain: Mapping[str, float]
    left: float
    prototype: Mapping[str, int]
    tempo: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "ActorStyle":
        """Draw the style of a subject."""
        prototypes = [prototype for variants in PROTOTYPES.values() for prototype in variants]
        units = sorted({unit for prototype in prototypes for unit in prototype} | set(BACKGROUND_UNITS))
        return cls(
            gain={unit: float(np.clip(rng.normal(1, 0.1), 0.75, 1.25)) for unit in units},
            left=float(np.clip(rng.normal(0, 0.05), -0.12, 0.12)),
            prototype={code: int(rng.integers(len(variants))) for code, variants in PROTOTYPES.items()},
            tempo=float(np.clip(rng.normal(1, 0.15), 0.7, 1.4)),
        )


def sample_action_units(expression: str, level: int, style: ActorStyle, rng: np.random.Generator) -> ActionUnits:
    """Draw the action units of one scan.

    Args:
        expression: A key of `smile_pipe.pipeline.common.expressions.EXPRESSIONS`.
        level: Intensity from 1 to 4; ignored for a neutral face.
        style: The subject's style.
        rng: Random generator of this scan.
    """
    units: dict[str, tuple[float, float]] = {}
    for name, strength in PROTOTYPES[expression][style.prototype[expression]].items():
        # The noise is smaller than the step between levels, so a higher level is a stronger expression.
        amount = strength * LEVELS.get(level, 0.0) * style.gain[name] * float(np.clip(rng.normal(1, 0.04), 0.9, 1.1))
        units[name] = _left_right(amount, style.left + rng.normal(0, 0.03))
    for name in rng.choice(BACKGROUND_UNITS, size=3, replace=False).tolist():
        left, right = units.get(name, (0.0, 0.0))
        extra = _left_right(float(rng.uniform(0, 0.06)), rng.normal(0, 0.3))
        units[name] = (left + extra[0], right + extra[1])
    return units


def _left_right(amount: float, left: float) -> tuple[float, float]:
    return max(amount * (1 + left), 0.0), max(amount * (1 - left), 0.0)


# A neutral frame, one frame of the rise, the apex, a neutral frame, and one spare frame.
MIN_FRAMES = 5
# Duration of the rise of each expression at an average tempo, as a share of the sequence (before normalisation to 1).
RISE_SHARE = {"AN": 0.2, "DI": 0.19, "FE": 0.16, "HA": 0.2, "SA": 0.27, "SU": 0.13}
# Largest lead or lag of an action unit: it has the common strength to the power of 1/x ... x.
MAX_TIMING_EXPONENT = 1.35


@dataclass(frozen=True)
class Timing:
    """Temporal phases of an expression, as frame numbers.

    Attributes:
        onset: Last neutral frame before the expression.
        apex: First frame at full strength.
        offset: Last frame at full strength.
        end: First neutral frame after the expression.
    """

    onset: int
    apex: int
    offset: int
    end: int

    @classmethod
    def sample(cls, expression: str, num_frames: int, tempo: float, rng: np.random.Generator) -> "Timing":
        """Draw a timing; surprise is quick, sadness is slow, and the fall is slower than the rise.

        Args:
            expression: Code of a basic expression.
            num_frames: Length of the sequence, at least `MIN_FRAMES`.
            tempo: Speed of the subject's expressions relative to the average.
            rng: Random generator of this sequence.
        """
        rise = RISE_SHARE[expression] * rng.uniform(0.8, 1.25) / tempo
        before, apex, slower, after = rng.uniform((0.06, 0.12, 1.0, 0.06), (0.18, 0.3, 1.6, 0.18))
        ends = np.cumsum([before, rise, apex, slower * rise, after])
        onset, top, offset, end = np.round(ends[:4] / ends[4] * (num_frames - 1)).astype(int).tolist()
        # In a short sequence a phase can round to zero frames; it then takes a frame from its neighbour.
        last = num_frames - 1
        top = min(max(top, onset + 2), last - 1)
        offset = min(max(offset, top), last - 1)
        return cls(onset, top, offset, min(max(end, offset + 1), last))

    def strength(self, frame: ArrayLike) -> NDArray[np.float64]:
        """Compute the strength at frames, from 0 to 1; its derivative is 0 at both ends of each phase."""
        at = np.asarray(frame, np.float64)
        rise, fall = (at - self.onset) / (self.apex - self.onset), (self.end - at) / (self.end - self.offset)
        return _ease(np.minimum(rise, fall))


def animate(units: ActionUnits, timing: Timing, num_frames: int, rng: np.random.Generator) -> list[ActionUnits]:
    """Draw the action units of each frame; each unit leads or lags the common strength slightly.

    Args:
        units: Action units of the apex.
        timing: Phases of the expression.
        num_frames: Length of the sequence.
        rng: Random generator of this sequence.
    """
    strength = timing.strength(np.arange(num_frames))
    bound = np.log(MAX_TIMING_EXPONENT)
    strengths = {name: strength ** np.exp(rng.uniform(-bound, bound)) for name in units}
    return [
        {
            name: (left * float(strengths[name][t]), right * float(strengths[name][t]))
            for name, (left, right) in units.items()
        }
        for t in range(num_frames)
    ]


def _ease(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimum-jerk interpolation from 0 to 1, with speed 0 at both ends (Flash and Hogan, 1985)."""
    s = np.clip(share, 0, 1)
    return s**3 * (10 - 15 * s + 6 * s**2)


@dataclass(frozen=True)
class Subject:
    """One synthetic subject.

    Attributes:
        number: Number of the subject, from 1.
        sex: "F" or "M"; nominal.
        identity: Shape and appearance of the face.
        style: Expression style.
    """

    number: int
    sex: str
    identity: Identity
    style: ActorStyle

    @classmethod
    def create(cls, model: FaceModel, seed: int, number: int) -> "Subject":
        """Create subject `number`; it depends on `seed` and `number` only, not on the other subjects."""
        rng = np.random.default_rng([seed, number])
        identity = model.identity(rng)
        # Nominal, but a bearded subject with the letter F would confuse users.
        return cls(number, "M" if identity.appearance.stubble else "F", identity, ActorStyle.sample(rng))
