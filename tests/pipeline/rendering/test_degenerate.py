"""Degenerate meshes: valid parts are drawn, invalid parts are skipped without side effects."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.shapes import card, sphere
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import Renderer, ViewImages
from smile_pipe.pipeline.rendering.cameras import Rig, build_views
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

SIZE = 48


@pytest.fixture(params=["perspective", "orthographic"])
def rig(request) -> Rig:
    return Rig.build(build_views("3", 30.0), SIZE, request.param)


def render_finite(renderer: Renderer, mesh: Mesh, rig: Rig) -> ViewImages:
    (images,) = renderer.render([mesh], [rig])
    for image in (images.depth, images.normal):
        assert np.isfinite(image).all()
    return images


def images_match(a: ViewImages, b: ViewImages) -> bool:
    close = np.abs(a.normal - b.normal).max() < 1e-5 and np.abs(a.rgb.astype(int) - b.rgb).max() <= 1
    return close and np.array_equal(a.depth, b.depth)


def add_faces(mesh: Mesh, faces: np.ndarray, vertices: np.ndarray | None = None) -> Mesh:
    more = mesh.vertices if vertices is None else np.concatenate([mesh.vertices, vertices.astype(np.float32)])
    return replace(mesh, vertices=more, faces=np.concatenate([mesh.faces, faces]).astype(np.int32))


def test_zero_area_and_duplicate_faces_change_nothing(renderer, rig):
    mesh = sphere(2, 0.7)
    plain = render_finite(renderer, mesh, rig)
    assert (plain.depth > 0).any()
    flat = np.array([[0, 0, 1], [5, 5, 5], [7, 9, 7]])
    assert images_match(render_finite(renderer, add_faces(mesh, flat), rig), plain)
    # All faces are duplicated, so the weights of the vertex normals do not change.
    assert images_match(render_finite(renderer, add_faces(mesh, mesh.faces), rig), plain)


def test_collinear_face_is_not_drawn(renderer, rig):
    line = np.array([[-0.5, -0.5, 0.0], [0, 0, 0], [0.5, 0.5, 0]])
    assert not render_finite(renderer, Mesh.build(line, np.array([[0, 1, 2]])), rig).depth.any()


def test_unused_vertices_change_nothing(renderer, rig):
    mesh = sphere(2, 0.7)
    stray = np.random.default_rng(0).normal(size=(50, 3)) * 3
    assert images_match(
        render_finite(renderer, add_faces(mesh, np.zeros((0, 3)), stray), rig), render_finite(renderer, mesh, rig)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_non_finite_vertex_removes_only_its_own_faces(renderer, rig, bad):
    mesh = sphere(2, 0.7)
    positions = np.array([[bad, 0, 0], [0, bad, 0.0]])
    first = len(mesh.vertices)
    broken = add_faces(mesh, np.array([[first, 0, 1], [first, first + 1, 2], [first, first, first]]), positions)
    # Only the front view: from other views a distant vertex is a point on the horizon.
    front = Rig(rig.cameras[:1], rig.size)
    assert images_match(render_finite(renderer, broken, front), render_finite(renderer, mesh, front))
    render_finite(renderer, broken, rig)


def test_mesh_behind_the_camera_is_not_drawn(renderer, rig):
    behind = replace(sphere(2, 0.7), vertices=sphere(2, 0.7).vertices + np.float32([0, 0, 40]))
    front = Rig(rig.cameras[:1], rig.size)
    assert not render_finite(renderer, behind, front).depth.any()


def test_single_triangle_is_drawn(renderer, rig):
    images = render_finite(
        renderer, Mesh.build(np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0.0]]), np.array([[0, 1, 2]])), rig
    )
    assert 0.2 < (images.depth[0] > 0).mean() < 0.5


def test_one_texel_texture_gives_its_colour(renderer, rig):
    texture = np.full((1, 1, 3), (200, 100, 50), np.uint8)
    mesh = card((-0.8, -0.8, 0), (1.6, 0, 0), (0, 1.6, 0), texture=texture)
    images = render_finite(renderer, mesh, rig)
    color = images.rgb[0, SIZE // 2, SIZE // 2]
    assert np.abs(color - np.array([200, 100, 50])).max() <= 1


def test_identical_texture_coordinates_give_one_colour(renderer, rig):
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mesh = card((-0.8, -0.8, 0), (1.6, 0, 0), (0, 1.6, 0), 3, texture)
    mesh = replace(mesh, uvs=np.full_like(mesh.uvs, 0.0))
    images = render_finite(renderer, mesh, rig)
    assert np.abs(images.rgb[0, SIZE // 2, SIZE // 2].astype(int) - texture[-1, 0]).max() <= 1


def test_huge_texture_coordinates_do_not_read_out_of_bounds(renderer, rig):
    texture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mesh = card((-0.8, -0.8, 0), (1.6, 0, 0), (0, 1.6, 0), 3, texture)
    far = np.where(np.indices(mesh.uvs.shape).sum(axis=0) % 2, 3.4e38, -3.4e38).astype(np.float32)
    images = render_finite(renderer, replace(mesh, uvs=far), rig)
    lit = {tuple(color) for color in images.rgb[0][images.depth[0] > 0]}
    assert lit and max(max(color) for color in lit) <= texture.max() and len(lit) < 4000


def test_two_million_faces_are_drawn_without_gaps(rig):
    side = 1000
    y, x = np.meshgrid(np.linspace(-0.9, 0.9, side + 1), np.linspace(-0.9, 0.9, side + 1), indexing="ij")
    vertices = np.stack([x, y, 0.3 * np.cos(3 * x) * np.cos(3 * y)], axis=-1).reshape(-1, 3)
    corner = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).ravel()
    a, b, c, d = corner, corner + 1, corner + side + 1, corner + side + 2
    mesh = Mesh.build(vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)]))
    assert len(mesh.faces) == 2_000_000
    images = render_finite(ZBufferRenderer(), mesh, rig)
    covered = images.depth[0, 12:-12, 12:-12]
    assert (covered > 0).all() and np.abs(np.diff(covered, axis=0)).max() < 0.06
