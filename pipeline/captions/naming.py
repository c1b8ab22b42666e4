"""Name the expression of a caption by expression knowledge, without a label.

The strengths a of a caption's movements, clipped to [0, 1.2], are compared with the variants P_v of an expression k,
all as vectors over what captions measure (a variant of which nothing is measured is left out):

    s_k = mean over the variants v of k of cos(a, P_v)

The name is the expression with the largest s_k, and neutral if no strength reaches its threshold.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smile_pipe.pipeline.captions.action_units import PHRASES, unit_number
from smile_pipe.pipeline.captions.geometry import FEATURES, feature_strengths
from smile_pipe.pipeline.captions.knowledge import Knowledge
from smile_pipe.pipeline.common.expressions import NEUTRAL
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.sample import Caption

NAMING_VERSION = 2
"""Version of the rule, part of the fingerprint of what depends on names: increase it if the same caption and knowledge
give another name."""
MAX_STRENGTH = 1.2
# Rounded, so that processors which round sums differently give the same name.
_DECIMALS, _SCORE_DECIMALS = 4, 6

AXES: dict[str, tuple[tuple[int, ...], ...]] = {
    "geometry": tuple(feature.units for feature in FEATURES),
    "au": tuple((number,) for number in PHRASES),
}
"""The axes of activity by the source of captions; each is the action units that it cannot distinguish."""


class Activity(Frozen):
    """What a face does, by its caption's numbers.

    Attributes:
        strengths: Strength on each of the `AXES` of the caption's source, from 0 to `MAX_STRENGTH`; 0 where it was not
            measured.
        is_neutral: Whether no strength reaches its threshold.
    """

    strengths: tuple[Annotated[float, Field(ge=0, le=MAX_STRENGTH)], ...]
    is_neutral: bool


def activity_of(caption: Caption) -> Activity:
    """Compute the activity of a face from the numbers of its caption."""
    if caption.source == "au":
        coded = {unit_number(name): intensity for name, intensity in caption.numbers.items()}
        return _activity([coded.get(number, 0.0) for (number,) in AXES["au"]], not any(coded.values()))
    found = list(feature_strengths(caption.numbers, caption.reference != "population"))
    strengths = {feature.phrase: strength for feature, strength, _ in found}
    is_neutral = not any(is_named for _, _, is_named in found)
    return _activity([strengths.get(feature.phrase, 0.0) for feature in FEATURES], is_neutral)


def _activity(strengths: Sequence[float], is_neutral: bool) -> Activity:
    clipped = np.round(np.clip(strengths, 0.0, MAX_STRENGTH), _DECIMALS)
    return Activity(strengths=tuple(clipped.tolist()), is_neutral=is_neutral)


class ExpressionNamer:
    """Names activities as one of some expressions.

    Attributes:
        classes: The expressions, in the order of columns.
        known: Whether each can be named: it has a prototype that captions can measure, or is neutral, bool [K].
    """

    def __init__(self, knowledge: Knowledge, classes: Sequence[str], source: str) -> None:
        """Prepare the prototypes.

        Args:
            knowledge: The prototypes.
            classes: Codes of the K expressions to choose from.
            source: Source of the captions, one of `AXES`.
        """
        self.classes = tuple(classes)
        self._variants = {k: _unit_variants(knowledge, name, source) for k, name in enumerate(self.classes)}
        self._variants = {k: variants for k, variants in self._variants.items() if len(variants)}
        self._neutral = self.classes.index(NEUTRAL) if NEUTRAL in self.classes else None
        self.known = np.array([k in self._variants or k == self._neutral for k in range(len(self.classes))])

    def scores(self, activity: Activity) -> NDArray[np.float64]:
        """Compute s_k, float64 [K]; -inf for expressions without a prototype, 0 for a face without any activity."""
        strengths = np.array(activity.strengths)
        length = float(np.sqrt((strengths * strengths).sum()))
        scores = np.full(len(self.classes), -np.inf)
        for k, variants_va in self._variants.items():
            scores[k] = (variants_va * strengths).sum(axis=1).mean() / length if length else 0.0
        return np.round(scores, _SCORE_DECIMALS)

    def name(self, activity: Activity) -> int | None:
        """Return the index of the expression; None if no known expression has anything in common with the activity."""
        if activity.is_neutral and self._neutral is not None:
            return self._neutral
        scores = self.scores(activity)
        return int(scores.argmax()) if scores.size and scores.max() > 0 else None


def _unit_variants(knowledge: Knowledge, name: str, source: str) -> NDArray[np.float64]:
    """The variants of an expression that captions can measure, as unit vectors over the axes, float64 [V, A]."""
    axes = AXES[source]
    rows = [
        [max(prototype.units.get(unit, 0.0) for unit in axis) for axis in axes]
        for prototype in knowledge.prototypes.get(name, ())
    ]
    variants_va = np.array([row for row in rows if any(row)]).reshape(-1, len(axes))
    return variants_va / np.sqrt((variants_va * variants_va).sum(axis=1, keepdims=True))
