"""Predictions of scans as they come: turned, in other units, without landmarks, or without a face."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from smile_pipe.cli.main import app
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.predict.predictor import Predictor

ROTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(np.eye(3)[list(order)] * signs) > 0
]


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    return Predictor.load(run_dir)


@pytest.fixture(scope="module")
def mesh(faces_dir: Path) -> Mesh:
    """A face without its landmarks."""
    return read_scan(next(path for path in sorted(faces_dir.rglob("*SU04*")) if path.suffix == ".wrl"), None)


def test_answer_is_the_same_in_24_rotations_and_any_unit(predictor, mesh, faces_dir, tmp_path):
    answers = []
    for number, rotation in enumerate(ROTATIONS):
        vertices = mesh.vertices @ rotation * (1.0, 0.001, 39.37)[number % 3]
        (found,) = predictor.predict(write_obj(tmp_path / f"{number:02d}.obj", vertices, mesh.faces))
        assert (found.alignment, found.notes) == ("detected", "") and found.confidence > 0.4, number
        answers.append(list(found.probabilities.values()))
    upright = next(number for number, rotation in enumerate(ROTATIONS) if (rotation == np.eye(3)).all())
    spread = np.abs(np.array(answers) - answers[upright]).max(axis=0)
    (neutral,) = predictor.predict(next(path for path in sorted(faces_dir.rglob("*NE00*")) if path.suffix == ".wrl"))
    other = np.abs(np.array(list(neutral.probabilities.values())) - answers[upright]).max()
    # The model has hardly been trained, so all answers are near one another; another face is still further away.
    assert spread.max() < min(0.02, other), (spread.max(), other)
    assert len({int(np.argmax(answer)) for answer in answers}) == 1


def test_upright_face_is_read_as_with_its_landmarks(predictor, mesh, faces_dir, tmp_path):
    scan = next(path for path in sorted(faces_dir.rglob("*SU04*")) if path.suffix == ".wrl")
    (with_landmarks,) = predictor.predict(scan)
    (detected,) = predictor.predict(write_obj(tmp_path / "face.obj", mesh.vertices, mesh.faces))
    assert (with_landmarks.alignment, with_landmarks.confidence) == ("landmarks", None)
    assert detected.alignment == "detected"
    for name, probability in with_landmarks.probabilities.items():
        assert detected.probabilities[name] == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(("source", "alignment"), [("auto", "detected"), ("detect", "detected"), ("file", "bounds")])
def test_option_selects_the_landmarks(run_dir, mesh, tmp_path, source, alignment):
    path = write_obj(tmp_path / "face.obj", mesh.vertices, mesh.faces)
    done = CliRunner().invoke(app, ["predict", str(run_dir), str(path), "--landmarks", source, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["predictions"][0]["alignment"] == alignment


def test_wrong_unit_is_a_failure_that_names_the_right_one(run_dir, mesh, tmp_path):
    path = write_obj(tmp_path / "face.obj", mesh.vertices / 25.4, mesh.faces)
    (found,) = Predictor.load(run_dir, units="in").predict(path)
    assert (found.failure, found.alignment) == (None, "detected")
    done = CliRunner().invoke(app, ["predict", str(run_dir), str(path), "--units", "mm"], env={"COLUMNS": "200"})
    assert done.exit_code != 0 and "mean one; use `units=in`" in done.stdout


def test_answer_on_what_shows_no_face_is_marked(run_dir, tmp_path):
    u, v = np.meshgrid(np.linspace(0, np.pi, 20), np.linspace(0, 2 * np.pi, 40), indexing="ij")
    ball = np.stack([np.sin(u) * np.cos(v), np.cos(u), 1.7 * np.sin(u) * np.sin(v)], axis=-1).reshape(-1, 3)
    index = np.arange(800).reshape(20, 40)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    path = write_obj(tmp_path / "ball.obj", 80 * ball, faces)
    done = CliRunner().invoke(app, ["predict", str(run_dir), str(path)], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "no face found (confidence 0." in done.stdout
    (found,) = Predictor.load(run_dir).predict(path)
    assert found.alignment == "bounds" and "no face found" in found.notes
