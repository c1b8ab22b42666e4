"""Detection of landmarks with the shipped weights, on generated faces."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from smile_pipe.pipeline.face_model.multi_pie import multi_pie_vertices
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks import detection
from smile_pipe.pipeline.landmarks.alignment import canonical_frame
from smile_pipe.pipeline.landmarks.detection import LandmarkDetector, detect
from smile_pipe.pipeline.meshes.mesh import Mesh

ROTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(np.eye(3)[list(order)] * signs) > 0
]


def build_face(seed: int) -> Mesh:
    """A smiling face in millimetres with its 68 landmarks."""
    model = ParametricFace()
    mesh = model.mesh(model.identity(np.random.default_rng(seed)), {"AU12": (0.8, 0.8), "AU6": (0.5, 0.5)})
    return replace(mesh, landmarks=mesh.vertices[multi_pie_vertices(model.chart)])


def transform(mesh: Mesh, rotation: np.ndarray, scale: float, shift: float) -> Mesh:
    vertices = (mesh.vertices @ rotation + shift) * scale
    return Mesh.build(vertices.astype(np.float32), mesh.faces)


def build_ball(
    center: tuple[float, float, float] = (0, 0, 0), radii: tuple[float, float, float] = (80, 80, 80)
) -> Mesh:
    rows, columns = np.meshgrid(np.linspace(0, np.pi, 30), np.linspace(0, 2 * np.pi, 50), indexing="ij")
    rays = np.stack([np.sin(rows) * np.cos(columns), np.cos(rows), np.sin(rows) * np.sin(columns)], axis=-1)
    index = np.arange(30 * 50).reshape(30, 50)
    a, b, c, d = (q.ravel() for q in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return Mesh.build((rays.reshape(-1, 3) * radii + center).astype(np.float32), faces)


def join(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh.build(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


@pytest.fixture(scope="module")
def face() -> Mesh:
    return build_face(11)


def test_landmarks_are_found_in_24_rotations_and_in_any_unit(face):
    for number, rotation in enumerate(ROTATIONS):
        scale = (1.0, 0.001, 25.4)[number % 3]
        found = detect(transform(face, rotation, scale, 50.0))
        points = (found.landmarks / scale - 50) @ rotation.T
        errors = np.linalg.norm(points - face.landmarks, axis=1)
        assert np.median(errors) < 4, number
        assert np.percentile(errors, 95) < 10, number
        assert found.confidence > 0.4
        assert found.residual < 8


def test_frame_of_found_landmarks_is_that_of_the_known_ones(face):
    found = detect(transform(face, ROTATIONS[13], 0.01, 0.0))
    frames = [
        canonical_frame(replace(transform(face, ROTATIONS[13], 0.01, 0.0), landmarks=points.astype(np.float32)))
        for points in (face.landmarks @ ROTATIONS[13] * 0.01, found.landmarks)
    ]
    known, detected = (np.array(frame.R) for frame in frames)
    assert frames[1].method == "landmarks"
    assert np.degrees(np.arccos((np.trace(known.T @ detected) - 1) / 2)) < 6
    assert frames[1].scale == pytest.approx(frames[0].scale, rel=0.08)


def test_the_same_scan_gives_the_same_bytes_with_any_number_of_threads(face, monkeypatch):
    first = detect(face)
    monkeypatch.setattr(detection, "NUM_THREADS", 1)
    second = detect(face)
    assert first.landmarks.tobytes() == second.landmarks.tobytes()
    assert (first.confidence, first.residual) == (second.confidence, second.residual)


def test_landmarks_that_were_cut_off_have_no_confidence(face):
    is_kept = face.vertices[:, 1] > -30  # without mouth and chin
    found = detect(Mesh.build(face.vertices, face.faces[is_kept[face.faces].all(axis=1)]))
    assert found.confidences[[8, 48, 54, 57]].max() < found.confidences[[36, 39, 42, 45]].min()
    assert np.isfinite(found.landmarks).all()


def test_face_of_a_whole_body_is_found(face):
    head = build_ball((0, 10, -75), (72, 105, 80))
    trunk, legs = build_ball((0, -450, -75), (190, 330, 110)), build_ball((0, -1150, -75), (150, 560, 100))
    found = detect(transform(join(face, head, trunk, legs), ROTATIONS[7], 0.001, 0.0))
    errors = np.linalg.norm(found.landmarks * 1000 @ ROTATIONS[7].T - face.landmarks, axis=1)
    assert np.median(errors) < 6
    assert found.confidence > 0.3


def test_a_ball_is_hardly_a_face(face):
    found = detect(build_ball())
    assert found is None or found.confidence < 0.5 * detect(face).confidence


def test_a_mesh_without_extent_has_no_face():
    assert detect(Mesh.build(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]]))) is None


def test_shipped_weights_are_small_and_match_their_card():
    folder = detection.files("smile_pipe.pipeline.landmarks")
    assert len((folder / "detector.npz").read_bytes()) < 2_000_000
    with np.load(str(folder / "detector.npz"), allow_pickle=False) as arrays:
        num = sum(arrays[name].size for name in arrays.files if name not in ("mean", "modes"))
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)
    assert f"{num:,} parameters" in (folder / "README.md").read_text()


def test_a_file_that_is_not_of_weights_is_an_error(tmp_path):
    np.savez(tmp_path / "x.npz", mean=np.zeros((68, 3)))
    with pytest.raises(KeyError):
        LandmarkDetector.load(tmp_path / "x.npz")


def test_detection_imports_no_torch():
    code = "import sys, smile_pipe.pipeline.landmarks.detection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_surface_of_few_faces_is_not_searched(face, monkeypatch):
    few = Mesh.build(face.vertices, face.faces[: detection.MIN_FACES - 1])
    monkeypatch.setattr(detection, "draw_views", lambda *given: pytest.fail("searched"))
    assert detect(few) is None


def with_floor(mesh: Mesh, is_first: bool) -> Mesh:
    """The face, and a floor of 2 m x 2 m of two triangles below it."""
    corners = np.array([[x, -120, z] for x in (-1000, 1000) for z in (-1000, 1000)], np.float32)
    floor = np.array([[0, 1, 2], [1, 3, 2]], np.int32) + len(mesh.vertices)
    faces = np.concatenate([floor, mesh.faces] if is_first else [mesh.faces, floor])
    return Mesh.build(np.concatenate([mesh.vertices, corners]), faces.astype(np.int32))


def with_stray_vertex(mesh: Mesh, metres: float) -> Mesh:
    vertices = mesh.vertices.copy()
    vertices[100] += np.float32([0, 1000 * metres, 0])
    return Mesh.build(vertices, mesh.faces)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda mesh: with_floor(mesh, True), id="floor first"),
        pytest.param(lambda mesh: with_floor(mesh, False), id="floor last"),
        pytest.param(lambda mesh: with_stray_vertex(mesh, 10), id="10 m"),
        pytest.param(lambda mesh: with_stray_vertex(mesh, 1000), id="1 km"),
    ],
)
def test_large_planes_and_stray_vertices_do_not_hide_the_face(face, change):
    scan = change(replace(face, landmarks=None))
    found = detect(scan)
    errors = np.linalg.norm(found.landmarks - face.landmarks, axis=1)
    assert found.confidence > 0.5 and np.median(errors) < 4
    # Without landmarks the frame is that of the face as well.
    expected = canonical_frame(replace(face, landmarks=None))
    assert canonical_frame(scan).scale == pytest.approx(expected.scale, rel=0.1)
