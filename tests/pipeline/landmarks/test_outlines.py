"""Outlines drawn through landmarks."""

import itertools

import numpy as np
import pytest

from smile_pipe.pipeline.landmarks.outlines import HALF_WIDTH, _segments, draw_outlines, has_outlines
from smile_pipe.pipeline.landmarks.regions import PARTS
from smile_pipe.pipeline.rendering.cameras import Rig, View, project

RIG = Rig.build((View(name="front"), View(name="left", yaw=30.0)), 96)


def face(num_landmarks: int, seed: int = 0) -> np.ndarray:
    """Random points within half a frame unit."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (num_landmarks, 3)).astype(np.float32)


def distance_to_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    along = end - start
    share = np.clip((point - start) @ along / (along @ along), 0, 1)
    return float(np.linalg.norm(point - start - share * along))


def test_pixels_equal_a_plain_loop_over_the_lips():
    landmarks = face(68)
    images = draw_outlines(landmarks, RIG)
    rings = [list(range(48, 60)), list(range(60, 68))]
    for image, camera in zip(images, RIG.cameras, strict=True):
        points = project(camera, landmarks)[:, :2]
        for row in range(0, 96, 5):
            for column in range(0, 96, 5):
                centre = np.array([column + 0.5, row + 0.5])
                nearest = min(
                    distance_to_segment(centre, points[start], points[end])
                    for ring in rings
                    for start, end in zip(ring, [*ring[1:], ring[0]], strict=True)
                )
                expected = 255 * max(0, 1 - (nearest / (HALF_WIDTH * 96)) ** 2) ** 2
                assert abs(int(image[row, column, 2]) - expected) <= 1


@pytest.mark.parametrize("num_landmarks", sorted(PARTS))
def test_every_set_has_brows_eyes_and_lips_in_their_components(num_landmarks):
    landmarks = np.full((num_landmarks, 3), np.nan, np.float32)
    for component, numbers in enumerate((PARTS[num_landmarks].brows[0], PARTS[num_landmarks].eyes[1])):
        landmarks[:] = np.nan
        landmarks[list(numbers)] = face(len(numbers))
        painted = draw_outlines(landmarks, RIG).any(axis=(0, 1, 2))
        assert painted.tolist() == [component == other for other in range(3)]
    landmarks[:] = np.nan
    landmarks[list(PARTS[num_landmarks].outer_lips)] = face(len(PARTS[num_landmarks].outer_lips))
    assert draw_outlines(landmarks, RIG).any(axis=(0, 1, 2)).tolist() == [False, False, True]


def test_lips_of_22_landmarks_go_around_the_mouth():
    landmarks = np.full((22, 3), np.nan, np.float32)
    # Corners, upper lip, lower lip, in the order of Bosphorus.
    landmarks[[15, 16, 17, 20]] = [(0.3, 0, 0), (-0.3, 0, 0), (0, 0.2, 0), (0, -0.2, 0)]
    image = draw_outlines(landmarks, RIG)[0]
    columns = project(RIG.cameras[0], np.array([[0.15, 0.1, 0], [0.0, 0.0, 0]]))[:, :2].astype(int)
    (u, v), (middle_u, middle_v) = columns
    assert image[v, u, 2] > 100 and image[middle_v, middle_u, 2] == 0


def test_lines_to_a_missing_point_are_not_drawn():
    landmarks = face(68)
    landmarks[48:] = np.nan
    images = draw_outlines(landmarks, RIG)
    assert images[..., 0].any() and images[..., 1].any() and not images[..., 2].any()


def test_points_far_outside_or_on_one_place_do_no_harm():
    landmarks = face(68)
    landmarks[48:60] = 0.1
    landmarks[36] = (1e6, -1e6, 0)
    assert draw_outlines(landmarks, RIG)[..., 2].any()


@pytest.mark.parametrize("landmarks", [None, face(5), np.full((68, 3), np.nan, np.float32)])
def test_without_known_landmarks_nothing_is_drawn(landmarks):
    assert not has_outlines(landmarks)
    assert not draw_outlines(landmarks, RIG).any()


def test_size_of_the_image_changes_only_the_scale():
    small, large = draw_outlines(face(68), RIG), draw_outlines(face(68), Rig.build((View(name="front"),), 192))
    reduced = large[0].reshape(96, 2, 96, 2, 3).astype(float).mean(axis=(1, 3))
    assert abs(reduced - small[0]).mean() < 2


@pytest.mark.parametrize(
    ("num_landmarks", "closed", "open_ones"),
    [
        # Points along each line: eyes and lips are closed; brows are closed only if both of their edges are marked.
        (22, [(6, 7), (8, 9)], [(0, 1, 2), (3, 4, 5), (12, 14)]),
        (
            68,
            [range(36, 42), range(42, 48), range(48, 60), range(60, 68)],
            [range(17, 22), range(22, 27), (31, 33, 35)],
        ),
        (83, [range(0, 8), range(8, 16), range(16, 26), range(26, 36), range(48, 60)], [(39, 41, 42, 44)]),
    ],
)
def test_lines_are_closed_or_open(num_landmarks, closed, open_ones):
    drawn = set(zip(*(numbers.tolist() for numbers in _segments(num_landmarks)[:2]), strict=True))
    for line in map(list, closed):
        assert drawn.issuperset(itertools.pairwise([*line, line[0]]))
    for line in map(list, open_ones):
        assert drawn.issuperset(itertools.pairwise(line))
        assert (line[-1], line[0]) not in drawn
