"""What captions speak of: each feature of a face, the measures that show it, and how much of it is worth a word.

A feature's score is a weighted sum of deviations (mm). Most weigh one measure; where two muscles move the same point, a
second measure takes the other muscle out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.prompts.action_units import PHRASES


@dataclass(frozen=True)
class Feature:
    """A thing to say of a face.

    Attributes:
        phrase: the words, with `{}` in the place of the adverb.
        weights: what a millimetre of each measure counts.
        noticeable: the score from which it is named against the subject's own resting face.
        spread: the standard deviation of the score over resting people.
        full: the score of the action at its strongest.
    """

    phrase: str
    weights: Mapping[str, float]
    noticeable: float
    spread: float
    full: float

    def score(self, deviations: Mapping[str, float]) -> float | None:
        """The weighted sum; None where a measure is missing."""
        if not self.weights.keys() <= deviations.keys():
            return None
        return sum(weight * deviations[name] for name, weight in self.weights.items())


# From the forehead down. `noticeable` and `full` are ours, chosen on the ICT faces of subjects 1-10 against their own
# resting faces: the score of an action unit at a quarter of its strength (more, where another would be taken for it),
# and at all of it. `spread` is measured on 100 other ICT subjects (101-200) at rest.
FEATURES = (
    Feature(PHRASES[1], {"inner_brow_height": 1}, 1.1, 1.65, 4.4),
    Feature(PHRASES[2], {"outer_brow_height": 1}, 1.3, 1.68, 5.4),
    Feature(PHRASES[4], {"inner_brow_gap": -1}, 0.6, 1.04, 3.5),
    Feature(PHRASES[5], {"eye_opening": 1}, 0.5, 1.12, 2.3),
    Feature(PHRASES[7], {"lower_lid_height": 1}, 0.45, 0.56, 2.4),
    Feature(PHRASES[43], {"eye_opening": -1, "lower_lid_height": -1}, 2.5, 1.04, 7.3),
    Feature(PHRASES[9], {"nostril_lift": 1, "upper_lip_length": 0.25}, 1.9, 0.83, 5.3),
    Feature(PHRASES[10], {"upper_lip_length": -1, "nose_length": -1}, 2.55, 2.08, 10.5),
    Feature(PHRASES[12], {"lip_corner_height": 1, "mouth_width": 0.3}, 2.0, 1.67, 9.7),
    Feature(PHRASES[15], {"lip_corner_height": -1, "mouth_width": -0.1, "mouth_opening": -0.1}, 1.0, 1.42, 3.5),
    Feature(PHRASES[20], {"mouth_width": 1, "lip_corner_height": -1.9, "chin_drop": 0.5}, 9.2, 4.46, 16.5),
    Feature("lips {}pushed forward", {"lip_protrusion": 1}, 1.5, 1.96, 6.5),
    Feature("{}thinned lips", {"lip_thickness": -1}, 2.3, 2.90, 7.3),
    Feature(PHRASES[25], {"mouth_opening": 1}, 3.2, 1.33, 23.0),
    Feature(PHRASES[26], {"chin_drop": 1, "nostril_lift": -1}, 7.0, 4.42, 25.0),
    Feature(PHRASES[17], {"chin_drop": -1, "nostril_lift": 1}, 3.0, 4.42, 8.5),
)
# The mean of each measure (mm) over the same 100 resting faces, by their 68 landmarks.
POPULATION = {
    "inner_brow_height": 26.48,
    "outer_brow_height": 22.42,
    "inner_brow_gap": 23.44,
    "eye_opening": 8.22,
    "lower_lid_height": -2.37,
    "nose_length": 43.61,
    "nostril_lift": 0.47,
    "upper_lip_length": 12.61,
    "lip_corner_height": -4.42,
    "mouth_width": 51.21,
    "mouth_opening": 2.04,
    "lip_thickness": 18.43,
    "lip_protrusion": 8.21,
    "chin_drop": 108.48,
}
# Other sets of landmarks mark other places. What to add to their measures so that a resting face comes out at the mean
# above: for 22 by the nearest of the 68 on those faces, for 83 on 100 parametric faces of ours. Only captions against
# people in general depend on it, and they are as rough as it is.
OFFSETS = {
    22: {"outer_brow_height": 4.2, "nose_length": 4.3, "upper_lip_length": -4.1, "lip_protrusion": -5.2},
    83: {
        "inner_brow_height": 6.8,
        "outer_brow_height": -0.9,
        "inner_brow_gap": 2.7,
        "eye_opening": -2.0,
        "lower_lid_height": 0.1,
        "nose_length": 0.6,
        "nostril_lift": -11.3,
        "upper_lip_length": -9.4,
        "lip_corner_height": -4.4,
        "mouth_width": -0.8,
        "mouth_opening": 2.0,
        "lip_thickness": 2.8,
        "lip_protrusion": 7.2,
        "chin_drop": -8.3,
    },
}
