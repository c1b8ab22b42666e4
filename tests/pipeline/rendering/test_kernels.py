"""Compiled loops of the `zbuffer` renderer and mip maps, compared with plain reference implementations."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.shapes import sphere
from smile_pipe.pipeline.rendering.cameras import Rig, View
from smile_pipe.pipeline.rendering.kernels.faces import NO_FACE, decode_face, rasterise
from smile_pipe.pipeline.rendering.kernels.vertices import OFFSCREEN, project, vertex_normals
from smile_pipe.pipeline.rendering.mipmap import MipMap, texels_covered

SIZE = 24


def snapped_vertices(points: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """Vertices like the output of `project`; points [V, 2] are in 1/256 pixel."""
    near = nearness.astype(np.float32).view(np.int32)
    return np.concatenate([points, near[:, None]], axis=1).astype(np.int32)


def count_covering_faces(snapped: np.ndarray, faces: np.ndarray, perspective: bool = True) -> np.ndarray:
    """Count the faces that cover each pixel, drawing them one by one."""
    count, zbuffer = np.zeros((SIZE, SIZE), int), np.empty((SIZE, SIZE), np.int64)
    for face in faces:
        rasterise(snapped, face[None], perspective, zbuffer)
        count += zbuffer != NO_FACE
    return count


class TestRasterise:
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1, 64, 128]))
    def test_faces_with_shared_edges_cover_each_pixel_exactly_once(self, seed, grid):
        # A sheet of triangles over the whole image with perturbed vertices, some on pixel centres and edges.
        draw = np.random.default_rng(seed)
        num = 7
        at = np.stack(np.meshgrid(np.arange(num), np.arange(num)), axis=-1).reshape(-1, 2) * 1100 - 200
        inner = ((at > at.min()) & (at < at.max())).all(axis=1)
        points = (at + inner[:, None] * draw.integers(-150, 150, at.shape)) // grid * grid
        corner = np.arange(num * num).reshape(num, num)[:-1, :-1].ravel()
        a, b, c, d = corner, corner + 1, corner + num, corner + num + 1
        turned = draw.random(len(a)) < 0.5
        halves = np.where(turned[:, None], np.stack([a, b, c, b, d, c], 1), np.stack([a, b, d, a, d, c], 1))
        faces = halves.reshape(-1, 3).astype(np.int32)
        faces[::3] = faces[::3, ::-1]  # seen from behind
        count = count_covering_faces(
            snapped_vertices(points, np.ones(len(points))), faces[draw.permutation(len(faces))]
        )
        assert (count == 1).all()

    def test_nearest_face_wins_and_ties_go_to_the_first(self):
        square = np.array([[0, 0], [SIZE * 256, 0], [0, SIZE * 256], [SIZE * 256, SIZE * 256]])
        points = np.tile(square, (3, 1))
        faces = np.array([[0, 1, 2], [4, 5, 6], [8, 9, 10]], np.int32)
        zbuffer = np.empty((SIZE, SIZE), np.int64)
        for nearness, expected in (((1, 2, 2), 1), ((3, 2, 2), 0), ((1, 2, 2.0000002), 2)):
            rasterise(snapped_vertices(points, np.repeat(nearness, 4)), faces, True, zbuffer)
            assert decode_face(zbuffer[0, 0]) == expected and zbuffer[-1, -1] == NO_FACE
            # Orthographic views have minus the depth.
            rasterise(snapped_vertices(points, np.repeat(nearness, 4) - 9.0), faces, False, zbuffer)
            assert decode_face(zbuffer[0, 0]) == (expected if nearness[2] == 2 else 1)

    def test_nearness_is_linear_on_the_screen(self):
        # Two intersecting faces: the visible face changes only where they meet.
        points = np.tile(np.array([[-256, -256], [100 * 256, -256], [-256, 100 * 256]]), (2, 1))
        near = np.array([1.0, 1.0, 1.0, 0.0, 101.0 / 12, 0.0])  # of the second, 1 at u = 11 from where it is 0
        zbuffer = np.empty((SIZE, SIZE), np.int64)
        rasterise(snapped_vertices(points, near), np.array([[0, 1, 2], [3, 4, 5]], np.int32), True, zbuffer)
        second = (np.arange(SIZE) + 0.5 + 1) * near[4] / 101 > 1
        assert np.array_equal(np.vectorize(decode_face)(zbuffer), np.tile(second.astype(int), (SIZE, 1)))

    def test_faces_of_offscreen_vertices_are_skipped(self):
        snapped = snapped_vertices(np.array([[0, 0], [OFFSCREEN, 0], [0, 5000]]), np.ones(3))
        assert not count_covering_faces(snapped, np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]], np.int32)).any()

    @pytest.mark.parametrize("corners", [[0, 0, 1], [2, 2, 2]])
    def test_zero_area_face_covers_no_pixel(self, corners):
        snapped = snapped_vertices(np.array([[0, 0], [3000, 3000], [128, 128]]), np.ones(3))
        assert not count_covering_faces(snapped, np.array([corners], np.int32)).any()


class TestProject:
    @pytest.mark.parametrize("bad", [(0, 0, 9), (0, 0, 5), (np.nan, 0, 0), (np.inf, 0, 0), (1e9, 0, 0)])
    @pytest.mark.parametrize("projection", ["perspective", "orthographic"])
    def test_undrawable_vertex_is_offscreen(self, bad, projection):
        rig = Rig.build((View(name="front"),), SIZE, projection)
        vertices = np.array([(0.1, 0.2, 0.3), bad], np.float32)
        screen, snapped = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int32)
        R, T, K = rig.rotations[0], rig.translations[0], rig.intrinsics[0]
        project(vertices, R, T, K, rig.is_perspective, screen, snapped)
        assert snapped[1, 0] == OFFSCREEN and np.abs(snapped[0, :2] / 256 - screen[0, :2]).max() <= 1 / 512


def test_vertex_normals_are_area_weighted_means():
    mesh = sphere(2, 0.6)
    expected = np.zeros(mesh.vertices.shape)
    for face in mesh.faces:
        a, b, c = mesh.vertices[face].astype(float)
        expected[face] += np.cross(b - a, c - a)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(vertex_normals(mesh.vertices, mesh.faces) - expected).max() < 1e-5


def area_means(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over equal parts of an image; source texels are weighted by their area inside the part."""

    def parts(size: int, num: int) -> np.ndarray:
        edges = np.linspace(0, size, num + 1)
        low, high = np.maximum(edges[:-1, None], np.arange(size)), np.minimum(edges[1:, None], np.arange(1, size + 1))
        return np.maximum(high - low, 0) * num / size

    return np.einsum("yi,xj,ijc->yxc", parts(image.shape[0], height), parts(image.shape[1], width), image)


class TestMipMap:
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
    def test_each_level_is_the_area_mean_of_the_level_before(self, height, width, seed):
        texture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        mipmap = MipMap.build(texture)
        levels = [
            mipmap.texels[first : first + h * w].view(np.uint8).reshape(h, w, 4)[..., :3]
            for first, h, w in mipmap.levels
        ]
        assert np.array_equal(levels[0], texture) and levels[-1].shape == (1, 1, 3)
        assert len(mipmap.texels) == sum(level.size // 3 for level in levels)
        for larger, smaller in pairwise(levels):
            assert smaller.shape[:2] == tuple(max(side // 2, 1) for side in larger.shape[:2])
            assert np.abs(smaller - area_means(larger.astype(float), *smaller.shape[:2])).max() <= 0.501

    def test_levels_do_not_get_brighter(self):
        # Every mean of four ends in .5.
        texture = np.tile(np.array([[100, 101], [100, 101]], np.uint8), (128, 128))[..., None].repeat(3, axis=2)
        mipmap = MipMap.build(texture)
        first, height, width = mipmap.levels[1]
        level = mipmap.texels[first : first + height * width].view(np.uint8).reshape(-1, 4)[:, :3]
        assert (level.mean(axis=0) == 100.5).all()

    def test_texels_covered_is_twice_the_area_in_texels(self):
        uvs = np.array([[0, 0], [0.5, 0], [0, 1], [1, 1]], np.float32)
        covered = texels_covered(np.array([[0, 1, 2], [1, 3, 2], [0, 0, 3]], np.int32), uvs, 64, 32)
        assert covered.tolist() == [1024, 2048, 0]
