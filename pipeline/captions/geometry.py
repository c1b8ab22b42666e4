"""What captions speak of: each feature of a face, the measures that show it, and how much of it is worth a word.

A feature's score is a weighted sum of deviations (mm). Most weigh one measure; where two muscles move the same point, a
second measure takes the other muscle out.

Captions from what the mesh measures, with no label: where brows, lids, lips and chin are, against a resting face.

Goes in: landmarks in the canonical frame. Comes out: measures in millimetres, and words for how they differ from the
subject's own resting face, or from that of people in general. Promised: the same landmarks give the same words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.captions.action_units import PHRASES, caption, graded
from smile_pipe.pipeline.landmarks import regions
from smile_pipe.pipeline.landmarks.alignment import UNIT_MM


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


# The strongest so many are named: longer captions are nearly all different, and training pairs equal ones.
MAX_NAMED = 5
# Against people in general, a feature is named from so many standard deviations of resting people.
UNUSUAL = 2.0


@dataclass(frozen=True)
class Description:
    """A caption.

    Attributes:
        reference: what the face was measured against.
        numbers: by how much each measure differs from that, millimetres, to 0.01.
        strength: how much of an expression there is in all: 1 for each feature at its full action.
    """

    text: str
    reference: Literal["subject", "population"]
    numbers: dict[str, float]
    strength: float


def measure(landmarks: NDArray[np.float32]) -> dict[str, float] | None:
    """What can be measured of a face, by name (README.md says what each is), in millimetres of a face of mean size.

    Args:
        landmarks: float32 [22 | 68 | 83, 3] in the canonical frame; a missing point is NaN.

    Returns:
        The measures whose points are all there; None where there are none, or the set of landmarks is not known.
    """
    scheme = regions.PARTS.get(len(landmarks))
    if scheme is None:
        return None
    points = landmarks.astype(np.float64) * UNIT_MM
    eyes = [regions.select_points(points, numbers) for numbers in scheme.eyes]
    eye_line = float(np.mean([regions.left_right_ends(eye)[:, 1] for eye in eyes]))
    measures = _upper_face(points, scheme, eyes, eye_line) | _lower_face(points, scheme, eye_line)
    offsets = OFFSETS.get(len(landmarks), {})
    return {
        name: float(value) + offsets.get(name, 0.0) for name, value in measures.items() if np.isfinite(value)
    } or None


def describe(measures: Mapping[str, float], reference: Mapping[str, float] | None) -> Description:
    """The caption of a face by how its measures differ from those of a resting face.

    Args:
        measures: of the face, from `measure`.
        reference: of the same subject at rest, or of the first frame of a sequence. Where it is None or shares no
            measure with the face, the mean of people stands for it, and `Description.reference` says so.

    Raises:
        ValueError: `measures` is empty, so that nothing can be said.
    """
    if not measures:
        raise ValueError("there are no measures to describe")
    own = reference is not None and bool(measures.keys() & reference.keys())
    base = reference if reference is not None and own else POPULATION
    # The words follow from the rounded numbers, so that whoever reads the record can check them. + 0.0: no -0.0.
    numbers = {name: round(value - base[name], 2) + 0.0 for name, value in measures.items() if name in base}
    strengths = {}
    for feature in FEATURES:
        score = feature.score(numbers)
        least = feature.noticeable if own else max(feature.noticeable, UNUSUAL * feature.spread)
        if score is not None and score >= least:
            strengths[feature.phrase] = score / feature.full
    strongest = sorted(strengths, key=lambda phrase: -strengths[phrase])[:MAX_NAMED]
    text = caption(graded(phrase, strength) for phrase, strength in strengths.items() if phrase in strongest)
    return Description(text, "subject" if own else "population", numbers, sum(strengths.values()))


def _upper_face(
    points: regions.Points, scheme: regions.Parts, eyes: list[regions.Points], eye_line: float
) -> dict[str, float]:
    upper_lids, lower_lids = np.mean([regions.lid_heights(eye) for eye in eyes], axis=0)
    (inner, outer), (other_inner, other_outer) = (
        regions.brow_ends(regions.select_points(points, numbers)) for numbers in scheme.brows
    )
    return {
        "inner_brow_height": (inner[1] + other_inner[1]) / 2 - eye_line,
        "outer_brow_height": (outer[1] + other_outer[1]) / 2 - eye_line,
        "inner_brow_gap": abs(inner[0] - other_inner[0]),
        "eye_opening": upper_lids - lower_lids,
        "lower_lid_height": lower_lids - eye_line,
    }


def _lower_face(points: regions.Points, scheme: regions.Parts, eye_line: float) -> dict[str, float]:
    wings, middle = points[list(scheme.nose_wings)], points[list(scheme.nose_middle)]
    nose_base = np.concatenate([wings, middle]).mean(axis=0)
    lips = regions.select_points(points, scheme.outer_lips)
    corners, (upper, lower) = regions.left_right_ends(lips), regions.middle_points(lips)
    upper_inner, lower_inner = regions.middle_points(regions.select_points(points, scheme.inner_lips))
    # While a jaw drops, the corners of a slack mouth stay a third of the way from the upper to the lower lip.
    slack = (2 * upper[1] + lower[1]) / 3
    return {
        "nose_length": eye_line - nose_base[1],
        "nostril_lift": wings[:, 1].mean() - middle[:, 1].mean() if len(middle) else np.nan,
        "upper_lip_length": nose_base[1] - upper[1],
        "lip_corner_height": corners[:, 1].mean() - slack,
        "mouth_width": corners[1, 0] - corners[0, 0],
        "mouth_opening": upper_inner[1] - lower_inner[1],
        "lip_thickness": upper[1] - upper_inner[1] + lower_inner[1] - lower[1],
        "lip_protrusion": upper[2] - nose_base[2],
        "chin_drop": eye_line - points[scheme.chin, 1],
    }
