"""Renderers compared with images in closed form: the intersections of pixel rays with spheres, planes and boxes."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.rays import Rays, hit_card, hit_cube, hit_sphere
from helpers.shapes import card, cube, inside_out, join, painted, sphere, with_texture
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import AMBIENT, BACKGROUND, SKIN_TONE, Renderer, ViewImages
from smile_pipe.pipeline.rendering.cameras import HALF_SPAN, Rig, View, build_views, project
from smile_pipe.shards.sample import Camera

SIZE = 64
RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30)
FRONT = (View(name="front"),)
TILTED = (*build_views("3", 30.0), View(name="above", yaw=20.0, pitch=25.0))


@pytest.fixture(params=["perspective", "orthographic"])
def projection(request) -> str:
    return request.param


def render_one(renderer: Renderer, mesh: Mesh, rig: Rig) -> ViewImages:
    (images,) = renderer.render([mesh], [rig])
    return images


def test_sphere_has_outline_depth_and_normals_of_ray_intersections(renderer, projection):
    center, radius = (0.3, -0.2, 0.25), 0.6
    rig = Rig.build(TILTED, SIZE, projection)
    images = render_one(renderer, sphere(3, radius, center), rig)
    for v, camera in enumerate(rig.cameras):
        rays = Rays.of(camera, SIZE)
        depth, normals = hit_sphere(rays, center, radius)
        covered = images.depth[v] > 0
        assert covered.sum() == pytest.approx(np.isfinite(depth).sum(), rel=0.02)
        # The faces are up to 0.5 % of the radius inside the sphere; away from the outline there is no other error.
        inner = np.isfinite(depth) & (rays.facing(normals) > 0.5)
        assert covered[inner].all() and not covered[np.isnan(hit_sphere(rays, center, radius * 1.005)[0])].any()
        assert np.abs(images.depth[v] - depth)[inner].max() < 0.012
        cosines = (images.normal[v] * rays.image_normals(normals)).sum(axis=-1)[inner]
        assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 1.0


def test_interpolation_on_a_tilted_plane_is_perspective_correct(renderer, projection):
    # A ramp: the texture has u in red and v in green, so a pixel's colour is its texture coordinate. Texels are larger
    # than pixels, so mip level 0 is used.
    v, u = np.mgrid[:16, :16]
    ramp = np.stack([16 * u, 240 - 16 * v, np.full_like(u, 128)], axis=-1).astype(np.uint8)
    origin, along_u, along_v = np.array([-0.8, -0.9, 1.1]), np.array([1.5, 0.2, -2.2]), np.array([0.1, 1.8, 0.3])
    mesh = card(tuple(origin), tuple(along_u), tuple(along_v), texture=ramp)
    rig = Rig.build(TILTED, SIZE, projection)
    images = render_one(renderer, mesh, rig)
    for i, camera in enumerate(rig.cameras):
        rays = Rays.of(camera, SIZE)
        depth, uv, normal = hit_card(rays, origin, along_u, along_v)
        inside = ((uv > 0.04) & (uv < 0.96)).all(axis=-1)
        assert inside.sum() > 150
        light = AMBIENT + (1 - AMBIENT) * np.abs(rays.facing(normal))
        albedo = np.concatenate([uv * 256 - 8, np.full((SIZE, SIZE, 1), 128.0)], axis=-1)
        assert np.abs(images.rgb[i] - albedo * light[..., None])[inside].max() < 0.55
        assert np.abs(images.depth[i] - depth)[inside].max() < 1e-4
        assert np.abs(images.normal[i] - rays.image_normals(normal))[inside].max() < 1e-4


def test_cube_shows_its_near_sides_and_their_normals(renderer, projection):
    rig = Rig.build(TILTED, SIZE, projection)
    images = render_one(renderer, cube(0.55), rig)
    sides_seen = []
    for v, camera in enumerate(rig.cameras):
        rays = Rays.of(camera, SIZE)
        depth, normals, margin = hit_cube(rays, 0.55)
        sure = margin > 1e-3
        hit = sure & np.isfinite(depth)
        assert ((images.depth[v] > 0) == np.isfinite(depth))[sure].all()
        assert np.abs(images.depth[v] - depth)[hit].max() < 1e-4
        assert np.abs(images.normal[v] - rays.image_normals(normals))[hit].max() < 1e-4
        sides_seen.append(len(np.unique(normals[hit], axis=0)))
    assert sides_seen == [1, 2, 2, 3]


@pytest.mark.parametrize("near_is_first", [True, False])
def test_nearer_surface_hides_the_other(renderer, projection, near_is_first):
    near = painted(card((-0.4, -0.4, 0.5), (0.8, 0, 0), (0, 0.8, 0)), RED)
    far = painted(card((-0.9, -0.9, -0.5), (1.8, 0, 0), (0, 1.8, 0)), BLUE)
    rig = Rig.build(FRONT, SIZE, projection)
    images = render_one(renderer, join(*((near, far) if near_is_first else (far, near))), rig)
    middle, side = (0, SIZE // 2, SIZE // 2), (0, SIZE // 2, SIZE // 5)
    assert images.depth[middle] == pytest.approx(4.5, abs=1e-4) and images.depth[side] == pytest.approx(5.5, abs=1e-4)
    assert images.rgb[middle].argmax() == 0 and images.rgb[side].argmax() == 2


def test_texture_is_upright_and_not_mirrored(renderer, projection):
    texture = np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    mesh = card((-0.8, -0.8, 0), (1.6, 0, 0), (0, 1.6, 0), texture=texture)
    (rgb,) = render_one(renderer, mesh, Rig.build(FRONT, SIZE, projection)).rgb
    low, high = SIZE // 3, SIZE - SIZE // 3
    seen = np.array([[rgb[low, low], rgb[low, high]], [rgb[high, low], rgb[high, high]]])
    assert np.abs(seen - np.array([[RED, GREEN], [BLUE, YELLOW]])).max() < 8


def test_subjects_left_is_on_the_right_of_the_front_view_and_visible_in_the_left_view(renderer):
    wall = painted(card((0, -1, -0.7), (0, 2, 0), (0, 0, 1.4)), (128, 128, 128))
    on_the_left = painted(sphere(2, 0.3, (0.5, 0.1, 0)), RED)
    on_the_right = painted(sphere(2, 0.3, (-0.5, 0.1, 0)), BLUE)
    rig = Rig.build(build_views("3", 70.0), SIZE)
    images = render_one(renderer, join(wall, on_the_left, on_the_right), rig)
    color = images.rgb.astype(int)
    red, blue = color[..., 0] - color[..., 2] > 40, color[..., 2] - color[..., 0] > 40
    columns = np.arange(SIZE)
    assert columns[red[0].any(axis=0)].min() > SIZE / 2 > columns[blue[0].any(axis=0)].max()
    assert [camera.name for camera in rig.cameras] == ["front", "left", "right"]
    assert red[1].sum() > 4 * blue[1].sum() and blue[2].sum() > 4 * red[2].sum()


def test_projected_landmarks_match_rendered_pixels(renderer, projection):
    landmarks = np.array([(-0.5, 0.5, 0.3), (0.45, 0.55, 0.1), (0.05, 0.0, 0.5), (-0.4, -0.6, 0.2), (0.5, -0.45, 0.0)])
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    marks = [painted(sphere(2, 0.12, tuple(p)), c) for p, c in zip(landmarks, colors, strict=True)]
    rig = Rig.build(TILTED, SIZE, projection)
    images = render_one(renderer, join(*marks), rig)
    errors = []
    for v, camera in enumerate(rig.cameras):
        hue = images.rgb[v] > images.rgb[v].max(axis=-1, keepdims=True) / 2
        for (u, w, _), color in zip(project(camera, landmarks), colors, strict=True):
            row, column = np.nonzero((images.depth[v] > 0) & (hue == np.array(color, bool)).all(axis=-1))
            errors.append((column.mean() + 0.5 - u, row.mean() + 0.5 - w))
    assert np.abs(errors).max() < 0.35
    assert np.abs(np.mean(errors, axis=0)).max() < 0.06


def test_winding_of_faces_does_not_change_images(renderer, projection):
    texture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    rig = Rig.build(TILTED, SIZE, projection)
    for mesh in (cube(0.5), sphere(2, 0.8), card((-0.7, -0.8, 0.4), (1.5, 0, -0.6), (0, 1.6, 0), 3, texture)):
        a, b = render_one(renderer, mesh, rig), render_one(renderer, inside_out(mesh), rig)
        assert np.mean((a.depth > 0) != (b.depth > 0)) < 5e-4
        both_covered = (a.depth > 0) & (b.depth > 0)
        assert np.abs(a.depth - b.depth)[both_covered].max() < 1e-4
        assert np.quantile(np.abs(a.normal - b.normal)[both_covered].max(axis=-1), 0.99) < 1e-4
        assert np.quantile(np.abs(a.rgb.astype(int) - b.rgb)[both_covered].max(axis=-1), 0.99) <= 1


def test_uncovered_pixels_are_background_and_covered_pixels_have_unit_normals(renderer, projection):
    images = render_one(renderer, sphere(2, 0.7), Rig.build(TILTED, SIZE, projection))
    covered = images.depth > 0
    assert 0.2 < covered.mean() < 0.8
    assert (images.rgb[~covered] == BACKGROUND).all() and not images.normal[~covered].any()
    assert np.linalg.norm(images.normal[covered], axis=-1) == pytest.approx(1, abs=1e-5)
    assert (images.rgb.dtype, images.depth.dtype, images.normal.dtype) == (np.uint8, np.float32, np.float32)
    assert images.rgb.shape == images.normal.shape == (4, SIZE, SIZE, 3) and images.depth.shape == (4, SIZE, SIZE)


def test_mesh_without_colours_is_skin_toned_and_lit_from_the_camera(renderer, projection):
    rig = Rig.build(TILTED, SIZE, projection)
    images = render_one(renderer, sphere(3, 0.8), rig)
    for v, camera in enumerate(rig.cameras):
        rays = Rays.of(camera, SIZE)
        depth, normals = hit_sphere(rays, (0, 0, 0), 0.8)
        inner = np.isfinite(depth) & (rays.facing(normals) > 0.5)
        light = AMBIENT + (1 - AMBIENT) * rays.facing(normals)
        assert np.abs(images.rgb[v] - np.array(SKIN_TONE) * light[..., None])[inner].max() < 3


@pytest.mark.parametrize("pixels_per_cell", [4, 3.7, 1.31])
def test_plane_of_many_faces_has_no_cracks(renderer, projection, pixels_per_cell):
    # With 4, vertices and diagonals of the straight card lie exactly on pixel centres.
    pixel, num_cells = 2 * 1.15 / SIZE, int(48 / pixels_per_cell)
    side, start = num_cells * pixels_per_cell * pixel, -23.5 * pixel
    for depth in (0.0, 0.8):
        origin, along_u, along_v = np.array([start, start, 0.0]), np.array([side, 0, depth]), np.array([0, side, depth])
        mesh = card(tuple(origin), tuple(along_u), tuple(along_v), min(num_cells, 24))
        rig = Rig.build(FRONT, SIZE, projection)
        _, uv, _ = hit_card(Rays.of(rig.cameras[0], SIZE), origin, along_u, along_v)
        inside, outside = ((uv > 1e-3) & (uv < 1 - 1e-3)).all(axis=-1), ((uv < -1e-3) | (uv > 1 + 1e-3)).any(axis=-1)
        covered = render_one(renderer, mesh, rig).depth[0] > 0
        assert inside.sum() > 300 and covered[inside].all() and not covered[outside].any()


def test_no_face_is_lost_where_many_share_a_few_pixels(renderer):
    center, radius = (0.2, 0.1, 0.0), 0.12
    rig = Rig.build(FRONT, SIZE)
    (depth,) = render_one(renderer, sphere(5, radius, center), rig).depth
    expected, _ = hit_sphere(Rays.of(rig.cameras[0], SIZE), center, radius)
    inner = np.isfinite(hit_sphere(Rays.of(rig.cameras[0], SIZE), center, radius * 0.98)[0])
    assert inner.sum() > 25 and np.abs(depth - expected)[inner].max() < 1e-3


def test_texel_centres_are_at_halves_and_outside_clamps_to_the_edge(renderer):
    texture = np.random.default_rng(2).integers(0, 256, (4, 4, 3), np.uint8)
    # The card fills the image: nine pixels per texel, and around the texture a margin with uv outside 0..1.
    size, margin = 90, 27
    plain = card((-HALF_SPAN, -HALF_SPAN, 0), (2 * HALF_SPAN, 0, 0), (0, 2 * HALF_SPAN, 0))
    mesh = Mesh.build(plain.vertices, plain.faces, plain.uvs * 2.5 - 0.75, plain.face_uvs)
    (rgb,) = render_one(renderer, with_texture(mesh, texture), Rig.build(FRONT, size, "orthographic")).rgb
    texel = np.clip((np.arange(size) + 0.5 - margin) / 9 - 0.5, 0, 3)
    weights = np.maximum(1 - np.abs(texel[:, None] - np.arange(4)), 0)
    expected = np.einsum("yi,xj,ijc->yxc", weights, weights, texture)
    assert np.abs(rgb - expected).max() < 0.51


def test_texture_finer_than_pixels_is_averaged(renderer, projection):
    # Alternating black and white texels, eight per pixel: point samples would be black or white.
    checks = (255 * (np.indices((512, 512)).sum(axis=0) % 2)).astype(np.uint8)[..., None].repeat(3, axis=2)
    mesh = card((-1.1, -1.1, 0), (2.2, 0, 0), (0, 2.2, 0), 4, checks)
    images = render_one(renderer, mesh, Rig.build(FRONT, SIZE, projection))
    light = AMBIENT + (1 - AMBIENT) * Rays.of(Rig.build(FRONT, SIZE, projection).cameras[0], SIZE).facing((0, 0, 1))
    inner = np.s_[0, 4:-4, 4:-4]
    assert np.abs(images.rgb[inner] / light[4:-4, 4:-4, None] - 127.5).max() < 2


def test_face_that_reaches_behind_the_camera_is_not_drawn(renderer, projection):
    mesh, rig = sphere(2, 0.5), Rig.build(FRONT, SIZE, projection)
    stray = Mesh.build(np.array([[0, 0, 9], [0.3, 0.9, 0], [0.9, 0.3, 0.0]]), np.array([[0, 1, 2]]))
    alone, together = render_one(renderer, mesh, rig), render_one(renderer, join(mesh, stray), rig)
    assert np.array_equal(alone.depth, together.depth) and np.array_equal(alone.rgb, together.rgb)


def image_axes(vectors: np.ndarray, camera: Camera) -> np.ndarray:
    """Rotate frame vectors to image axes: x right, y up, z to the viewer."""
    return vectors @ np.array(camera.R) * [-1, 1, -1]


def test_translated_mesh_has_constant_flow_and_background_has_none(renderer, projection):
    shift = np.array([0.11, -0.07, 0.2], np.float32)
    mesh = sphere(2, 0.7)
    rig = Rig.build(TILTED, SIZE, projection)
    images = render_one(renderer, replace(mesh, flow=np.tile(shift, (len(mesh.vertices), 1))), rig)
    assert images.flow.shape == (4, SIZE, SIZE, 3) and images.flow.dtype == np.float32
    for v, camera in enumerate(rig.cameras):
        covered = images.depth[v] > 0
        assert covered.any() and not images.flow[v][~covered].any()
        assert np.abs(images.flow[v] - image_axes(shift, camera))[covered].max() < 1e-6


def test_flow_interpolation_is_perspective_correct(renderer, projection):
    # Flow is linear in position, so each pixel has the value at the intersection of its ray.
    stretch, shift = np.array([[0.3, -0.1, 0.2], [0.05, 0.4, -0.3], [-0.25, 0.15, 0.1]]), np.array([0.2, -0.3, 0.1])
    origin, along_u, along_v = np.array([-0.8, -0.9, 1.1]), np.array([1.5, 0.2, -2.2]), np.array([0.1, 1.8, 0.3])
    mesh = card(tuple(origin), tuple(along_u), tuple(along_v))
    mesh = replace(mesh, flow=(mesh.vertices @ stretch + shift).astype(np.float32))
    rig = Rig.build(TILTED, SIZE, projection)
    images = render_one(renderer, mesh, rig)
    for v, camera in enumerate(rig.cameras):
        rays = Rays.of(camera, SIZE)
        depth, uv, _ = hit_card(rays, origin, along_u, along_v)
        inside = ((uv > 0.01) & (uv < 0.99)).all(axis=-1)
        expected = image_axes(rays.points(depth) @ stretch + shift, camera)
        assert inside.sum() > 200 and np.abs(images.flow[v] - expected)[inside].max() < 1e-5


def test_flow_axes_are_right_up_and_towards_the_viewer(renderer):
    before, after = np.array([0.1, -0.3, 0.0]), np.array([-0.1, 0.2, 0.3])
    rig = Rig.build(TILTED, SIZE, "orthographic")
    old, new = sphere(2, 0.4, tuple(before)), sphere(2, 0.4, tuple(after))
    first = render_one(renderer, old, rig)
    second = render_one(renderer, replace(new, flow=new.vertices - old.vertices), rig)
    for v, camera in enumerate(rig.cameras):
        positions = []
        for images in (first, second):
            row, column = np.nonzero(images.depth[v])
            positions.append((column.mean(), -row.mean(), -images.depth[v][row, column].min() * camera.K[0][0]))
        flow = second.flow[v][second.depth[v] > 0].mean(axis=0)
        assert np.subtract(positions[1], positions[0]) / camera.K[0][0] == pytest.approx(flow, abs=0.02)


def test_back_faces_keep_the_sign_of_flow(renderer, projection):
    mesh = card((-0.7, -0.8, 0.4), (1.5, 0, -0.6), (0, 1.6, 0), 3)
    flow = np.random.default_rng(6).normal(size=mesh.vertices.shape).astype(np.float32)
    rig = Rig.build(TILTED, SIZE, projection)
    a, b = (render_one(renderer, replace(m, flow=flow), rig) for m in (mesh, inside_out(mesh)))
    both_covered = (a.depth > 0) & (b.depth > 0)
    assert np.abs(a.flow).max() > 1 and np.quantile(np.abs(a.flow - b.flow)[both_covered], 0.99) < 1e-4


def test_flow_is_rendered_if_present_and_changes_no_other_channel(renderer, projection):
    plain, rig = sphere(2, 0.7), Rig.build(TILTED, SIZE, projection)
    still, moved = renderer.render([plain, replace(plain, flow=plain.vertices / 9)], [rig, rig])
    assert still.flow is None and moved.flow is not None
    for channel in ("rgb", "depth", "normal"):
        assert np.array_equal(getattr(still, channel), getattr(moved, channel))


def test_no_meshes_give_no_images(renderer):
    assert renderer.render([], []) == []
