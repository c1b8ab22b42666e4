"""Captions of synthetic faces with known action units: 83 landmarks (parametric) and 68 landmarks (ICT-FaceKit)."""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from helpers.paths import REPOSITORY
from smile_pipe.pipeline.captions.action_units import PHRASES, RELAXED
from smile_pipe.pipeline.captions.geometry import FEATURES, POPULATION, describe, measure
from smile_pipe.pipeline.face_model.ict import IctFace
from smile_pipe.pipeline.face_model.interface import FaceModel
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame

ICT_PATH = Path(os.environ.get("SMILE_PIPE_FACES", REPOSITORY.parent / "shared" / "faces")) / "ict_facekit.npz"
# Phrase that the caption of a face with one unit at full strength contains; it may contain others.
EXPECTED_PHRASES = {
    "AU1": PHRASES[1],
    "AU2": PHRASES[2],
    "AU4": PHRASES[4],
    "AU5": PHRASES[5],
    "AU7": PHRASES[7],
    "AU9": PHRASES[9],
    "AU10": PHRASES[10],
    "AU12": PHRASES[12],
    "AU15": PHRASES[15],
    "AU20": PHRASES[20],
    "AU23": "{}thinned lips",
    "AU26": PHRASES[25],
    "AU43": PHRASES[43],
}
MODELS = [
    "parametric",
    pytest.param("ict", marks=pytest.mark.skipif(not ICT_PATH.exists(), reason="the shared ICT-FaceKit is not there")),
]


@cache
def model(name: str) -> FaceModel:
    return ParametricFace() if name == "parametric" else IctFace(ICT_PATH)


@cache
def measures(name: str, subject: int, unit: str | None = None, strength: float = 1.0) -> dict[str, float]:
    """Measure a subject's face at rest or with one action unit on both sides."""
    face = model(name)
    mesh = face.mesh(
        face.identity(np.random.default_rng(subject)), {} if unit is None else {unit: (strength, strength)}
    )
    mesh = replace(mesh, landmarks=mesh.vertices[face.landmarks])
    return measure(apply_frame(mesh, canonical_frame(mesh)).landmarks)


def phrases_without_adverbs(text: str) -> set[str]:
    return {part.replace("slightly ", "").replace("strongly ", "") for part in text.split(", ")}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unit", EXPECTED_PHRASES)
def test_caption_names_an_action_unit_relative_to_the_resting_face(name, unit):
    for subject in (1, 2):
        text = describe(measures(name, subject, unit), measures(name, subject)).text
        assert EXPECTED_PHRASES[unit].format("") in phrases_without_adverbs(text), text


@pytest.mark.skipif(not ICT_PATH.exists(), reason="the shared ICT-FaceKit is not there")
@pytest.mark.parametrize("unit", EXPECTED_PHRASES)
def test_weak_action_is_slight_or_omitted_and_strong_action_is_not(unit):
    weak, strong = (describe(measures("ict", 1, unit, strength), measures("ict", 1)).text for strength in (0.3, 1.0))
    assert not {EXPECTED_PHRASES[unit].format(""), EXPECTED_PHRASES[unit].format("strongly ")} & set(
        weak.split(", ")
    ), weak
    assert {EXPECTED_PHRASES[unit].format(""), EXPECTED_PHRASES[unit].format("strongly ")} & set(strong.split(", ")), (
        strong
    )


@pytest.mark.parametrize("name", MODELS)
def test_opposite_actions_are_not_named_together(name):
    opposites = [(1, 4), (5, 43), (12, 15), (26, 17)]
    for unit in EXPECTED_PHRASES:
        phrases = phrases_without_adverbs(describe(measures(name, 1, unit), measures(name, 1)).text)
        for one, other in opposites:
            assert not {PHRASES[one].format(""), PHRASES[other].format("")} <= phrases


@pytest.mark.parametrize("name", MODELS)
def test_resting_faces_are_near_the_population_mean_in_each_landmark_set(name):
    resting = [measures(name, subject) for subject in range(30)]
    for feature in FEATURES:
        mean = np.mean([feature.score({key: face[key] - POPULATION[key] for key in face}) for face in resting])
        assert abs(mean) < 1.2 * feature.resting_std, feature.phrase


@pytest.mark.skipif(not ICT_PATH.exists(), reason="the shared ICT-FaceKit is not there")
def test_most_resting_faces_are_relaxed_relative_to_the_population():
    texts = [describe(measures("ict", subject), None).text for subject in range(30)]
    assert texts.count(RELAXED) > len(texts) / 2
