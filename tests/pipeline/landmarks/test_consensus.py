"""Consensus over views: pose of the face, and one point of each landmark."""

import numpy as np
import pytest

from smile_pipe.pipeline.landmarks.consensus import Candidates, ShapeModel, agree, find_pose, fit_pose
from smile_pipe.pipeline.landmarks.view_images import rotation_about

NUM_VIEWS, NUM_POINTS = 10, 13


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def mean(rng) -> np.ndarray:
    return rng.normal(0, 40, (NUM_POINTS, 3))


R = rotation_about((1, 2, 3), 130)
SCALE, T = 0.02, np.array([4.0, -5.0, 6.0])


def seen(mean, rng, share_of_outliers):
    points = np.repeat((SCALE * mean @ R + T)[None], NUM_VIEWS, axis=0)
    points += rng.normal(0, 1.0 * SCALE, points.shape)
    is_outlier = rng.uniform(size=points.shape[:2]) < share_of_outliers
    points[is_outlier] += rng.normal(0, 60 * SCALE, (int(is_outlier.sum()), 3))
    return Candidates(points, np.full(points.shape[:2], 0.8))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_pose_is_found_among_outliers(mean, rng, share):
    pose = find_pose(seen(mean, rng, share), mean)
    assert pose.scale == pytest.approx(SCALE, rel=0.03)
    assert np.abs(pose.R - R).max() < 0.05
    assert np.abs(pose.T - T).max() < 2 * SCALE
    assert pose.support > 0.6


def test_pose_is_found_although_most_of_each_view_is_wrong_together(mean, rng):
    candidates = seen(mean, rng, 0.0)
    points = candidates.points.copy()
    for view in range(NUM_VIEWS):
        wrong = rng.permutation(NUM_POINTS)[:8]
        points[view, wrong] += rng.normal(0, 90 * SCALE, 3)
    pose = find_pose(Candidates(points, candidates.heights), mean)
    assert np.abs(pose.R - R).max() < 0.05
    assert np.abs(pose.T - T).max() < 2 * SCALE


def test_points_at_random_have_little_support(mean, rng):
    assert find_pose(seen(mean, rng, 1.0), mean).support < 0.4


def test_pose_of_another_scale_is_not_found(mean, rng):
    candidates = seen(mean, rng, 0.0)
    assert find_pose(candidates, mean, (SCALE / 2, SCALE * 2)).scale == find_pose(candidates, mean).scale
    assert find_pose(candidates, mean, (SCALE * 2, np.inf)) is None
    assert find_pose(candidates, mean, (0.0, SCALE / 2)) is None


def test_without_candidates_there_is_no_pose(mean):
    nothing = Candidates(np.full((NUM_VIEWS, NUM_POINTS, 3), np.nan), np.zeros((NUM_VIEWS, NUM_POINTS)))
    assert find_pose(nothing, mean) is None


def test_pose_is_never_mirrored(mean, rng):
    mirrored = seen(mean * (-1, 1, 1), rng, 0.0)
    pose = find_pose(mirrored, mean)
    assert np.linalg.det(pose.R) == pytest.approx(1, abs=1e-5)
    assert pose.support < 0.6


@pytest.fixture
def faces(mean) -> ShapeModel:
    """Faces that differ in height only, by 20 % at one standard deviation."""
    return ShapeModel(mean, 0.2 * mean[None] * np.array([0, 1.0, 0]))


def test_a_view_that_sees_something_else_is_outvoted(faces):
    expected = SCALE * faces.mean @ R + T
    points = np.repeat(expected[None], 3, axis=0)
    points[1] += 20 * SCALE
    heights = np.full((3, NUM_POINTS), 0.5)
    heights[1] = 0.6
    pose = fit_pose(faces.mean, expected, np.ones(NUM_POINTS))
    found, confidence = agree(Candidates(points, heights), faces, pose)
    assert np.linalg.norm(found - expected, axis=1).max() < 1.5 * SCALE
    assert (confidence > 0.4).all()


def test_a_landmark_that_no_view_shows_is_implied_by_the_others(faces):
    moved = SCALE * (faces.mean + 0.7 * faces.modes[0]) @ R + T
    heights = np.full((3, NUM_POINTS), 0.9)
    hidden = int(np.abs(faces.mean[:, 1]).argmax())
    heights[:, hidden] = 0
    points = np.where(heights[..., None] > 0, moved, np.nan)
    pose = fit_pose(faces.mean, SCALE * faces.mean @ R + T, np.ones(NUM_POINTS))
    found, confidence = agree(Candidates(points, heights), faces, pose)
    assert confidence[hidden] == 0 and np.delete(confidence, hidden).min() > 0.8
    assert np.linalg.norm(moved[hidden] - pose.to_scan(faces.mean)[hidden]) > 4 * SCALE
    assert np.linalg.norm(found - moved, axis=1).max() < SCALE


def test_a_point_far_from_any_face_is_replaced(faces):
    expected = SCALE * faces.mean @ R + T
    points = np.repeat(expected[None], 3, axis=0)
    points[:, 4] += 60 * SCALE
    pose = fit_pose(faces.mean, expected, np.ones(NUM_POINTS))
    found, confidence = agree(Candidates(points, np.full((3, NUM_POINTS), 0.9)), faces, pose)
    assert confidence[4] == 0
    assert np.linalg.norm(found - expected, axis=1).max() < 5 * SCALE


def test_unit_does_not_change_the_result(mean, rng):
    first = seen(mean, rng, 0.3)
    second = Candidates(first.points * 1024, first.heights)
    one, other = find_pose(first, mean), find_pose(second, mean)
    np.testing.assert_allclose(one.R, other.R, atol=1e-6)
    assert other.scale == pytest.approx(1024 * one.scale, rel=1e-6)
