"""Alignment: the canonical frame does not depend on pose or expression, and bad landmarks are detected."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame, drop_wrong_landmarks
from smile_pipe.pipeline.landmarks.landmark_fit import fit_similarity
from smile_pipe.pipeline.landmarks.mean_face import ORIGIN, SCHEMES, UNIT_MM
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.shards.sample import Frame

RNG = np.random.default_rng(0)
COUNTS = sorted(SCHEMES)
BROWS = {22: slice(0, 6), 68: slice(17, 27), 83: slice(16, 36)}
EYES = {22: (slice(6, 8), slice(8, 10)), 68: (slice(36, 42), slice(42, 48)), 83: (slice(0, 8), slice(8, 16))}
MOUTH = {22: slice(15, 21), 68: slice(48, 68), 83: slice(48, 68)}
NOSE = {22: slice(12, 15), 68: slice(31, 36), 83: slice(36, 48)}
OUTLINE = {22: slice(15, 22), 68: slice(0, 17), 83: slice(68, 83)}
JAW = {22: slice(15, 22), 68: slice(1, 16), 83: slice(69, 82)}


def make_face(num_landmarks: int) -> Mesh:
    vertices = RNG.normal((0, -30, 0), 40, (200, 3))
    mesh = Mesh.build(vertices, np.arange(198).reshape(-1, 3))
    # Wider, lower and deeper than the mean face.
    landmarks = SCHEMES[num_landmarks].positions * (1.01, 0.98, 1.04)
    return replace(mesh, landmarks=landmarks.astype(np.float32))


FACES = {num: make_face(num) for num in COUNTS}


def moved(mesh: Mesh, scale: float, rotation: np.ndarray, shift: np.ndarray) -> Mesh:
    points = (scale * points @ rotation + shift for points in (mesh.vertices, mesh.landmarks))
    vertices, landmarks = (np.ascontiguousarray(p, np.float32) for p in points)
    return replace(mesh, vertices=vertices, landmarks=landmarks)


def changed(mesh: Mesh, where, landmarks) -> Mesh:
    points = mesh.landmarks.copy()
    points[where] = landmarks
    return replace(mesh, landmarks=points)


def rotation_of(quaternion: list[float]) -> np.ndarray:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def with_swapped_sides(face: Mesh) -> Mesh:
    """The same face in a file whose "left" is the other side."""
    positions = SCHEMES[len(face.landmarks)].positions
    order = cdist(positions * (-1, 1, 1), positions).argmin(axis=1)
    return replace(face, landmarks=face.landmarks[order])


def max_distance(one: Frame, other: Frame, face: Mesh) -> float:
    """Maximum distance between the vertices transformed by two frames, millimetres."""
    places = [apply_frame(face, frame).vertices for frame in (one, other)]
    return float(np.linalg.norm(places[0] - places[1], axis=1).max() * UNIT_MM)


rotations = (
    st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1).map(rotation_of)
)
scales = st.floats(-3, 3).map(lambda exponent: 10**exponent)
shifts = st.lists(st.floats(-200, 200), min_size=3, max_size=3).map(np.array)


class TestByLandmarks:
    @pytest.mark.parametrize("num", COUNTS)
    def test_mean_face_has_the_documented_position(self, num):
        face = FACES[num]
        frame = canonical_frame(face)
        assert frame.method == "landmarks" and frame.scale == pytest.approx(1 / UNIT_MM, rel=0.02)
        right, left = EYES[num]
        between_eyes = apply_frame(face, frame).landmarks[right.start : left.stop].mean(axis=0)
        # Bosphorus has the corners of the eyes only, and they lie deeper than the lids.
        expected = np.array(ORIGIN) / -UNIT_MM - (0, 0, 4 / UNIT_MM if num == 22 else 0)
        assert between_eyes == pytest.approx(expected, abs=0.03)

    @settings(deadline=None)
    @given(st.sampled_from(COUNTS), scales, rotations, shifts)
    def test_alignment_is_invariant_to_scale_rotation_and_shift(self, num, scale, rotation, shift):
        face = FACES[num]
        other = moved(face, scale, rotation, scale * shift)
        frame = canonical_frame(other)
        assert frame.method == "landmarks"
        expected = apply_frame(face, canonical_frame(face))
        result = apply_frame(other, frame)
        assert result.vertices == pytest.approx(expected.vertices, abs=1e-3)
        assert result.landmarks == pytest.approx(expected.landmarks, abs=1e-3)

    @settings(deadline=None)
    @given(st.sampled_from(COUNTS), scales, rotations)
    def test_frame_is_a_rotation_not_a_reflection(self, num, scale, rotation):
        mirror = np.diag([-1.0, 1.0, 1.0])
        for turn in (rotation, mirror @ rotation):
            R = np.array(canonical_frame(moved(FACES[num], scale, turn, np.zeros(3))).R)
            assert np.linalg.det(R) == pytest.approx(1, abs=1e-6) and np.allclose(R @ R.T, np.eye(3), atol=1e-6)

    @pytest.mark.parametrize("num", COUNTS)
    def test_expression_does_not_change_the_frame(self, num):
        face = FACES[num]
        mouth, brows, outline = MOUTH[num], BROWS[num], JAW[num]
        laughing = changed(face, mouth, face.landmarks[mouth] * (1.4, 1.2, 1) + (0, 3, -4))
        raised = changed(face, brows, face.landmarks[brows] + (0, 12, 2))
        open_mouth = changed(face, outline, face.landmarks[outline] - (0, 20, 10))
        assert {canonical_frame(other) for other in (laughing, raised, open_mouth)} == {canonical_frame(face)}

    @pytest.mark.parametrize(("num", "lids"), [(68, [37, 38, 40, 41, 43, 44, 46, 47]), (83, [1, 2, 3, 5, 9, 11, 14])])
    def test_lids_do_not_change_the_frame(self, num, lids):
        face = FACES[num]
        assert canonical_frame(changed(face, lids, face.landmarks[lids] - (0, 6, 1))) == canonical_frame(face)

    @pytest.mark.parametrize("num", COUNTS)
    def test_other_landmarks_may_be_missing(self, num):
        face = FACES[num]
        without = changed(changed(face, MOUTH[num], np.nan), BROWS[num], np.nan)
        assert canonical_frame(without) == canonical_frame(face)

    @pytest.mark.parametrize("num", COUNTS)
    def test_part_of_the_outline_is_sufficient(self, num):
        face, jaw = FACES[num], JAW[num]
        for missing in (slice(jaw.start, jaw.start + 2), jaw.stop - 1):
            assert canonical_frame(changed(face, missing, np.nan)) == canonical_frame(face)

    @pytest.mark.parametrize("num", [68, 83])
    def test_ends_of_the_outline_may_be_missing(self, num):
        face, outline = FACES[num], OUTLINE[num]
        for missing, limit in (([outline.start], 8), ([outline.start, outline.stop - 1], 13)):
            frame = canonical_frame(changed(face, missing, np.nan))
            assert frame.method == "landmarks" and max_distance(frame, canonical_frame(face), face) < limit

    def test_anchor_with_most_of_its_points_is_used(self):
        face = FACES[68]
        without = changed(face, 33, np.nan)
        assert max_distance(canonical_frame(without), canonical_frame(face), face) < 0.5
        assert canonical_frame(without) != canonical_frame(changed(face, slice(31, 34), np.nan))

    def test_one_corner_of_an_eye_is_compared_with_its_own_place(self):
        face, (right, _) = FACES[68], EYES[68]
        one_corner = canonical_frame(changed(face, slice(right.start + 1, right.stop), np.nan))
        assert one_corner != canonical_frame(changed(face, right, np.nan))
        assert max_distance(one_corner, canonical_frame(face), face) < 3

    def test_one_corner_of_an_eye_is_no_anchor_where_the_ring_may_start_at_either_end(self):
        face, (right, _) = FACES[83], EYES[83]
        without_eye = canonical_frame(changed(face, right, np.nan))
        assert canonical_frame(changed(face, slice(right.start + 1, right.stop), np.nan)) == without_eye
        assert max_distance(without_eye, canonical_frame(face), face) < 6

    def test_rings_may_start_at_either_end(self):
        order = np.arange(83)
        for start, size in ((0, 8), (16, 10), (26, 10), (48, 12), (60, 8)):
            order[start : start + size] = np.roll(order[start : start + size], size // 2)
        face = FACES[83]
        turned = replace(face, landmarks=face.landmarks[order])
        assert canonical_frame(turned) == canonical_frame(face)
        assert not drop_wrong_landmarks(turned)[1]

    @pytest.mark.parametrize("num", [22, 68])
    def test_three_anchors_that_span_a_plane_are_sufficient(self, num):
        face, right = FACES[num], EYES[num][0]
        frame = canonical_frame(changed(face, right, np.nan))
        assert frame.method == "landmarks" and max_distance(frame, canonical_frame(face), face) < 4

    @pytest.mark.parametrize("num", COUNTS)
    def test_swapped_sides_do_not_flip_the_face(self, num):
        face = FACES[num]
        assert canonical_frame(with_swapped_sides(face)) == canonical_frame(face)

    def test_all_landmark_sets_give_the_same_frame(self):
        frames = {num: canonical_frame(face) for num, face in FACES.items()}
        assert all(max_distance(frames[num], frames[68], FACES[68]) < 10 for num in COUNTS)


class TestSideViews:
    """A scan from the side lacks the far half of Bosphorus' landmarks, and may lack the chin or the tip of the nose."""

    FAR_HALF = (0, 1, 2, 6, 7, 10, 12, 15)

    @settings(deadline=None)
    @given(st.sampled_from(["right first", "left first"]), st.sets(st.sampled_from([16, 18, 19, 20, 21])), rotations)
    def test_side_view_aligns_like_the_whole_face(self, order, also_missing, rotation):
        whole = FACES[22]
        half = changed(moved(whole, 1, rotation, np.zeros(3)), [*self.FAR_HALF, *also_missing], np.nan)
        if order == "left first":
            half = with_swapped_sides(half)
        frame = canonical_frame(half)
        assert frame.method == "landmarks"
        expected = apply_frame(whole, canonical_frame(whole)).vertices
        assert np.abs(apply_frame(half, frame).vertices - expected).max() * UNIT_MM < 6

    @pytest.mark.parametrize(
        "missing", [[6, 7, 13], [*FAR_HALF, 21]], ids=["eye and tip of the nose", "far half and chin"]
    )
    def test_noisy_landmarks_do_not_flip_the_face(self, missing):
        whole, rng = FACES[22], np.random.default_rng(0)
        for _ in range(200):
            shaken = (whole.landmarks + rng.normal(0, 2, (22, 3))).astype(np.float32)
            frame = canonical_frame(changed(replace(whole, landmarks=shaken), missing, np.nan))
            assert frame.method == "landmarks" and max_distance(frame, canonical_frame(whole), whole) < 60

    @pytest.mark.parametrize(
        "left",
        [
            pytest.param([6, 7, 8, 9, 16, 21], id="the eyes alone, near one line"),
            pytest.param([6, 13, 16, 21], id="two anchors"),
            pytest.param([6, 7, 13, 14, 16], id="five points"),
        ],
    )
    def test_too_few_landmarks_fall_back_to_bounds(self, left):
        missing = sorted(set(range(22)) - set(left))
        assert canonical_frame(changed(FACES[22], missing, np.nan)).method == "bounds"


class TestWithoutUsableLandmarks:
    def test_nose_alone_falls_back_to_bounds(self):
        right, left = EYES[22]
        assert canonical_frame(changed(FACES[22], slice(right.start, left.stop), np.nan)).method == "bounds"

    @pytest.mark.parametrize("num", COUNTS)
    def test_two_anchors_fall_back_to_bounds(self, num):
        face, scheme = FACES[num], SCHEMES[num]
        for one, other in pairwise(scheme.anchors):
            kept = {*one.landmarks, *other.landmarks, *range(JAW[num].start, JAW[num].stop)}
            assert canonical_frame(changed(face, sorted({*range(num)} - kept), np.nan)).method == "bounds"

    @pytest.mark.parametrize("num", COUNTS)
    def test_landmarks_in_another_order_fall_back_to_bounds(self, num):
        points = FACES[num].landmarks
        orders = [RNG.permutation(points) for _ in range(50)]
        orders += [points[::-1], *(np.roll(points, by, axis=0) for by in (-2, -1, 1, 2, num // 2))]
        assert {canonical_frame(replace(FACES[num], landmarks=order.copy())).method for order in orders} == {"bounds"}

    @pytest.mark.parametrize("num", COUNTS)
    def test_landmarks_in_one_point_or_on_one_line_fall_back_to_bounds(self, num):
        face = FACES[num]
        assert canonical_frame(replace(face, landmarks=np.ones((num, 3), np.float32))).method == "bounds"
        line = np.linspace([0, 0, 0], [1, 2, 3], num).astype(np.float32)
        assert canonical_frame(replace(face, landmarks=line)).method == "bounds"

    @pytest.mark.parametrize("num", [1, 21, 67, 84])
    def test_unknown_number_of_landmarks_falls_back_to_bounds(self, num):
        landmarks = RNG.normal(size=(num, 3)).astype(np.float32)
        assert canonical_frame(replace(FACES[68], landmarks=landmarks)).method == "bounds"

    def test_mesh_without_extent_is_aligned_by_landmarks(self):
        point = replace(Mesh.build(np.ones((3, 3)), np.array([[0, 1, 2]])), landmarks=FACES[68].landmarks)
        assert canonical_frame(point).method == "landmarks"


class TestPartsOfASet:
    """Known landmarks are compared with their own places, so a part of a set is as good as the whole."""

    @pytest.mark.parametrize("num", COUNTS)
    @pytest.mark.parametrize(
        "is_missing",
        [
            pytest.param(lambda x, y: x > 1, id="right half"),
            pytest.param(lambda x, y: x < -1, id="left half"),
            pytest.param(lambda x, y: y < -50, id="upper half"),
        ],
    )
    def test_half_of_the_landmarks_gives_nearly_the_frame_of_all(self, num, is_missing):
        face = FACES[num]
        missing = is_missing(*face.landmarks[:, :2].T)
        assert 0.3 * num < missing.sum() < 0.6 * num
        half = changed(face, missing, np.nan)
        frame = canonical_frame(half)
        assert frame.method == "landmarks" and max_distance(frame, canonical_frame(face), face) < 12
        kept, problem = drop_wrong_landmarks(half)
        assert problem == "" and np.array_equal(kept.landmarks, half.landmarks, equal_nan=True)

    @pytest.mark.parametrize("num", COUNTS)
    def test_outline_may_be_missing(self, num):
        face = FACES[num]
        frame = canonical_frame(changed(face, OUTLINE[num], np.nan))
        assert frame.method == "landmarks" and max_distance(frame, canonical_frame(face), face) < 12

    def test_51_points_are_those_of_68_without_the_outline(self):
        face = FACES[68]
        inner = replace(face, landmarks=face.landmarks[17:])
        assert canonical_frame(inner) == canonical_frame(changed(face, slice(0, 17), np.nan))
        kept, problem = drop_wrong_landmarks(inner)
        assert problem == "" and np.array_equal(kept.landmarks[17:], face.landmarks[17:])
        assert len(kept.landmarks) == 68 and np.isnan(kept.landmarks[:17]).all()


class TestWrongLandmarks:
    @pytest.mark.parametrize("num", COUNTS)
    @pytest.mark.parametrize("share", [0.05, 0.15])
    def test_a_few_wrong_landmarks_do_not_move_the_frame_and_are_removed(self, num, share):
        face, rng = FACES[num], np.random.default_rng(num)
        for _ in range(20):
            wrong = rng.permutation(num)[: max(int(share * num), 1)]
            bent = changed(face, wrong, face.landmarks[wrong] + rng.choice([-1, 1], (len(wrong), 3)) * (50, 60, 70))
            without = changed(face, wrong, np.nan)
            assert canonical_frame(bent) == canonical_frame(without)
            kept, problem = drop_wrong_landmarks(bent)
            assert np.array_equal(np.isnan(kept.landmarks).any(axis=1).nonzero()[0], np.sort(wrong))
            assert problem == f"landmarks far from their place on a face are not used: {len(wrong)}"

    @pytest.mark.parametrize("num", [68, 83])
    def test_misplaced_nose_is_removed(self, num):
        face, nose = FACES[num], NOSE[num]
        for shift in ((60, 0, 0), (0, 0, 60)):
            kept, _ = drop_wrong_landmarks(changed(face, nose, face.landmarks[nose] + shift))
            assert np.isnan(kept.landmarks[nose]).all() and np.isfinite(np.delete(kept.landmarks, nose, 0)).all()
        assert drop_wrong_landmarks(changed(face, nose, face.landmarks[nose] + (3, -4, 3)))[1] == ""

    def test_one_landmark_at_infinity_of_the_file_does_not_matter(self):
        face = FACES[68]
        for place in (0, 1e6, -1e30):
            assert canonical_frame(changed(face, 36, place)) == canonical_frame(changed(face, 36, np.nan))

    @pytest.mark.parametrize("num", COUNTS)
    def test_landmarks_in_another_order_are_removed(self, num):
        face = FACES[num]
        kept, problem = drop_wrong_landmarks(replace(face, landmarks=face.landmarks[::-1].copy()))
        assert kept.landmarks is None and problem.startswith("landmarks are not used: they do not form a face")

    def test_sets_of_unknown_size_are_kept(self):
        face = replace(FACES[68], landmarks=RNG.normal(size=(77, 3)).astype(np.float32))
        assert drop_wrong_landmarks(face) == (face, "")

    @pytest.mark.parametrize("num", COUNTS)
    def test_frame_follows_a_wrong_anchor_not_far(self, num):
        face = FACES[num]
        for landmark in SCHEMES[num].anchors[0].landmarks:
            without = canonical_frame(changed(face, landmark, np.nan))
            for x in range(0, 60, 5):
                frame = canonical_frame(changed(face, landmark, face.landmarks[landmark] + (0, x, 0)))
                assert max_distance(frame, canonical_frame(face), face) < 25
                assert x < 40 or max_distance(frame, without, face) < 0.5

    def test_record_has_the_number_of_points_and_the_residual(self):
        frame = canonical_frame(FACES[68])
        assert frame.num_points == 14 and 0 < frame.residual < 5
        assert canonical_frame(changed(FACES[68], [0, 33], np.nan)).num_points == 12
        by_bounds = canonical_frame(replace(FACES[68], landmarks=None))
        assert (by_bounds.num_points, by_bounds.residual) == (0, 0)


class TestApplying:
    def test_only_positions_change_and_stay_float32(self):
        face = replace(FACES[83], colors=np.zeros((200, 3), np.uint8))
        result = apply_frame(face, canonical_frame(face))
        assert result.vertices.dtype == result.landmarks.dtype == np.float32
        assert result.faces is face.faces and result.colors is face.colors

    def test_transform_matches_the_recorded_frame(self):
        frame = canonical_frame(FACES[68])
        expected = frame.scale * FACES[68].vertices @ np.array(frame.R) + np.array(frame.T)
        assert apply_frame(FACES[68], frame).vertices == pytest.approx(expected, abs=1e-6)


class TestFitSimilarity:
    @settings(deadline=None)
    @given(scales, rotations, shifts, st.integers(3, 10))
    def test_recovers_the_similarity(self, scale, rotation, shift, num_points):
        source = np.random.default_rng(num_points).normal(size=(num_points, 3))
        found_scale, R, T = fit_similarity(source, scale * source @ rotation + shift)
        assert found_scale == pytest.approx(scale, rel=1e-6)
        assert np.allclose(R, rotation, atol=1e-5)
        assert np.allclose(T, shift, atol=1e-5 * (scale + 1))

    def test_solution_is_a_minimum(self):
        source, target = RNG.normal(size=(2, 12, 3))
        scale, R, T = fit_similarity(source, target)

        def error(scale, R, T):
            return ((scale * source @ R + T - target) ** 2).sum()

        best = error(scale, R, T)
        for _ in range(200):
            turn = rotation_of([1.0, *RNG.normal(0, 0.05, 3)])
            assert error(scale * RNG.uniform(0.95, 1.05), R @ turn, T + RNG.normal(0, 0.05, 3)) > best
