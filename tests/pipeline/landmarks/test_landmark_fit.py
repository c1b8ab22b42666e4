"""The error that decides whether landmarks are those of a face is far from its limit on faces of any shape."""

from functools import cache

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from smile_pipe.pipeline.face_model.actor import ActorStyle, sample_action_units
from smile_pipe.pipeline.face_model.interface import Identity
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks.landmark_fit import MAX_ERROR, fit_landmarks, fit_similarity
from smile_pipe.pipeline.landmarks.mean_face import ORIGIN, SCHEMES, UNIT_MM

POSITIONS = SCHEMES[83].positions
HALVES = {"right": POSITIONS[:, 0] > 1, "left": POSITIONS[:, 0] < -1, "upper": POSITIONS[:, 1] < -50}


@cache
def faces() -> list[np.ndarray]:
    """Landmarks of subjects with 1.5 times the usual variation of shape, neutral and with strong expressions."""
    model, found = ParametricFace(), []
    for number in range(8):
        rng = np.random.default_rng(number)
        subject, style = model.identity(rng), ActorStyle.sample(rng)
        subject = Identity(1.5 * subject.shape, subject.appearance)
        units = [{}, *(sample_action_units(name, 4, style, rng) for name in ("AN", "DI", "FE", "HA", "SA", "SU"))]
        found += [model.mesh(subject, one).vertices[model.landmarks].astype(np.float64) for one in units]
    return found


def test_frame_of_a_whole_set_is_the_similarity_to_the_positions_of_the_anchors():
    anchors = SCHEMES[83].anchors
    goals = (np.array([anchor.position for anchor in anchors]) - ORIGIN) / UNIT_MM
    weights = np.array([anchor.weight for anchor in anchors])
    points = faces()[0]
    means = np.array([points[list(anchor.landmarks)].mean(axis=0) for anchor in anchors])
    for found, expected in zip(fit_landmarks(points).similarity, fit_similarity(means, goals, weights), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("half", HALVES)
def test_half_with_exchanged_sides_gives_the_same_fit(half):
    order = cdist(POSITIONS * (-1, 1, 1), POSITIONS).argmin(axis=1)
    for points in faces():
        known = np.where(HALVES[half][:, None], np.nan, points)
        one, other = fit_landmarks(known), fit_landmarks(known[order])
        np.testing.assert_allclose(other.similarity[1], one.similarity[1], atol=0.05)


def test_most_of_the_22_landmarks_with_exchanged_sides_give_the_same_fit():
    positions, rng = SCHEMES[22].positions, np.random.default_rng(0)
    order = cdist(positions * (-1, 1, 1), positions).argmin(axis=1)
    for _ in range(60):
        points = positions + rng.normal(0, 1.5, positions.shape)
        points[rng.permutation(22)[15:]] = np.nan
        one, other = fit_landmarks(points), fit_landmarks(points[order])
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(other.similarity[1], one.similarity[1], atol=1e-6)


def test_whole_faces_are_far_below_the_limit():
    errors = [fit_landmarks(points).error for points in faces()]
    assert max(errors) < 0.8 * MAX_ERROR and np.median(errors) < 0.2 * MAX_ERROR


@pytest.mark.parametrize("half", HALVES)
def test_halves_of_faces_are_below_the_limit(half):
    for points in faces():
        fit = fit_landmarks(np.where(HALVES[half][:, None], np.nan, points))
        assert fit is not None and fit.error < 0.9 * MAX_ERROR


@pytest.mark.parametrize("by", [-40, -2, -1, 1, 2, 16, 48])
def test_faces_in_another_order_are_rejected(by):
    assert all(fit_landmarks(np.roll(points, by, axis=0)) is None for points in faces())


def test_landmarks_of_a_ball_are_rejected():
    rng = np.random.default_rng(0)
    for num in SCHEMES:
        points = rng.normal(size=(num, 3))
        assert fit_landmarks(points / np.linalg.norm(points, axis=1, keepdims=True)) is None


def test_fit_of_kept_landmarks_is_nearly_the_same_fit():
    """Rejected landmarks are removed when a scan is read, and its frame is fitted to the others."""
    rng = np.random.default_rng(1)
    for points in faces():
        wrong = rng.permutation(len(points))[:6]
        bent = points.copy()
        bent[wrong] += rng.choice([-1, 1], (6, 3)) * (60, 50, 70)
        first = fit_landmarks(bent)
        again = fit_landmarks(np.where(first.is_used[:, None], bent, np.nan))
        assert again.is_used.tolist() == first.is_used.tolist() and not first.is_used[wrong].any()
        np.testing.assert_allclose(again.similarity[1], first.similarity[1], atol=0.05)
