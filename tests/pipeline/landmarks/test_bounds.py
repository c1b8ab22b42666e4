"""Alignment without landmarks depends little on the expression, the crop, the vertices and what is behind the face."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from helpers.shapes import sphere
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.shards.sample import Frame

SUBJECTS = (1, 2, 3)
EXPRESSIONS = {
    "surprise": {"AU1": 1.0, "AU2": 1.0, "AU5": 1.0, "AU25": 0.5, "AU26": 1.0},
    "smile": {"AU6": 1.0, "AU12": 1.0, "AU25": 1.0},
    "disgust": {"AU9": 1.0, "AU10": 1.0, "AU17": 0.5},
}


@cache
def face(subject: int, expression: str = "") -> Mesh:
    """A parametric face with its landmarks."""
    model = ParametricFace()
    units = {unit: (strength, strength) for unit, strength in EXPRESSIONS.get(expression, {}).items()}
    mesh = model.mesh(model.identity(np.random.default_rng(subject)), units)
    return replace(mesh, landmarks=mesh.vertices[model.landmarks], uvs=None, face_uvs=None)


def by_bounds(mesh: Mesh) -> Frame:
    frame = canonical_frame(replace(mesh, landmarks=None))
    assert frame.method == "bounds"
    return frame


def distance(one: Frame, other: Frame, mesh: Mesh) -> float:
    """Distance of the middle between the eyes in two frames, millimetres."""
    eyes = mesh.landmarks[[0, 4, 8, 12]].mean(axis=0)
    places = [frame.scale * eyes @ np.array(frame.R) + np.array(frame.T) for frame in (one, other)]
    return float(np.linalg.norm(places[0] - places[1])) * UNIT_MM


def refined(mesh: Mesh, keep_whole: np.ndarray) -> Mesh:
    """Divide each face that is not kept whole into four."""
    whole, divided = mesh.faces[keep_whole], mesh.faces[~keep_whole]
    corners = mesh.vertices[divided]
    middles = np.concatenate([(corners[:, i] + corners[:, (i + 1) % 3]) / 2 for i in range(3)])
    ab, bc, ca = len(mesh.vertices) + np.arange(3 * len(divided)).reshape(3, -1)
    a, b, c = divided.T
    parts = [whole, *(np.stack(part, axis=1) for part in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)))]
    return replace(
        mesh, vertices=np.concatenate([mesh.vertices, middles]), faces=np.concatenate(parts).astype(np.int32)
    )


class TestFaces:
    @pytest.mark.parametrize("subject", SUBJECTS)
    def test_frame_is_near_that_of_the_landmarks(self, subject):
        mesh = face(subject)
        frame, expected = by_bounds(mesh), canonical_frame(mesh)
        assert frame.scale == pytest.approx(expected.scale, rel=0.07) and distance(frame, expected, mesh) < 10

    @pytest.mark.parametrize("expression", EXPRESSIONS)
    @pytest.mark.parametrize("subject", SUBJECTS)
    def test_expression_changes_the_frame_little(self, subject, expression):
        neutral, moved = face(subject), face(subject, expression)
        frame, expected = by_bounds(moved), by_bounds(neutral)
        assert frame.scale == pytest.approx(expected.scale, rel=0.01) and distance(frame, expected, neutral) < 6

    @pytest.mark.parametrize("part", ["chin", "forehead", "left half"])
    def test_number_of_vertices_of_a_part_does_not_matter(self, part):
        mesh = face(1)
        x, y, _ = mesh.vertices[mesh.faces].mean(axis=1).T
        dense = refined(mesh, {"chin": y > np.median(y), "forehead": y < np.median(y), "left half": x < 0}[part])
        dense = refined(dense, np.arange(len(dense.faces)) < (len(dense.faces) - len(mesh.faces)) // 4)
        frame, expected = by_bounds(dense), by_bounds(mesh)
        assert len(dense.vertices) > 3 * len(mesh.vertices)
        assert frame.scale == pytest.approx(expected.scale, rel=0.01) and distance(frame, expected, mesh) < 2

    @pytest.mark.parametrize("cut", ["chin", "crown", "sides"])
    def test_crop_changes_the_frame_little(self, cut):
        mesh = face(1)
        x, y, _ = mesh.vertices.T
        kept = {"chin": y > np.quantile(y, 0.1), "crown": y < np.quantile(y, 0.9), "sides": np.abs(x) < 70}[cut]
        frame = by_bounds(replace(mesh, faces=mesh.faces[kept[mesh.faces].all(axis=1)]))
        expected = by_bounds(mesh)
        assert frame.scale == pytest.approx(expected.scale, rel=0.12) and distance(frame, expected, mesh) < 6

    def test_what_is_behind_the_face_does_not_matter(self):
        mesh, skull = face(1), sphere(4, 80.0)
        back = skull.vertices * np.float32([1, 1.2, 1.1]) + np.float32([0, 10, -110])
        faces = np.concatenate([mesh.faces, skull.faces + len(mesh.vertices)])
        whole = replace(mesh, vertices=np.concatenate([mesh.vertices, back]), faces=faces)
        frame, expected = by_bounds(whole), by_bounds(mesh)
        assert frame.scale == pytest.approx(expected.scale, rel=0.03) and distance(frame, expected, mesh) < 4

    @pytest.mark.parametrize("axis", range(3))
    @pytest.mark.parametrize("degrees", [-10, 10])
    def test_small_turn_changes_the_frame_little(self, axis, degrees):
        mesh, angle = face(2), np.deg2rad(degrees)
        turn = np.insert(np.insert(np.eye(2) * np.cos(angle), axis, 0, axis=0), axis, 0, axis=1)
        turn[axis, axis] = 1
        first, second = (i for i in range(3) if i != axis)
        turn[first, second], turn[second, first] = np.sin(angle), -np.sin(angle)
        turned = replace(mesh, vertices=np.float32(mesh.vertices @ turn), landmarks=np.float32(mesh.landmarks @ turn))
        frame, expected = by_bounds(turned), by_bounds(mesh)
        assert frame.scale == pytest.approx(expected.scale, rel=0.1) and distance(frame, expected, turned) < 25

    @pytest.mark.parametrize("expression", ["", "surprise", "smile"])
    def test_lips_in_front_of_the_nose_are_not_the_nose(self, expression):
        mesh = face(1, expression)
        x, y, z = mesh.vertices.T
        mouth = mesh.landmarks[48:68].mean(axis=0)
        nearness = np.exp(-(((x - mouth[0]) / 22) ** 2) - ((y - mouth[1]) / 14) ** 2)
        lips = replace(mesh, vertices=np.float32(np.stack([x, y, z + 19 * nearness], axis=1)))
        frame, expected = by_bounds(lips), by_bounds(mesh)
        assert frame.scale == pytest.approx(expected.scale, rel=0.03) and distance(frame, expected, mesh) < 6

    def test_chin_and_crown_are_in_the_image(self):
        for subject in SUBJECTS:
            for expression in ("", *EXPRESSIONS):
                mesh = face(subject, expression)
                heights = apply_frame(mesh, by_bounds(mesh)).vertices[:, 1]
                assert heights.min() > -1.2 and heights.max() < 1.25

    @pytest.mark.parametrize("scale", [1e-3, 25.4])
    def test_unit_and_place_do_not_matter(self, scale):
        mesh = face(1)
        moved = replace(mesh, vertices=(scale * (mesh.vertices + np.array([30, -70, 500]))).astype(np.float32))
        placed, expected = (apply_frame(m, by_bounds(m)).vertices for m in (moved, mesh))
        np.testing.assert_allclose(placed, expected, atol=0.02)


class TestOtherSurfaces:
    def test_surface_without_a_nose_is_placed_by_its_bounds(self):
        ball = replace(sphere(4, 30.0), vertices=sphere(4, 30.0).vertices * np.float32([1, 1.5, 1]) + np.float32(7))
        vertices = apply_frame(ball, by_bounds(ball)).vertices
        assert (vertices.max(axis=0) + vertices.min(axis=0))[:2] == pytest.approx(np.zeros(2), abs=0.03)
        assert np.ptp(vertices[:, 1]) == pytest.approx(2.2, rel=0.03)

    def test_surface_seen_edge_on(self):
        flat = Mesh.build(np.array([[0, 0, 0], [0, 100, 0], [0, 0, 100.0]]), np.array([[0, 1, 2]]))
        assert by_bounds(flat).scale > 0

    def test_mesh_without_extent_is_rejected(self):
        point = Mesh.build(np.ones((3, 3)), np.array([[0, 1, 2]]))
        with pytest.raises(MeshError, match="no extent"):
            canonical_frame(point)

    def test_faces_far_outside_are_not_drawn(self):
        mesh = face(1)
        far = np.concatenate([mesh.vertices, [[300, 0, 400], [0, -300, 400]]]).astype(np.float32)
        stray = replace(mesh, vertices=far, faces=np.concatenate([mesh.faces, [[0, len(far) - 2, len(far) - 1]]]))
        frame = by_bounds(replace(stray, faces=stray.faces.astype(np.int32)))
        assert frame.scale == pytest.approx(by_bounds(mesh).scale, rel=0.01)

    def test_vertices_without_a_face_change_nothing(self):
        mesh = face(1)
        more = np.concatenate([mesh.vertices, np.random.default_rng(0).uniform(-500, 100, (900, 3))])
        assert by_bounds(replace(mesh, vertices=more.astype(np.float32))) == by_bounds(mesh)
