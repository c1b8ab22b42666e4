"""Views of the landmark detector: cameras, images, and the way back to the surface."""

from dataclasses import replace

import numpy as np
import pytest

from smile_pipe.pipeline.face_model.interface import Identity
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks.view_images import (
    bounds,
    directions_over_sphere,
    draw_views,
    ends,
    look_along,
    rotation_about,
)
from smile_pipe.pipeline.meshes.mesh import Mesh


@pytest.fixture(scope="module")
def face() -> Mesh:
    model = ParametricFace()
    identity = model.identity(np.random.default_rng(0))
    mesh = model.mesh(Identity(identity.shape * 0, identity.appearance), {})
    return replace(mesh, landmarks=mesh.vertices[model.landmarks])


def test_visible_points_come_back_to_where_they_are(face):
    points = face.landmarks[[4, 12, 20, 50, 54, 60]].astype(np.float64)
    views = draw_views(face, look_along(np.array([[0, 0, 1.0], [0.3, 0, 1]])), np.zeros((2, 3)), np.full(2, 105.0), 128)
    for view in range(2):
        lifted = views.lift(view, views.project(view, points)[:, :2])
        assert np.linalg.norm(lifted - points, axis=1).max() < 2


def test_image_axes_are_right_up_and_to_the_viewer(face):
    views = draw_views(face, np.eye(3)[None], np.zeros((1, 3)), np.array([105.0]), 64)
    normals = views.images[0]
    is_surface = normals[..., 2] > 0
    rows, columns = np.nonzero(is_surface)
    # The face bulges to the viewer: what is on the right of the image faces right, and its lower part faces down.
    assert normals[rows[columns > 45], columns[columns > 45], 0].mean() > 0.3
    chin = rows > rows.max() - 4
    assert normals[rows[chin], columns[chin], 1].mean() < 0
    heights = views.depths[0]
    assert np.nanargmax(np.nan_to_num(heights, nan=-np.inf)) // 64 in range(30, 44)  # the tip of the nose
    assert views.project(0, np.array([[50.0, 0, 0]]))[0, 0] > 0.5


def test_nothing_is_found_beside_the_surface(face):
    views = draw_views(face, np.eye(3)[None], np.zeros((1, 3)), np.array([105.0]), 64)
    assert np.isnan(views.lift(0, np.array([[0.02, 0.02], [0.5, 0.5]]))[:, 0]).tolist() == [True, False]


def test_unit_does_not_change_the_images(face):
    small = Mesh.build(face.vertices / np.float32(1024), face.faces)
    first, second = (
        draw_views(mesh, np.eye(3)[None], np.zeros((1, 3)), np.array([105.0 * scale]), 64).images
        for scale, mesh in ((1.0, face), (1 / 1024, small))
    )
    np.testing.assert_array_equal(first, second)


def test_bounds_ignore_debris(face):
    center, extent = bounds(face)
    num = len(face.faces) // 60
    debris = np.random.default_rng(0).normal((900, 0, 0), 0.4, (3 * num, 3))
    vertices = np.concatenate([face.vertices, debris.astype(np.float32)])
    faces = np.concatenate([face.faces, len(face.vertices) + np.arange(3 * num).reshape(num, 3)]).astype(np.int32)
    with_debris, extent_with_debris = bounds(Mesh.build(vertices, faces))
    assert np.abs(center - with_debris).max() < 1
    assert extent_with_debris == pytest.approx(extent, rel=0.02)
    assert 60 < extent < 110


def test_ends_of_a_scan_are_along_its_longest_axis_first():
    stick = np.random.default_rng(0).uniform((-50, -900, -90), (50, 900, 90), (900, 3))
    turn = rotation_about((1, 2, 3), 50)
    mesh = Mesh.build((stick @ turn).astype(np.float32), np.arange(900).reshape(300, 3))
    found = list(ends(mesh, (0.25, 0.5)))
    assert len(found) == 12
    (first, size), (second, _) = found[:2]
    assert 100 < size < 225
    assert sorted((np.array([first, second]) @ turn.T)[:, 1]) == pytest.approx([-600, 600], abs=200)


def test_directions_cover_the_sphere():
    directions = directions_over_sphere(26)
    cosines = directions @ directions.T - 2 * np.eye(26)
    assert np.degrees(np.arccos(cosines.max(axis=1))).max() < 45
    rotations = look_along(directions)
    np.testing.assert_allclose(rotations[:, :, 2], directions, atol=1e-8)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)


def test_rotation_turns_by_the_angle():
    turn = rotation_about((0, 1, 0), 90)
    np.testing.assert_allclose(np.array([0, 0, 1.0]) @ turn, [1, 0, 0], atol=1e-8)


@pytest.mark.parametrize("size", [257, 513, 1025])
def test_bounds_of_a_grid_do_not_depend_on_its_resolution(size):
    x, y = np.meshgrid(np.linspace(-100, 100, size), np.linspace(-100, 100, size))
    vertices = np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3).astype(np.float32)
    index = np.arange(size * size).reshape(size, size)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.stack([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)], axis=1).reshape(-1, 3)
    center, extent = bounds(Mesh(vertices, faces.astype(np.int32)))
    assert np.abs(center).max() < 3 and extent == pytest.approx(98, abs=3)
