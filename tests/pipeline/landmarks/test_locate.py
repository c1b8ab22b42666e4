"""Which landmarks a scan is aligned by: of its file, detected, or none."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from smile_pipe.pipeline.face_model.multi_pie import multi_pie_vertices
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks import locate as module
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.axes import matrix_of_axes
from smile_pipe.pipeline.landmarks.locate import locate_landmarks
from smile_pipe.pipeline.landmarks.source import LOW_CONFIDENCE, MIN_CONFIDENCE, detector_version
from smile_pipe.pipeline.meshes.mesh import Mesh


@pytest.fixture(scope="module")
def face() -> Mesh:
    """A face in millimetres, with 68 landmarks."""
    model = ParametricFace()
    mesh = model.mesh(model.identity(np.random.default_rng(5)), {"AU12": (0.4, 0.4)})
    return replace(mesh, landmarks=mesh.vertices[multi_pie_vertices(model.chart)])


@pytest.fixture
def detections(monkeypatch: pytest.MonkeyPatch) -> list[Mesh]:
    """The scans that are searched; the detection is replaced, and finds points of the confidence in `found`."""
    searched: list[Mesh] = []

    def watched(mesh: Mesh, units: str) -> SimpleNamespace:
        searched.append(mesh)
        return SimpleNamespace(
            landmarks=np.zeros((68, 3)), confidences=np.ones(68), confidence=MIN_CONFIDENCE, residual=0.0
        )

    monkeypatch.setattr(module, "detect", watched)
    return searched


def without_landmarks(mesh: Mesh) -> Mesh:
    return replace(mesh, landmarks=None)


def box(size: float = 100.0) -> Mesh:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32) * size
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32)
    return Mesh.build(corners, faces)


class TestChoice:
    @pytest.mark.parametrize("source", ["auto", "file"])
    def test_those_of_the_file_are_used_without_a_search(self, face, detections, source):
        located, confidence, problem = locate_landmarks(face, "x,y,z", source)
        assert located is face and (confidence, problem, detections) == (None, "", [])

    def test_none_uses_none(self, face, detections):
        located, confidence, problem = locate_landmarks(face, "x,y,z", "none")
        assert (located.landmarks, confidence, problem, detections) == (None, None, "", [])

    def test_file_does_not_search(self, face, detections):
        located, confidence, problem = locate_landmarks(without_landmarks(face), "x,y,z", "file")
        assert (located.landmarks, confidence, problem, detections) == (None, None, "", [])

    def test_auto_replaces_a_set_of_unknown_numbering(self, face, detections):
        unknown = replace(face, landmarks=face.landmarks[:40])
        assert locate_landmarks(unknown, "x,y,z", "file")[0] is unknown
        locate_landmarks(unknown, "x,y,z", "auto")
        assert len(detections) == 1

    def test_detect_ignores_those_of_the_file(self, face):
        moved = replace(face, landmarks=face.landmarks + np.float32(30))
        located, confidence, problem = locate_landmarks(moved, "x,y,z", "detect")
        assert confidence is not None and confidence > 0.5 and problem == ""
        errors = np.linalg.norm(located.landmarks - face.landmarks, axis=1)
        assert np.nanmedian(errors) < 4


class TestDetected:
    def test_frame_is_near_that_of_the_file(self, face):
        located, confidence, _ = locate_landmarks(without_landmarks(face), "x,y,z", "auto")
        frame, expected = canonical_frame(located, confidence=confidence), canonical_frame(face)
        assert (frame.method, frame.confidence) == ("detected", pytest.approx(confidence, abs=1e-3))
        assert (expected.method, expected.confidence) == ("landmarks", None)
        moved, aligned = (apply_frame(face, each).landmarks for each in (frame, expected))
        # The unit of the frame is 90 mm.
        assert 90 * np.linalg.norm(moved - aligned, axis=1).max() < 8

    @pytest.mark.parametrize("axes", ["-x,y,z", "y,z,-x"])
    def test_mirrored_scan_is_mirrored_back_by_its_axes(self, face, axes):
        upright, confidence, _ = locate_landmarks(without_landmarks(face), "x,y,z", "auto")
        matrix = matrix_of_axes(axes).astype(np.float32)
        vertices, faces = face.vertices @ matrix.T, face.faces[:, ::-1].copy()
        mirrored = replace(without_landmarks(face), vertices=vertices, faces=faces)
        located, _, problem = locate_landmarks(mirrored, axes, "auto")
        assert problem == ""
        assert located.landmarks @ matrix == pytest.approx(upright.landmarks, abs=0.05, nan_ok=True)
        frames = canonical_frame(located, axes, confidence), canonical_frame(upright, "x,y,z", confidence)
        shown = [apply_frame(mesh, frame).vertices for mesh, frame in zip((mirrored, upright), frames, strict=True)]
        assert shown[0] == pytest.approx(shown[1], abs=0.01)

    def test_landmarks_that_no_view_shows_are_unknown(self, face, monkeypatch):
        confidences = np.ones(68)
        confidences[[0, 40]] = 0.0
        found = SimpleNamespace(
            landmarks=face.landmarks.astype(np.float64), confidences=confidences, confidence=0.9, residual=0.0
        )
        monkeypatch.setattr(module, "detect", lambda mesh, units: found)
        located, _, _ = locate_landmarks(without_landmarks(face), "x,y,z", "auto")
        assert np.isnan(located.landmarks).any(axis=1).nonzero()[0].tolist() == [0, 40]

    @pytest.mark.parametrize("confidence", [MIN_CONFIDENCE, LOW_CONFIDENCE - 0.01, LOW_CONFIDENCE])
    def test_low_confidence_is_noted(self, face, monkeypatch, confidence):
        found = SimpleNamespace(
            landmarks=face.landmarks.astype(np.float64), confidences=np.ones(68), confidence=confidence, residual=0.0
        )
        monkeypatch.setattr(module, "detect", lambda mesh, units: found)
        located, stated, problem = locate_landmarks(without_landmarks(face), "x,y,z", "auto")
        assert located.landmarks is not None and stated == confidence
        assert ("low confidence" in problem) == (confidence < LOW_CONFIDENCE)


class TestNoFace:
    def test_box_has_none(self):
        located, confidence, problem = locate_landmarks(box(), "x,y,z", "auto")
        assert located.landmarks is None and confidence is None
        assert problem.startswith("no face found (confidence 0.")
        assert canonical_frame(located).method == "bounds"

    def test_unconfident_detection_is_not_used(self, face, monkeypatch):
        found = SimpleNamespace(
            landmarks=face.landmarks.astype(np.float64),
            confidences=np.ones(68),
            confidence=MIN_CONFIDENCE - 0.01,
            residual=0.0,
        )
        monkeypatch.setattr(module, "detect", lambda mesh, units: found)
        located, confidence, problem = locate_landmarks(without_landmarks(face), "x,y,z", "auto")
        assert located.landmarks is None and confidence is None and "no face found" in problem

    def test_points_that_form_no_face_are_not_used(self, face, detections):
        located, confidence, problem = locate_landmarks(without_landmarks(face), "x,y,z", "auto")
        assert located.landmarks is None and confidence is None and "do not form one" in problem


def test_version_is_that_of_the_weights():
    assert len(detector_version()) == 16
