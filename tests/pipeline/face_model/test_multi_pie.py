"""The 68 landmarks on the parametric face."""

import numpy as np
import pytest

from smile_pipe.pipeline.face_model.interface import Identity
from smile_pipe.pipeline.face_model.multi_pie import multi_pie_vertices
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmark_training.faces import MIRRORED


@pytest.fixture(scope="module")
def model() -> ParametricFace:
    return ParametricFace()


def points(model: ParametricFace, units: dict[str, tuple[float, float]]) -> np.ndarray:
    identity = model.identity(np.random.default_rng(0))
    mesh = model.mesh(Identity(identity.shape * 0, identity.appearance), units)
    return mesh.vertices[multi_pie_vertices(model.chart)].astype(np.float64)


def test_landmarks_are_68_different_vertices_that_mirror_each_other(model):
    neutral = points(model, {})
    assert len(set(multi_pie_vertices(model.chart).tolist())) == 68
    np.testing.assert_allclose(neutral, neutral[MIRRORED] * (-1, 1, 1), atol=1e-3)
    assert (neutral[[0, 17, 36, 48, 60], 0] < 0).all()  # the subject's right side comes first


def test_lips_and_lids_open_between_their_landmarks(model):
    neutral, surprised = points(model, {}), points(model, {"AU5": (1, 1), "AU26": (1, 1), "AU25": (1, 1)})
    for upper, lower in ((62, 66), (37, 41), (38, 40), (43, 47), (44, 46)):
        assert neutral[upper, 1] - neutral[lower, 1] > -0.01
        assert surprised[upper, 1] - surprised[lower, 1] > neutral[upper, 1] - neutral[lower, 1] + 2
    assert surprised[8, 1] < neutral[8, 1] - 5  # the chin
    for still in (27, 30, 33, 36, 45):
        assert np.linalg.norm(surprised[still] - neutral[still]) < 1.5


def test_parts_are_in_the_order_of_multi_pie(model):
    neutral = points(model, {})
    assert neutral[:17, 1].argmin() == 8
    assert (np.diff(neutral[17:27, 0]) > 0).all()  # brows from the subject's right to the left
    assert (np.diff(neutral[27:31, 1]) < 0).all()  # down the ridge of the nose
    assert (np.diff(neutral[31:36, 0]) > 0).all()
    assert (np.diff(neutral[48:55, 0]) > 0).all() and (np.diff(neutral[54:60, 0]) < 0).all()
    assert (np.diff(neutral[60:65, 0]) > 0).all() and (np.diff(neutral[64:68, 0]) < 0).all()
