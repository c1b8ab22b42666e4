"""The landmark training stage: it writes weights that the detector reads, and the same ones from the same options."""

import json

import numpy as np
import pytest

from helpers.shared_faces import ICT_FILE, MISSING
from smile_pipe.pipeline.landmark_training import stage
from smile_pipe.pipeline.landmark_training.config import LandmarkTrainingConfig
from smile_pipe.pipeline.landmark_training.faces import MIRRORED, build_sources, shape_model
from smile_pipe.pipeline.landmark_training.samples import SceneSpec, draw_scene, visible_points
from smile_pipe.pipeline.landmarks.detection import COARSE, COARSE_SIZE, FINE_SIZE, FINE_YAWS, LandmarkDetector
from smile_pipe.pipeline.landmarks.view_images import draw_views, look_along
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.shards.errors import UsageError

NEEDS_ICT = pytest.mark.skipif(not ICT_FILE.exists(), reason=MISSING)
FACE_MODELS = [("parametric",), pytest.param((str(ICT_FILE),), marks=NEEDS_ICT)]


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(stage, "FIRST_SCENES", 2)
    monkeypatch.setattr(stage, "BATCH", {"coarse": 2, "fine": 2})


@pytest.mark.slow
def test_equal_options_give_equal_weights_and_finished_ones_are_kept(tmp_path, _small):
    first, second = (LandmarkTrainingConfig(out=tmp_path / f"{name}.npz", steps=2, seed=3) for name in "ab")
    manifest = stage.run(first)
    assert manifest.num_scenes == 4
    assert stage.run(second) == manifest
    assert first.out.read_bytes() == second.out.read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["steps"] == 2
    first.out.write_bytes(b"kept")
    assert stage.run(first) == manifest
    assert first.out.read_bytes() == b"kept"
    stage.run(first.model_copy(update={"seed": 4}))
    assert LandmarkDetector.load(first.out).faces.mean.shape == (68, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npz", "b.json", "b.npz"]


def test_missing_folder_and_wrong_model_are_reported(tmp_path):
    with pytest.raises(UsageError, match="folder does not exist"):
        stage.run(LandmarkTrainingConfig(out=tmp_path / "no" / "a.npz", steps=1))
    with pytest.raises(UsageError, match="does not exist"):
        stage.run(LandmarkTrainingConfig(out=tmp_path / "a.npz", steps=1, face_model=(str(tmp_path / "x.npz"),)))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_in_a_file_of_their_own(tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.npz"):
        stage.run(LandmarkTrainingConfig(out=tmp_path / "a.json", steps=1))


def test_another_content_of_a_face_model_has_another_fingerprint(tmp_path):
    model = tmp_path / "model.npz"
    config = LandmarkTrainingConfig(out=tmp_path / "a.npz", face_model=("parametric", str(model)))
    fingerprints = []
    for content in (b"one", b"two"):
        model.write_bytes(content)
        fingerprints.append(stage._fingerprint(config))
    assert fingerprints[0] != fingerprints[1]


@pytest.mark.parametrize("face_models", FACE_MODELS)
def test_a_scene_depends_on_its_seed_and_number_only(face_models):
    mean = tuple(map(tuple, shape_model(build_sources(face_models), 0, 3)[0].tolist()))
    drawn = {
        (seed, number): draw_scene(SceneSpec(face_models, mean, seed, number))
        for seed, number in ((0, 5), (0, 6), (1, 5))
    }
    again = draw_scene(SceneSpec(face_models, mean, 0, 5))
    for one, other in zip(drawn[0, 5], again, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.points, other.points)
    assert not np.array_equal(drawn[0, 5][0].images, drawn[0, 6][0].images)
    assert not np.array_equal(drawn[0, 5][0].images, drawn[1, 5][0].images)
    coarse, fine = again
    assert coarse.images.shape[1:] == (COARSE_SIZE, COARSE_SIZE, 4)
    assert coarse.points.shape[1:] == (len(COARSE), 2)
    assert fine.images.shape == (len(FINE_YAWS), FINE_SIZE, FINE_SIZE, 4)
    assert fine.points.shape == (len(FINE_YAWS), 68, 2)


@pytest.mark.parametrize("face_models", FACE_MODELS)
def test_landmarks_of_scenes_are_seen_and_are_on_the_surface(face_models):
    mean = tuple(map(tuple, shape_model(build_sources(face_models), 0, 3)[0].tolist()))
    shares, is_covered = [], []
    for number in range(20):
        _, fine = draw_scene(SceneSpec(face_models, mean, 0, number))
        is_seen = np.isfinite(fine.points[..., 0])
        shares.append(is_seen.mean())
        for image, points, seen in zip(fine.images, fine.points, is_seen, strict=True):
            columns, rows = (np.clip(points[seen] * FINE_SIZE, 0, FINE_SIZE - 1).astype(int)).T
            is_covered += (image[rows, columns, 2] > 0).tolist()
    assert 0 in shares  # scenes without a face
    assert np.median(shares) > 0.6
    assert np.mean(is_covered) > 0.95


def test_points_behind_the_surface_or_on_its_inside_are_not_visible():
    (source,) = build_sources(("parametric",))
    shape = source.draw(np.random.default_rng(2))
    mesh = Mesh.build(shape.vertices.astype(np.float32), shape.faces)
    directions = np.array([[0, 0, 1.0], [1, 0, 0.1], [-1, 0, 0.1], [0, 0, -1]])  # front, both sides, back
    center = shape.landmarks.mean(axis=0)
    views = draw_views(mesh, look_along(directions), np.repeat(center[None], 4, 0), np.full(4, 110.0), 96)
    is_seen = np.isfinite(visible_points(views, shape.landmarks)[..., 0])
    assert is_seen[0].mean() > 0.9
    right, left = [*range(7), 17, 18, 36, 37, 41], [*range(10, 17), 25, 26, 44, 45, 46]
    assert is_seen[1, left].mean() > 0.7 > 0.2 > is_seen[1, right].mean()
    assert is_seen[2, right].mean() > 0.7 > 0.2 > is_seen[2, left].mean()
    assert not is_seen[3].any()
    assert np.isnan(visible_points(views, shape.landmarks[:0])).all()


@pytest.mark.parametrize("face_models", FACE_MODELS)
def test_mean_face_is_symmetric_and_upright(face_models):
    mean, modes = shape_model(build_sources(face_models), 0, 5)
    np.testing.assert_allclose(mean, mean[MIRRORED] * (-1, 1, 1), atol=0.02)
    np.testing.assert_array_equal(MIRRORED[MIRRORED], np.arange(68))
    assert modes.shape == (10, 68, 3)
    assert 5 < np.sqrt((modes**2).sum(axis=(1, 2)))[0] < 200
    right_eye, left_eye, chin, tip = mean[36:42].mean(axis=0), mean[42:48].mean(axis=0), mean[8], mean[30]
    assert left_eye[0] > 20 > -20 > right_eye[0]
    assert chin[1] < mean[57, 1] < tip[1] < left_eye[1] < mean[24, 1]
    assert mean[:, 2].argmax() == 30
    assert np.abs(np.diff(mean[:17], axis=0)).max() < 40


@NEEDS_ICT
def test_faces_of_ict_are_cropped_or_whole():
    (source,) = build_sources((str(ICT_FILE),))
    heights = [
        np.ptp(shape.vertices[shape.faces][..., 1]) for shape in map(source.draw, map(np.random.default_rng, range(12)))
    ]
    assert min(heights) < 220 < 260 < max(heights)
