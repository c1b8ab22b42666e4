"""The compiled loops of the `zbuffer` renderer and the smaller copies of textures, against plain references."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.shapes import sphere
from smile_pipe.pipeline.rendering.cameras import Rig, View
from smile_pipe.pipeline.rendering.kernels.faces import NO_FACE, face_of, rasterise
from smile_pipe.pipeline.rendering.kernels.vertices import NOWHERE, project, vertex_normals
from smile_pipe.pipeline.rendering.mipmap import MipMap, texels_covered

SIZE = 24


def snapped_at(points: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """Vertices as `project` leaves them: points [V, 2] in 1/256 pixel."""
    near = nearness.astype(np.float32).view(np.int32)
    return np.concatenate([points, near[:, None]], axis=1).astype(np.int32)


def hits(snapped: np.ndarray, faces: np.ndarray, perspective: bool = True) -> np.ndarray:
    """How many faces cover each pixel, drawn one by one."""
    count, words = np.zeros((SIZE, SIZE), int), np.empty((SIZE, SIZE), np.int64)
    for face in faces:
        rasterise(snapped, face[None], perspective, words)
        count += words != NO_FACE
    return count


class TestRasterise:
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1, 64, 128]))
    def test_faces_that_share_edges_hit_each_pixel_exactly_once(self, seed, grid):
        # A sheet of triangles over the whole image, its vertices shaken, some of them onto pixel centres and edges.
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
        count = hits(snapped_at(points, np.ones(len(points))), faces[draw.permutation(len(faces))])
        assert (count == 1).all()

    def test_the_nearest_face_is_found_and_of_equals_the_first(self):
        square = np.array([[0, 0], [SIZE * 256, 0], [0, SIZE * 256], [SIZE * 256, SIZE * 256]])
        points = np.tile(square, (3, 1))
        faces = np.array([[0, 1, 2], [4, 5, 6], [8, 9, 10]], np.int32)
        words = np.empty((SIZE, SIZE), np.int64)
        for nearness, expected in (((1, 2, 2), 1), ((3, 2, 2), 0), ((1, 2, 2.0000002), 2)):
            rasterise(snapped_at(points, np.repeat(nearness, 4)), faces, True, words)
            assert face_of(words[0, 0]) == expected and words[-1, -1] == NO_FACE
            # Orthographic views have minus the depth.
            rasterise(snapped_at(points, np.repeat(nearness, 4) - 9.0), faces, False, words)
            assert face_of(words[0, 0]) == (expected if nearness[2] == 2 else 1)

    def test_nearness_is_linear_on_the_screen_over_a_face_of_many_pixels(self):
        # Two faces that cross: which is seen changes where they meet, and nowhere else.
        points = np.tile(np.array([[-256, -256], [100 * 256, -256], [-256, 100 * 256]]), (2, 1))
        near = np.array([1.0, 1.0, 1.0, 0.0, 101.0 / 12, 0.0])  # of the second, 1 at u = 11 from where it is 0
        words = np.empty((SIZE, SIZE), np.int64)
        rasterise(snapped_at(points, near), np.array([[0, 1, 2], [3, 4, 5]], np.int32), True, words)
        second = (np.arange(SIZE) + 0.5 + 1) * near[4] / 101 > 1
        assert np.array_equal(np.vectorize(face_of)(words), np.tile(second.astype(int), (SIZE, 1)))

    def test_a_vertex_that_is_nowhere_takes_its_faces_with_it(self):
        snapped = snapped_at(np.array([[0, 0], [NOWHERE, 0], [0, 5000]]), np.ones(3))
        assert not hits(snapped, np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]], np.int32)).any()

    @pytest.mark.parametrize("corners", [[0, 0, 1], [2, 2, 2]])
    def test_a_face_without_area_hits_nothing(self, corners):
        snapped = snapped_at(np.array([[0, 0], [3000, 3000], [128, 128]]), np.ones(3))
        assert not hits(snapped, np.array([corners], np.int32)).any()


class TestProject:
    @pytest.mark.parametrize("bad", [(0, 0, 9), (0, 0, 5), (np.nan, 0, 0), (np.inf, 0, 0), (1e9, 0, 0)])
    @pytest.mark.parametrize("projection", ["perspective", "orthographic"])
    def test_what_no_view_can_have_is_nowhere(self, bad, projection):
        rig = Rig.build((View(name="front"),), SIZE, projection)
        vertices = np.array([(0.1, 0.2, 0.3), bad], np.float32)
        screen, snapped = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int32)
        R, T, K = rig.rotations[0], rig.translations[0], rig.intrinsics[0]
        project(vertices, R, T, K, rig.is_perspective, screen, snapped)
        assert snapped[1, 0] == NOWHERE and np.abs(snapped[0, :2] / 256 - screen[0, :2]).max() <= 1 / 512


def test_vertex_normals_are_the_mean_of_the_faces_by_area():
    mesh = sphere(2, 0.6)
    expected = np.zeros(mesh.vertices.shape)
    for face in mesh.faces:
        a, b, c = mesh.vertices[face].astype(float)
        expected[face] += np.cross(b - a, c - a)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(vertex_normals(mesh.vertices, mesh.faces) - expected).max() < 1e-5


def by_area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over equal parts of an image, each source texel with the part of it that is inside."""

    def parts(size: int, num: int) -> np.ndarray:
        edges = np.linspace(0, size, num + 1)
        low, high = np.maximum(edges[:-1, None], np.arange(size)), np.minimum(edges[1:, None], np.arange(1, size + 1))
        return np.maximum(high - low, 0) * num / size

    return np.einsum("yi,xj,ijc->yxc", parts(image.shape[0], height), parts(image.shape[1], width), image)


class TestMipMap:
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
    def test_each_copy_is_the_mean_of_the_one_before_by_area(self, height, width, seed):
        texture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        mipmap = MipMap.build(texture)
        copies = [
            mipmap.texels[first : first + h * w].view(np.uint8).reshape(h, w, 4)[..., :3]
            for first, h, w in mipmap.levels
        ]
        assert np.array_equal(copies[0], texture) and copies[-1].shape == (1, 1, 3)
        assert len(mipmap.texels) == sum(copy.size // 3 for copy in copies)
        for larger, smaller in pairwise(copies):
            assert smaller.shape[:2] == tuple(max(side // 2, 1) for side in larger.shape[:2])
            assert np.abs(smaller - by_area(larger.astype(float), *smaller.shape[:2])).max() <= 0.501

    def test_copies_do_not_grow_brighter(self):
        # Every mean of four is a half.
        texture = np.tile(np.array([[100, 101], [100, 101]], np.uint8), (128, 128))[..., None].repeat(3, axis=2)
        mipmap = MipMap.build(texture)
        first, height, width = mipmap.levels[1]
        copy = mipmap.texels[first : first + height * width].view(np.uint8).reshape(-1, 4)[:, :3]
        assert (copy.mean(axis=0) == 100.5).all()

    def test_how_many_texels_a_face_covers(self):
        uvs = np.array([[0, 0], [0.5, 0], [0, 1], [1, 1]], np.float32)
        covered = texels_covered(np.array([[0, 1, 2], [1, 3, 2], [0, 0, 3]], np.int32), uvs, 64, 32)
        assert covered.tolist() == [1024, 2048, 0]
