"""A known unit of length: faces have their real size in it, for the frame and for the search."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.shapes import sphere
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks import locate
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.detection import detect
from smile_pipe.pipeline.landmarks.length_units import MILLIMETRES, size_problem
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError


@pytest.fixture(scope="module")
def face() -> Mesh:
    """A face in millimetres, with landmarks."""
    model = ParametricFace()
    mesh = model.mesh(model.identity(np.random.default_rng(5)), {})
    return replace(mesh, landmarks=mesh.vertices[model.landmarks], uvs=None, face_uvs=None)


def scaled(mesh: Mesh, scale: float) -> Mesh:
    landmarks = None if mesh.landmarks is None else np.float32(mesh.landmarks * scale)
    return replace(mesh, vertices=np.float32(mesh.vertices * scale), landmarks=landmarks)


@pytest.mark.parametrize("size", [0.8, 1.25])
@pytest.mark.parametrize("actual", MILLIMETRES)
def test_any_two_units_are_told_apart_for_faces_of_usual_sizes(actual, size):
    scale = MILLIMETRES[actual] / UNIT_MM / size
    for unit in MILLIMETRES:
        problem = size_problem(scale, unit)
        assert (problem == "") == (unit == actual)
        assert not problem or problem.endswith(f"use `units={actual}`")
    assert size_problem(scale, "auto") == ""


def test_scale_that_fits_no_unit_is_said_so():
    assert size_problem(1e9, "mm").endswith("use another unit, or `units=auto`")


@pytest.mark.parametrize("has_landmarks", [True, False])
@pytest.mark.parametrize(("unit", "length"), MILLIMETRES.items())
def test_known_unit_keeps_the_frame_of_a_face_and_a_wrong_one_fails(face, has_landmarks, unit, length):
    mesh = scaled(face if has_landmarks else replace(face, landmarks=None), 1 / length)
    assert canonical_frame(mesh, units=unit) == canonical_frame(mesh)
    wrong = "cm" if unit != "cm" else "mm"
    with pytest.raises(MeshError, match=rf"^with `units={wrong}` its face would be .* mean one; use `units={unit}`$"):
        canonical_frame(mesh, units=wrong)


def test_surface_without_a_nose_has_its_real_size():
    patch = scaled(sphere(4, 5.5), 1.0)
    frame = canonical_frame(patch, units="cm")
    assert frame.method == "bounds" and frame.scale == pytest.approx(10 / UNIT_MM)
    assert np.ptp(apply_frame(patch, frame).vertices[:, 1]) == pytest.approx(110 / UNIT_MM, rel=1e-3)
    assert canonical_frame(patch).scale > 1.3 * frame.scale
    with pytest.raises(MeshError, match="use `units=cm`"):
        canonical_frame(patch, units="m")


def test_face_of_a_known_unit_is_found_as_without(face):
    free, known = detect(face), detect(face, "mm")
    assert free is not None and known is not None and free.landmarks.tobytes() == known.landmarks.tobytes()


def test_face_of_another_size_is_not_found(face):
    statue = scaled(face, 3.0)
    assert (found := detect(statue)) is not None and found.confidence > 0.4
    assert detect(statue, "mm") is None


def test_face_of_the_real_size_is_found_between_larger_ones(face):
    statue, apart = scaled(face, 2.2), np.float32([300, 0, 0])
    parts = (statue.vertices - apart, face.vertices, statue.vertices + apart)
    number = len(face.vertices)
    scene = Mesh.build(np.concatenate(parts), np.concatenate([face.faces + k * number for k in range(3)]))
    free, known = detect(scene), detect(scene, "mm")
    assert free is not None and known is not None and known.confidence > 0.4
    assert abs(free.landmarks[:, 0].mean()) > 200 and abs(known.landmarks[:, 0].mean()) < 10


@pytest.mark.parametrize("axes", ["x,y,z", "-x,y,z"])
def test_search_uses_the_unit(face, monkeypatch, axes):
    given = []
    monkeypatch.setattr(locate, "detect", lambda mesh, units: given.append(units))
    locate.locate_landmarks(replace(face, landmarks=None), axes, "auto", "in")
    assert given == ["in"]
