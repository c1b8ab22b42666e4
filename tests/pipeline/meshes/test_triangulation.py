"""Triangles of polygons: fans of convex ones, and no triangle outside the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_pipe.pipeline.meshes import triangulation
from smile_pipe.pipeline.meshes.triangulation import fan_triangles, triangulate


def _polygon_area(flat: np.ndarray) -> float:
    x, y = flat.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _areas(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _star(rng: np.random.Generator, count: int) -> np.ndarray:
    """A polygon around the origin that does not cross itself, with random radii."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, count)) * 0.2 + np.linspace(0, 2 * np.pi, count, endpoint=False) * 0.8
    return rng.uniform(0.1, 1, (count, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 40), st.booleans())
def test_triangles_fill_a_concave_polygon_and_nothing_else(seed: int, count: int, turned: bool) -> None:
    rng = np.random.default_rng(seed)
    flat = _star(rng, count)[:: -1 if turned else 1]
    plane = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2]
    points = np.concatenate([rng.random((5, 3)), flat @ plane.T + 100])
    corners = np.concatenate([[0, 1, 2, -1, 3, 4, -1], np.arange(5, 5 + count), [-1, 2, 1, 0]]).astype(np.int32)
    faces, positions = triangulate(points, corners, np.arange(len(corners), dtype=np.int32))
    assert np.array_equal(corners[positions], faces)
    assert faces[0].tolist() == [0, 1, 2] and faces[-1].tolist() == [2, 1, 0]
    inner = faces[1:-1]
    assert len(inner) == count - 2 and set(inner.ravel()) == set(range(5, 5 + count))
    assert _areas(points, inner).sum() == pytest.approx(_polygon_area(flat), rel=1e-9)
    # All triangles have the winding of the polygon.
    normals = np.cross(points[inner[:, 1]] - points[inner[:, 0]], points[inner[:, 2]] - points[inner[:, 0]])
    assert (normals @ np.cross(*plane.T) * (-1 if turned else 1) > -1e-12).all()


def test_convex_polygons_stay_fans() -> None:
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles), 0.01 * np.cos(5 * angles)], axis=1)
    corners = np.array([*range(9), -1], np.int32)
    assert np.array_equal(triangulate(points, corners)[0], fan_triangles(corners))


@pytest.mark.parametrize(
    "flat",
    [
        [[0, 0], [4, 4], [4, 0], [0, 4]],
        [[0, 0], [1, 0], [2, 0], [3, 0]],
        [[0, 0]] * 5,
        [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0], [3, 3], [3, 6], [6, 6], [6, 3], [3, 3]],
    ],
    ids=["crosses itself", "a line", "a point", "with a hole"],
)
def test_every_polygon_gives_all_its_triangles(flat: list[list[float]]) -> None:
    points = np.column_stack([flat, np.zeros(len(flat))])
    (faces,) = triangulate(points, np.array([*range(len(flat)), -1], np.int32))
    assert len(faces) == len(flat) - 2 and set(faces.ravel()) == set(range(len(flat)))
    if len(flat) == 10:
        assert _areas(points, faces).sum() == pytest.approx(81 - 9)


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangulation, "_MAX_EAR_TESTS", 1)
    flat = _star(np.random.default_rng(0), 50)
    points = np.column_stack([flat, np.zeros(50)])
    (faces,) = triangulate(points, np.array([*range(50), -1], np.int32))
    assert len(faces) == 48 and set(faces.ravel()) == set(range(50))


@pytest.mark.parametrize("wrong", [-2, 5, 2**31 - 1])
def test_wrong_indices_are_left_to_the_caller(wrong: int) -> None:
    (faces,) = triangulate(np.eye(3), np.array([0, 1, 2, wrong, -1], np.int32))
    assert faces.tolist() == [[0, 1, 2], [0, 2, wrong]]
