"""How an expression runs over time: neutral, onset, apex, offset and neutral again, as posed sequences have it.

Goes in: an expression, how many frames, a subject's tempo and a random generator. Comes out: the action units of each
frame. Promised: the first and the last frame are neutral, and nothing jumps. All figures here are ours.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.faces.model import ActionUnits

# Room for a neutral frame, one of the rise, the apex and a neutral frame, and one to spare.
MIN_FRAMES = 5
# How long an expression rises at an average tempo, as a share of the sequence before all shares are brought to 1.
RISE = {"AN": 0.2, "DI": 0.19, "FE": 0.16, "HA": 0.2, "SA": 0.27, "SU": 0.13}
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
        rise = RISE[expression] * rng.uniform(0.8, 1.25) / tempo
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
