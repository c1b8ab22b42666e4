"""Faces that the landmark detector learns from: meshes of the face models with their 68 landmarks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.face_model.actor import ActorStyle, sample_action_units
from smile_pipe.pipeline.face_model.ict import SHAPES, IctFace
from smile_pipe.pipeline.face_model.ict_files import BEHIND, NARROW_FACE
from smile_pipe.pipeline.face_model.interface import ActionUnits, FaceModel
from smile_pipe.pipeline.face_model.multi_pie import multi_pie_vertices
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmark_training.randomise import Shape, warp
from smile_pipe.pipeline.landmarks.alignment import canonical_frame
from smile_pipe.pipeline.landmarks.landmark_fit import fit_similarity
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM
from smile_pipe.pipeline.meshes.mesh import Mesh

PARAMETRIC = "parametric"
NUM_SHAPES, NUM_MODES = 200, 40  # faces of each source, and principal components of their landmarks
# Vertices of the face with its ears, without neck and back of the head (README of ICT-FaceKit).
_FACE_AND_EARS = range(0, 9409)


class FaceSource(Protocol):
    """Draws random faces of one model, in millimetres, facing +z."""

    def draw(self, rng: np.random.Generator) -> Shape:
        """Draw a face with a random expression."""
        ...


class ParametricSource:
    """Faces of the built-in model."""

    def __init__(self) -> None:
        self._model = ParametricFace()
        self._landmarks = multi_pie_vertices(self._model.chart)

    def draw(self, rng: np.random.Generator) -> Shape:
        """Draw a face; a sixth of them without eyeballs and mouth."""
        mesh = self._model.mesh(self._model.identity(rng), _action_units(rng))
        faces = mesh.faces
        if rng.uniform() < 0.15:
            faces = faces[(faces < len(self._model.chart.x)).all(axis=1)]
        return Shape(mesh.vertices.astype(np.float64), faces, mesh.vertices[self._landmarks].astype(np.float64))


class IctSource:
    """Faces of ICT-FaceKit: narrow, with ears, or whole heads."""

    def __init__(self, path: Path) -> None:
        self._model: FaceModel = IctFace(path, is_cropped=False)
        vertices = np.arange(BEHIND.stop)
        parts = (NARROW_FACE, _FACE_AND_EARS, range(0, BEHIND.start))
        self._crops = [(vertices >= part.start) & (vertices < part.stop) for part in parts]
        self._behind = (vertices >= BEHIND.start) & (vertices < BEHIND.stop)

    def draw(self, rng: np.random.Generator) -> Shape:
        """Draw a face."""
        mesh = self._model.mesh(self._model.identity(rng), _action_units(rng))
        crop = self._crops[rng.integers(len(self._crops))]
        if rng.uniform() < 0.85:
            crop = crop | self._behind
        faces = mesh.faces[crop[mesh.faces].all(axis=1)]
        return Shape(mesh.vertices.astype(np.float64), faces, mesh.vertices[self._model.landmarks].astype(np.float64))


def build_sources(face_models: Sequence[str]) -> list[FaceSource]:
    """Build the sources by name: `parametric`, or the path of ICT-FaceKit.

    Raises:
        UsageError: a path is not ICT-FaceKit.
    """
    return [ParametricSource() if name == PARAMETRIC else IctSource(Path(name)) for name in face_models]


def shape_model(
    sources: Sequence[FaceSource], seed: int, num_faces: int = NUM_SHAPES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and principal components of the landmarks of random faces of all sources and of their mirror images.

    Args:
        sources: where the faces come from.
        seed: random seed.
        num_faces: number of faces of each source.

    Returns:
        The mean, [68, 3], in millimetres about the canonical origin, and the components [K, 68, 3], each of the length
        of one standard deviation.
    """
    samples = []
    for number, source in enumerate(sources):
        rng = np.random.default_rng([seed, number])
        for _ in range(num_faces):
            points = _canonical_landmarks(warp(source.draw(rng), rng))
            samples += [points, points[MIRRORED] * (-1, 1, 1)]
    mean = np.mean(samples, axis=0)
    # The canonical frame is fitted to some of the landmarks. For the deviations, all of them are fitted to the mean.
    fitted = []
    for points in samples:
        scale, R, T = fit_similarity(points, mean)
        fitted.append(scale * points @ R + T)
    deviations = np.reshape(fitted - np.mean(fitted, axis=0), (len(fitted), -1))
    _, singular, components = np.linalg.svd(deviations, full_matrices=False)
    num = min(NUM_MODES, len(singular))
    modes = components[:num] * (singular[:num] / np.sqrt(len(samples)))[:, None]
    return np.round(mean * UNIT_MM, 2), np.round(modes.reshape(num, 68, 3) * UNIT_MM, 3)


def _canonical_landmarks(shape: Shape) -> NDArray[np.float64]:
    mesh = replace(Mesh.build(shape.vertices, shape.faces), landmarks=shape.landmarks.astype(np.float32))
    frame = canonical_frame(mesh)
    return frame.scale * shape.landmarks @ np.array(frame.R) + np.array(frame.T)


def _action_units(rng: np.random.Generator) -> ActionUnits:
    """Draw a basic expression or any mix of action units, of the same strength on both sides or not."""
    if rng.uniform() < 0.5:
        codes = list(EXPRESSIONS)
        return sample_action_units(
            codes[rng.integers(len(codes))], int(rng.integers(1, 5)), ActorStyle.sample(rng), rng
        )
    units = {}
    for name in rng.choice(sorted(SHAPES), size=rng.integers(0, 6), replace=False).tolist():
        strength, side = rng.uniform(0, 1), rng.uniform(-0.3, 0.3)
        units[name] = (strength * (1 + side), strength * (1 - side))
    return units


# Number of the landmark on the other side of the face.
MIRRORED = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *range(27, 31),
        *range(35, 30, -1),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60, 67, 66, 65),
    ]
)
