"""Captions from what the mesh measures, with no label: where brows, lids, lips and chin are, against a resting face.

Goes in: landmarks in the canonical frame. Comes out: measures in millimetres, and words for how they differ from the
subject's own resting face, or from that of people in general. Promised: the same landmarks give the same words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.prompts import landmark_parts as parts
from pipeline.prompts.features import FEATURES, OFFSETS, POPULATION
from pipeline.prompts.phrases import caption, graded
from pipeline.rendering.frame import UNIT_MM

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
    scheme = parts.PARTS.get(len(landmarks))
    if scheme is None:
        return None
    points = landmarks.astype(np.float64) * UNIT_MM
    eyes = [parts.group(points, numbers) for numbers in scheme.eyes]
    eye_line = float(np.mean([parts.far_points(eye)[:, 1] for eye in eyes]))
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
    points: parts.Points, scheme: parts.Parts, eyes: list[parts.Points], eye_line: float
) -> dict[str, float]:
    upper_lids, lower_lids = np.mean([parts.lid_heights(eye) for eye in eyes], axis=0)
    (inner, outer), (other_inner, other_outer) = (parts.ends(parts.group(points, numbers)) for numbers in scheme.brows)
    return {
        "inner_brow_height": (inner[1] + other_inner[1]) / 2 - eye_line,
        "outer_brow_height": (outer[1] + other_outer[1]) / 2 - eye_line,
        "inner_brow_gap": abs(inner[0] - other_inner[0]),
        "eye_opening": upper_lids - lower_lids,
        "lower_lid_height": lower_lids - eye_line,
    }


def _lower_face(points: parts.Points, scheme: parts.Parts, eye_line: float) -> dict[str, float]:
    wings, middle = points[list(scheme.nose_wings)], points[list(scheme.nose_middle)]
    nose_base = np.concatenate([wings, middle]).mean(axis=0)
    lips = parts.group(points, scheme.outer_lips)
    corners, (upper, lower) = parts.far_points(lips), parts.middle_pair(lips)
    upper_inner, lower_inner = parts.middle_pair(parts.group(points, scheme.inner_lips))
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
