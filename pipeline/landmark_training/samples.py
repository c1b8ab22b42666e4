"""Training samples: views of randomised scenes, with the landmarks that are visible in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.landmark_training.faces import FaceSource, build_sources
from smile_pipe.pipeline.landmark_training.randomise import Shape, randomise, scene_without_face
from smile_pipe.pipeline.landmarks.detection import (
    COARSE,
    COARSE_SIZE,
    FINE_HALF_SPAN,
    FINE_SIZE,
    FINE_YAWS,
    NUM_LANDMARKS,
)
from smile_pipe.pipeline.landmarks.landmark_fit import fit_similarity
from smile_pipe.pipeline.landmarks.view_images import Views, bounds, draw_views, look_along, rotation_about
from smile_pipe.pipeline.meshes.mesh import Mesh

Floats = NDArray[np.float64]
# Largest integer of a stored image; a scene is sent between processes and waits in memory as int8.
SCALE = 127
# Landmarks that are further behind the surface are hidden, mm on a face of usual size.
_HIDDEN_MM = 7.0
# Smallest cosine of the angle between a face and a view; from further behind, one sees the inside of a mask.
_MIN_FRONT = -0.1
_NEGATIVE_SHARE = 0.12


@dataclass(frozen=True, eq=False)
class TrainingViews:
    """Views of one network.

    Attributes:
        images: int8 [N, H, W, 4], the input of the network times `SCALE`.
        points: float32 [N, L, 2], column and row relative to the size of the image; NaN if hidden or outside.
    """

    images: NDArray[np.int8]
    points: NDArray[np.float32]


@dataclass(frozen=True)
class SceneSpec:
    """What decides a scene: the face models, the seed, the number of the scene, and the views to draw.

    Attributes:
        face_models: see `build_sources`.
        mean: the mean face, [68, 3], as nested tuples.
        seed, number: seeds of the scene.
        num_coarse: views for the first network.
    """

    face_models: tuple[str, ...]
    mean: tuple[tuple[float, float, float], ...]
    seed: int
    number: int
    num_coarse: int = 8


@lru_cache(maxsize=1)
def _sources(face_models: tuple[str, ...]) -> list[FaceSource]:
    return build_sources(face_models)


def draw_scene(spec: SceneSpec) -> tuple[TrainingViews, TrainingViews]:
    """Draw the views of one scene for the first (coarse) and the second (fine) network."""
    rng = np.random.default_rng([spec.seed, spec.number])
    if rng.uniform() < _NEGATIVE_SHARE:
        shape = scene_without_face(rng)
    else:
        sources = _sources(spec.face_models)
        shape = randomise(sources[rng.integers(len(sources))].draw(rng), rng)
    mesh = Mesh.build(shape.vertices.astype(np.float32), shape.faces)
    coarse = _coarse_views(mesh, shape, spec.num_coarse, rng)
    mean = np.array(spec.mean)
    return _pack(coarse, shape.landmarks, COARSE, rng), _pack(
        _fine_views(mesh, shape, mean, rng), shape.landmarks, range(len(mean)), rng
    )


def _coarse_views(mesh: Mesh, shape: Shape, num: int, rng: np.random.Generator) -> Views:
    """Views from all sides, most of them of the face, of the whole scan or of a part around the face."""
    center, extent = bounds(mesh)
    front = rng.normal((0, 0, 1.0), 0.55, (num, 3))
    anywhere = rng.normal(size=(num, 3))
    directions = np.where(rng.uniform(size=(num, 1)) < 0.75, front, anywhere)
    rotations = _rolled(look_along(directions), rng.uniform(0, 360, num))
    half_spans = extent * rng.uniform(0.75, 1.5, num)
    centers = center + rng.normal(0, 0.08, (num, 3)) * extent
    if len(shape.landmarks):
        is_zoomed = rng.uniform(size=num) < 0.5
        half_spans = np.where(is_zoomed, rng.uniform(80, 220, num), half_spans)
        target = shape.landmarks.mean(axis=0) + rng.normal(0, 22, (num, 3))
        centers = np.where(is_zoomed[:, None], target, centers)
    return draw_views(mesh, rotations, centers, half_spans, COARSE_SIZE)


def _fine_views(mesh: Mesh, shape: Shape, mean: Floats, rng: np.random.Generator) -> Views:
    """Views of the face as the detector draws them, with the errors of a first fit."""
    if len(shape.landmarks):
        scale, R, T = fit_similarity(mean, shape.landmarks)
    else:
        center, extent = bounds(mesh)
        scale, R, T = extent / FINE_HALF_SPAN, look_along(rng.normal(size=(1, 3)))[0].T, center
    rotations, centers, half_spans = [], [], []
    for yaw in FINE_YAWS:
        turn = rotation_about((0, 1, 0), yaw + rng.normal(0, 7))
        turn = turn @ rotation_about((1, 0, 0), rng.normal(0, 7)) @ rotation_about((0, 0, 1), rng.normal(0, 7))
        rotations.append(R.T @ turn)
        centers.append(T + scale * rng.normal(0, 6, 3) @ R)
        half_spans.append(FINE_HALF_SPAN * scale * np.exp(rng.normal(0, 0.06)))
    return draw_views(mesh, np.array(rotations), np.array(centers), np.array(half_spans), FINE_SIZE)


def _rolled(rotations: Floats, degrees: Floats) -> Floats:
    return np.stack([R @ rotation_about((0, 0, 1), roll) for R, roll in zip(rotations, degrees, strict=True)])


def _pack(views: Views, landmarks: Floats, numbers: Sequence[int], rng: np.random.Generator) -> TrainingViews:
    points = visible_points(views, landmarks)[:, list(numbers)]
    return TrainingViews(_degrade(views.images, rng), points.astype(np.float32))


def visible_points(views: Views, landmarks: Floats) -> Floats:
    """Project the landmarks [68, 3] (or [0, 3], without a face) to views: [V, 68, 2], NaN where they are not visible.

    A landmark is not visible if it is outside of the image, behind the surface, where the surface is cut off, or in a
    view of the inside of a face.
    """
    points = np.full((len(views.images), NUM_LANDMARKS, 2), np.nan)
    if len(landmarks) == 0:
        return points
    size = views.images.shape[1]
    tolerance = _HIDDEN_MM * np.linalg.norm(landmarks[36] - landmarks[45]) / 90
    front = np.cross(landmarks[45] - landmarks[36], landmarks[27] - landmarks[8])
    front /= np.linalg.norm(front)
    for v in range(len(points)):
        if views.rotations[v][:, 2] @ front < _MIN_FRONT:
            continue
        projected = views.project(v, landmarks)
        pixel = np.clip((projected[:, :2] * size).astype(int), 0, size - 1)
        is_inside = (np.abs(projected[:, :2] - 0.5) < 0.5).all(axis=1)
        heights = np.pad(np.nan_to_num(views.depths[v], nan=-np.inf), 1, constant_values=-np.inf)
        around = [heights[pixel[:, 1] + row, pixel[:, 0] + column] for row in range(3) for column in range(3)]
        # A point at an edge may have background in its pixel and is visible; one that was cut off is not.
        is_hidden = heights[pixel[:, 1] + 1, pixel[:, 0] + 1] > projected[:, 2] + tolerance
        is_missing = np.max(around, axis=0) < projected[:, 2] - 2 * tolerance
        points[v] = np.where((is_inside & ~is_hidden & ~is_missing)[:, None], projected[:, :2], np.nan)
    return points


def _degrade(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int8]:
    """Smooth some of the images, as coarse scanners do, and add noise; then round to integers."""
    images = images.copy()
    for image in images:
        if rng.uniform() < 0.25:
            covered = image[..., 2] > 0
            rows = (image[:-2] + image[1:-1] + image[2:]) / 3
            blurred = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3
            inner = image[1:-1, 1:-1]
            inner[:] = np.where(covered[1:-1, 1:-1, None], blurred, inner)
        if rng.uniform() < 0.3:
            noise = rng.normal(0, rng.uniform(0, 0.12), image.shape).astype(np.float32)
            image += np.where(image[..., 2:3] > 0, noise * (1, 1, 1, 0.2), 0).astype(np.float32)
    return np.round(np.clip(images, -1, 1) * SCALE).astype(np.int8)
