"""Captions from geometry, without labels: positions of brows, lids, lips and chin, compared with a resting face.

Landmarks in the canonical frame give measures in millimetres (`measure`). Their deviations from the subject's resting
face, or from the population mean, give the caption (`describe`). Equal landmarks give equal captions.

A feature's score is a weighted sum of deviations (mm). Most features use one measure; where two muscles move the same
point, a second measure cancels the other muscle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.captions.action_units import MAX_PHRASES, PHRASES, join_phrases, with_intensity
from smile_pipe.pipeline.landmarks import regions
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM


@dataclass(frozen=True)
class Feature:
    """A feature that a caption can name.

    Attributes:
        phrase: Text, with `{}` in place of the adverb.
        weights: Weight of each measure's deviation (1/mm).
        threshold: Smallest score at which the feature is named, relative to the subject's own resting face.
        resting_std: Standard deviation of the score over resting faces.
        full_score: Score of the action at full strength.
        units: Action units that move what it measures in this direction; prototypes of expressions are compared by
            them (`naming.py`).
    """

    phrase: str
    weights: Mapping[str, float]
    threshold: float
    resting_std: float
    full_score: float
    units: tuple[int, ...]

    def score(self, deviations: Mapping[str, float]) -> float | None:
        """Return the weighted sum of the deviations (mm), or None if a measure is missing."""
        if not self.weights.keys() <= deviations.keys():
            return None
        return sum(weight * deviations[name] for name, weight in self.weights.items())

    def minimum(self, *, has_reference: bool) -> float:
        """Return the smallest score at which the feature is named, relative to the subject or to the population."""
        return self.threshold if has_reference else max(self.threshold, POPULATION_THRESHOLD_STDS * self.resting_std)


# From the forehead down. `threshold` and `full_score` are our choice, from the ICT faces of subjects 1-10 relative to
# their own resting faces: the scores of an action unit at a quarter of its strength (more if it could be confused with
# another unit) and at full strength. `resting_std` is measured on 100 other ICT subjects (101-200) at rest.
FEATURES = (
    Feature(PHRASES[1], {"inner_brow_height": 1}, 1.18, 1.58, 4.7, (1,)),
    Feature(PHRASES[2], {"outer_brow_height": 1}, 1.65, 1.44, 5.4, (2,)),
    Feature(PHRASES[4], {"inner_brow_gap": -1}, 0.6, 0.93, 3.5, (4,)),
    Feature(PHRASES[5], {"eye_opening": 1}, 0.5, 1.15, 2.3, (5,)),
    Feature(PHRASES[7], {"lower_lid_height": 1}, 0.45, 0.55, 2.4, (6, 7)),
    Feature(PHRASES[43], {"eye_opening": -1, "lower_lid_height": -1}, 2.5, 1.02, 7.3, (43, 64)),
    Feature(PHRASES[9], {"nostril_lift": 1, "upper_lip_length": 0.25}, 1.75, 0.89, 4.9, (9,)),
    Feature(PHRASES[10], {"upper_lip_length": -1, "nose_length": -1}, 3.21, 2.38, 13.2, (10,)),
    Feature(PHRASES[12], {"lip_corner_height": 1, "mouth_width": 0.25}, 2.2, 1.51, 9.1, (12,)),
    Feature(PHRASES[15], {"lip_corner_height": -1, "mouth_width": -0.1, "mouth_opening": -0.1}, 1.0, 1.39, 3.5, (15,)),
    Feature(PHRASES[20], {"mouth_width": 1, "lip_corner_height": -1.9, "chin_drop": 0.5}, 9.2, 4.53, 16.5, (20,)),
    Feature("lips {}pushed forward", {"lip_protrusion": 1}, 1.5, 2.13, 6.5, (18, 22)),
    Feature("{}thinned lips", {"lip_thickness": -1}, 2.3, 3.02, 7.3, (23, 24)),
    Feature(PHRASES[25], {"mouth_opening": 1}, 3.2, 1.26, 23.0, (25,)),
    Feature(PHRASES[26], {"chin_drop": 1}, 7.0, 4.17, 25.0, (26, 27)),
    Feature(PHRASES[17], {"chin_drop": -1}, 2.6, 4.17, 8.5, (17,)),
)
# The mean of each measure (mm) over the same 100 resting faces, by their 68 landmarks.
POPULATION = {
    "inner_brow_height": 24.81,
    "outer_brow_height": 21.97,
    "inner_brow_gap": 22.73,
    "eye_opening": 7.94,
    "lower_lid_height": -2.51,
    "nose_length": 43.42,
    "nostril_lift": 0.81,
    "upper_lip_length": 12.58,
    "lip_corner_height": -3.52,
    "mouth_width": 49.66,
    "mouth_opening": 1.96,
    "lip_thickness": 17.77,
    "lip_protrusion": 7.35,
    "chin_drop": 106.07,
}
# Other landmark sets mark other points. These offsets (mm) move the mean of resting faces to the mean above. They are
# measured with the nearest of the 68 points on those faces (22 landmarks) and on 100 of our parametric faces (83
# landmarks). Only captions relative to the population depend on them, and share their inaccuracy.
OFFSETS = {
    22: {
        "inner_brow_height": -1.8,
        "outer_brow_height": 3.4,
        "inner_brow_gap": -1.0,
        "nose_length": 3.4,
        "upper_lip_length": -4.4,
        "lip_corner_height": 0.8,
        "mouth_width": -2.2,
        "lip_thickness": -0.9,
        "lip_protrusion": -6.1,
        "chin_drop": -3.9,
    },
    83: {
        "inner_brow_height": 4.5,
        "outer_brow_height": -1.1,
        "inner_brow_gap": 2.2,
        "eye_opening": -2.2,
        "lower_lid_height": -0.3,
        "nose_length": 1.9,
        "nostril_lift": -10.9,
        "upper_lip_length": -9.1,
        "lip_corner_height": -3.0,
        "mouth_width": -1.7,
        "mouth_opening": 2.0,
        "lip_thickness": 2.1,
        "lip_protrusion": 5.4,
        "chin_drop": -9.4,
    },
}


# Relative to the population, smallest score at which a feature is named, in standard deviations of resting faces.
POPULATION_THRESHOLD_STDS = 2.0


@dataclass(frozen=True)
class Description:
    """A caption and its data.

    Attributes:
        text: The caption.
        reference: The resting face that the measures were compared with.
        numbers: Deviation of each measure from the reference, millimetres, rounded to 0.01.
        strength: Total strength of the expression: 1 for each feature at full strength.
    """

    text: str
    reference: Literal["subject", "population"]
    numbers: dict[str, float]
    strength: float


def measure(landmarks: NDArray[np.float32]) -> dict[str, float] | None:
    """Measure a face.

    Args:
        landmarks: float32 [22 | 68 | 83, 3] in the canonical frame; a missing point is NaN.

    Returns:
        Measures by name (defined in README.md), in millimetres of a face of mean size, without those with a missing
        point. None if there are none, or if the landmark set is unknown.
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
    """Describe a face by the deviations of its measures from those of a resting face.

    Args:
        measures: Measures of the face, from `measure`.
        reference: Measures of the same subject at rest, or of the first frame of the sequence. If it is None or has no
            measure in common with the face, the population mean is used; see `Description.reference`.

    Raises:
        ValueError: `measures` is empty.
    """
    if not measures:
        raise ValueError("there are no measures to describe")
    has_reference = reference is not None and bool(measures.keys() & reference.keys())
    base = reference if reference is not None and has_reference else POPULATION
    # The caption is made from the rounded numbers, so it can be reproduced from the record. + 0.0 avoids -0.0.
    numbers = {name: round(value - base[name], 2) + 0.0 for name, value in measures.items() if name in base}
    strengths = {
        feature.phrase: strength
        for feature, strength, is_named in feature_strengths(numbers, has_reference)
        if is_named
    }
    strongest = sorted(strengths, key=lambda phrase: -strengths[phrase])[:MAX_PHRASES]
    text = join_phrases(
        with_intensity(phrase, strength) for phrase, strength in strengths.items() if phrase in strongest
    )
    return Description(text, "subject" if has_reference else "population", numbers, sum(strengths.values()))


def feature_strengths(numbers: Mapping[str, float], has_reference: bool) -> Iterator[tuple[Feature, float, bool]]:
    """Yield the strength of each feature that can be computed, from the forehead down.

    Args:
        numbers: Deviations of measures (mm) from a resting face.
        has_reference: Whether they are from the subject's own resting face, and not from the population mean.

    Yields:
        A feature, its strength (1 at full strength, negative for the opposite movement), and whether its score reaches
        its threshold, so that a caption can name it.
    """
    for feature in FEATURES:
        score = feature.score(numbers)
        if score is not None:
            yield feature, score / feature.full_score, score >= feature.minimum(has_reference=has_reference)


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
    # While the jaw drops, the corners of a relaxed mouth are a third of the way from the upper to the lower lip.
    relaxed_corner = (2 * upper[1] + lower[1]) / 3
    return {
        "nose_length": eye_line - nose_base[1],
        "nostril_lift": wings[:, 1].mean() - middle[:, 1].mean() if len(middle) else np.nan,
        "upper_lip_length": nose_base[1] - upper[1],
        "lip_corner_height": corners[:, 1].mean() - relaxed_corner,
        "mouth_width": corners[1, 0] - corners[0, 0],
        "mouth_opening": upper_inner[1] - lower_inner[1],
        "lip_thickness": upper[1] - upper_inner[1] + lower_inner[1] - lower[1],
        "lip_protrusion": upper[2] - nose_base[2],
        "chin_drop": eye_line - points[scheme.chin, 1],
    }
