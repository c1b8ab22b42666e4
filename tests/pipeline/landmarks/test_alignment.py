"""Alignment: the canonical frame does not depend on pose or expression, and bad landmarks are detected."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_pipe.pipeline.landmarks.alignment import (
    ORIGIN,
    SCHEMES,
    UNIT_MM,
    apply_frame,
    canonical_frame,
    fit_similarity,
)
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.shards.sample import Frame

RNG = np.random.default_rng(0)
COUNTS = sorted(SCHEMES)
BROWS = {22: slice(0, 6), 68: slice(17, 27), 83: slice(16, 36)}
EYES = {22: (slice(6, 8), slice(8, 10)), 68: (slice(36, 42), slice(42, 48)), 83: (slice(0, 8), slice(8, 16))}
MOUTH = {22: slice(15, 21), 68: slice(48, 68), 83: slice(48, 68)}
NOSE = {22: slice(12, 15), 68: slice(31, 36), 83: slice(36, 48)}
OUTLINE = {22: slice(15, 22), 68: slice(0, 17), 83: slice(68, 83)}
JAW = {22: slice(15, 22), 68: slice(1, 16), 83: slice(69, 82)}


def oval(num: int, x: float, y: float, width: float, height: float, z: float) -> np.ndarray:
    angles = np.linspace(np.pi, -np.pi, num, endpoint=False)
    return np.stack([x + width * np.cos(angles), y + height * np.sin(angles), np.full(num, z)], axis=1)


def jaw(num: int) -> np.ndarray:
    """From the ear on the subject's right over the chin to the other ear, behind the eyes."""
    angles = np.linspace(np.pi, 2 * np.pi, num)
    return np.stack([72 * np.cos(angles), 2 + 111 * np.sin(angles), -52 - 66 * np.sin(angles)], axis=1)


def nose_contour() -> np.ndarray:
    """The 12 points of BU-3DFE around the nose, from its root on the subject's right to that on the left."""
    left = np.array([(8, 3, 7), (9, -16, 15), (14, -28, 18), (17, -36, 18), (14, -42, 18), (6, -45, 16)], float)
    return np.concatenate([left * (-1, 1, 1), left[::-1]])


def bosphorus_landmarks() -> np.ndarray:
    """The 22 points of Bosphorus in the order of their names, the right one before the left one."""
    brows = [(x, 20, 5) for x in (-53, -33, -13, 13, 33, 53)]
    eyes = [(-45, 0, -7), (-19, 0, -1), (19, 0, -1), (45, 0, -7)]
    nose = [(-8, 0, 8), (8, 0, 8), (-16, -41, 15), (0, -30, 38), (16, -41, 15)]
    mouth = [(-25, -70, 12), (0, -60, 26), (25, -70, 12), (0, -68, 22), (0, -70, 22), (0, -80, 25)]
    return np.array([*brows, *eyes, *nose, *mouth, (0, -110, 16)], float)


def face_landmarks(num: int) -> np.ndarray:
    """Landmarks of a plain face, millimetres from the midpoint between the eyes, the subject's right at -x."""
    if num == 22:
        return bosphorus_landmarks()
    right_eye, left_eye = (oval(num // 10, x, 0, 14, 5, 0) for x in (-33, 33))
    brows = [oval(10 if num == 83 else 5, x, 20, 20, 3, 5) for x in (-33, 33)]
    mouth = oval(20, 0, -72, 25, 12, 8)
    if num == 83:
        return np.concatenate([right_eye, left_eye, *brows, nose_contour(), mouth, jaw(15)])
    bridge = np.linspace([0, 3, 13], [0, -30, 32], 4)
    base = np.linspace([-12, -45, 22], [12, -45, 22], 5)
    return np.concatenate([jaw(17), *brows, bridge, base, right_eye, left_eye, mouth])


def make_face(num_landmarks: int) -> Mesh:
    vertices = RNG.normal((0, -30, 0), 40, (200, 3))
    mesh = Mesh.build(vertices, np.arange(198).reshape(-1, 3))
    return replace(mesh, landmarks=face_landmarks(num_landmarks).astype(np.float32))


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


# Bosphorus' landmarks with left and right exchanged, as a file would have them that names the other side.
BOSPHORUS_FROM_THE_OTHER_SIDE = [5, 4, 3, 2, 1, 0, 9, 8, 7, 6, 11, 10, 14, 13, 12, 17, 16, 15, 18, 19, 20, 21]


def with_swapped_sides(face: Mesh) -> Mesh:
    """The same face in a file whose "left" is the other side."""
    num = len(face.landmarks)
    right, left = EYES[num]
    if num == 22:
        return replace(face, landmarks=face.landmarks[BOSPHORUS_FROM_THE_OTHER_SIDE])
    order = np.arange(num)
    order[right], order[left] = order[left].copy(), order[right].copy()
    mirrored = [OUTLINE[num], NOSE[num]]
    for group in mirrored:
        order[group] = order[group][::-1]
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

    @pytest.mark.parametrize("num", [68, 83])
    def test_one_corner_of_an_eye_is_no_anchor(self, num):
        face, (right, _) = FACES[num], EYES[num]
        without_eye = canonical_frame(changed(face, right, np.nan))
        assert canonical_frame(changed(face, slice(right.start + 1, right.stop), np.nan)) == without_eye
        assert max_distance(without_eye, canonical_frame(face), face) < 6

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
            pytest.param([6, 7, 8, 9, 12, 13, 14], id="neither mouth nor chin"),
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
    def test_missing_outline_falls_back_to_bounds(self, num):
        assert canonical_frame(changed(FACES[num], OUTLINE[num], np.nan)).method == "bounds"

    @pytest.mark.parametrize("num", COUNTS)
    def test_landmarks_in_another_order_fall_back_to_bounds(self, num):
        face = FACES[num]
        shuffled = [replace(face, landmarks=RNG.permutation(face.landmarks)) for _ in range(50)]
        # A shuffle may by chance look like a face; hardly any does.
        assert sum(canonical_frame(mesh).method == "landmarks" for mesh in shuffled) <= 3
        assert canonical_frame(replace(face, landmarks=face.landmarks[::-1].copy())).method == "bounds"

    @pytest.mark.parametrize("num", COUNTS)
    def test_misplaced_nose_falls_back_to_bounds(self, num):
        face, nose = FACES[num], NOSE[num]
        for shift in ((60, 0, 0), (0, 0, 60)):
            mislabelled = changed(face, nose, face.landmarks[nose] + shift)
            assert canonical_frame(mislabelled).method == "bounds"
        assert canonical_frame(changed(face, nose, face.landmarks[nose] + (3, -4, 3))).method == "landmarks"

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

    @settings(deadline=None)
    @given(scales, shifts)
    def test_upright_face_alignment_is_invariant_to_scale_and_shift(self, scale, shift):
        face = replace(FACES[68], landmarks=None)
        other = replace(face, vertices=(scale * (face.vertices + shift)).astype(np.float32))
        frame = canonical_frame(other)
        assert frame.method == "bounds" and np.array_equal(frame.R, np.eye(3))
        expected = apply_frame(face, canonical_frame(face)).vertices
        assert apply_frame(other, frame).vertices == pytest.approx(expected, abs=1e-3)

    def test_centre_and_height_match_the_frame(self):
        points = RNG.uniform((-60, -100, -50), (60, 100, 50), (21_000, 3))
        face = Mesh.build(points, np.arange(21_000).reshape(-1, 3))
        vertices = apply_frame(face, canonical_frame(face)).vertices
        assert np.median(vertices, axis=0) == pytest.approx(np.zeros(3), abs=0.05)
        assert np.ptp(vertices[:, 1]) == pytest.approx(2 / 0.96, rel=0.01)

    def test_stray_vertices_do_not_shrink_the_face(self):
        face = replace(FACES[68], landmarks=None)
        stray = np.concatenate([face.vertices, [[1e5, 0, 0], [0, -1e5, 0]]]).astype(np.float32)
        faces = np.concatenate([face.faces, [[0, len(stray) - 2, len(stray) - 1]]]).astype(np.int32)
        frame = canonical_frame(replace(face, vertices=stray, faces=faces))
        assert frame.scale == pytest.approx(canonical_frame(face).scale, rel=0.15)

    def test_vertices_without_a_face_change_nothing(self):
        face = replace(FACES[68], landmarks=None)
        more = np.concatenate([face.vertices, RNG.uniform(-500, 100, (900, 3))]).astype(np.float32)
        assert canonical_frame(replace(face, vertices=more)) == canonical_frame(face)

    def test_mesh_without_extent_is_rejected(self):
        point = Mesh.build(np.ones((3, 3)), np.array([[0, 1, 2]]))
        with pytest.raises(MeshError, match="no extent"):
            canonical_frame(point)

    def test_mesh_without_extent_is_aligned_by_landmarks(self):
        point = replace(Mesh.build(np.ones((3, 3)), np.array([[0, 1, 2]])), landmarks=FACES[68].landmarks)
        assert canonical_frame(point).method == "landmarks"


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
