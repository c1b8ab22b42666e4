"""The small datasets: each is detected by its layout, and its files are faces."""

import time

import numpy as np
import pytest

from helpers.small_datasets import DATASETS
from smile_pipe.pipeline.datasets import LAYOUTS, find_samples
from smile_pipe.pipeline.landmarks.alignment import canonical_frame
from smile_pipe.pipeline.landmarks.files import read_landmarks
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.texture import read_texture

# What each has of two subjects: samples, frames of a sequence or None, landmarks or None, has textures.
EXPECTED = {
    "bu3dfe": (14, None, 83, True),
    "bu4dfe": (6, 4, 83, True),
    "bosphorus": (12, None, 22, True),
    "bp4d": (6, 4, None, True),
    "coma": (6, 4, None, False),
    "facescape": (8, None, None, True),
    "ict": (8, None, None, False),
}
IGNORED = {
    "bu3dfe": ("2 files *_RAW.wrl",),
    "bosphorus": ("14 files *.lm2", "2 files *.bnt", "2 files *.lm3", "2 files *.png"),
}


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """Each dataset with two subjects, and the seconds that it took to write."""
    made = {}
    for name, write in DATASETS.items():
        root = tmp_path_factory.mktemp(name)
        start = time.perf_counter()
        write(root, 2)
        made[name] = root, time.perf_counter() - start
    return made


def test_every_layout_has_a_small_dataset():
    assert DATASETS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", DATASETS)
def test_each_is_detected_and_written_quickly(roots, name):
    root, seconds = roots[name]
    found = find_samples(root, "auto")
    assert (found.layout, found.skipped) == (name, IGNORED.get(name, ()))
    assert seconds < 20


@pytest.mark.parametrize("name", EXPECTED)
def test_each_has_its_expected_samples(roots, name):
    root, _ = roots[name]
    num_samples, num_frames, num_landmarks, textured = EXPECTED[name]
    samples = find_samples(root, "auto").samples
    assert len(samples) == num_samples
    for sample in samples:
        assert len(sample.frames) == (num_frames or 1) and (sample.frame_rate is None) == (num_frames is None)
        scan = sample.frames[-1]
        assert (scan.texture is not None) == textured and (scan.landmarks is not None) == (num_landmarks is not None)
        mesh = read_mesh(root / scan.mesh)
        assert 400 < len(mesh.vertices) < 3000 and len(mesh.faces) > 700
        if scan.texture:
            assert read_texture(root / scan.texture).shape == (64, 64, 3)
        if scan.landmarks:
            points = read_landmarks(root / scan.landmarks)
            assert points.shape == (num_landmarks, 3)
            nearest = np.linalg.norm(points[:, None] - mesh.vertices[None], axis=2).min(axis=1)
            assert nearest.max() < 7 and np.median(nearest) < 2


@pytest.mark.parametrize("name", ["bu3dfe", "bu4dfe"])
def test_landmarks_align_to_a_face(roots, name):
    root, _ = roots[name]
    for sample in find_samples(root, "auto").samples:
        mesh = read_mesh(root / sample.frames[0].mesh)
        marked = type(mesh)(**vars(mesh) | {"landmarks": read_landmarks(root / sample.frames[0].landmarks)})
        assert canonical_frame(marked).method == "landmarks"
        rows = np.loadtxt(root / sample.frames[0].landmarks)
        on_vertices = mesh.vertices[rows[:, 0].astype(int)]
        assert np.linalg.norm(on_vertices - rows[:, 1:], axis=1).max() < 7


def test_folder_has_scans_sequences_and_a_double_label(roots):
    samples = {sample.key: sample for sample in find_samples(roots["folder"][0], "auto").samples}
    found = {
        key: (s.expression, len(s.frames), s.frame_rate, s.action_units) for key, s in samples.items() if "1" in key
    }
    assert found == {
        "person-1-rest": ("NE", 1, None, {"AU12": 0.0}),
        "person-1-wide-eyed": ("FE;SU", 1, None, None),
        "person-1-happy": ("HA", 4, 60.0, {"AU12": 0.5}),
        "person-1-angry": ("AN", 4, 30.0, None),
    }
    assert samples["person-1-wide-eyed"].neutral == samples["person-1-rest"].frames[0]
