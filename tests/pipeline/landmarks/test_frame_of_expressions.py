"""The frame of a face does not follow its expression."""

from dataclasses import replace

import numpy as np
import pytest

from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks.alignment import canonical_frame
from smile_pipe.pipeline.meshes.mesh import Mesh


class TestExpressions:
    """The frame of a subject is that of its neutral face: scale within 0.7 %, direction within 1.6 degrees."""

    UNITS = ("AU1", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU20", "AU26", "AU43")

    def assert_equal_frames(self, landmarks: np.ndarray, neutral: np.ndarray, face: Mesh) -> None:
        frame, expected = (canonical_frame(replace(face, landmarks=np.float32(p))) for p in (landmarks, neutral))
        assert frame.method == expected.method == "landmarks"
        turn = np.array(frame.R).T @ np.array(expected.R)
        assert frame.scale == pytest.approx(expected.scale, rel=0.007)
        assert np.rad2deg(np.arccos(min((np.trace(turn) - 1) / 2, 1))) < 1.6

    @pytest.mark.parametrize("unit", UNITS)
    def test_parametric_face(self, unit):
        model = ParametricFace()
        subject = model.identity(np.random.default_rng(1))
        neutral, moved_face = (model.mesh(subject, units) for units in ({}, {unit: (1.0, 1.0)}))
        assert np.abs(moved_face.vertices - neutral.vertices).max() > 1
        self.assert_equal_frames(moved_face.vertices[model.landmarks], neutral.vertices[model.landmarks], neutral)
