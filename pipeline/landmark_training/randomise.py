"""Domain randomisation: what scanners, crops, hair and clothes do to a face, and scenes without a face.

Numbers are our choice: wider than what is seen on real scans, so that these are inside of what was learned.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Generator = np.random.Generator


@dataclass(frozen=True, eq=False)
class Shape:
    """A surface with landmarks.

    Attributes:
        vertices: float64 [V, 3], millimetres.
        faces: int32 [F, 3].
        landmarks: float64 [68, 3], or [0, 3] if there is no face.
    """

    vertices: Floats
    faces: NDArray[np.int32]
    landmarks: Floats


NO_LANDMARKS = np.zeros((0, 3))


def randomise(shape: Shape, rng: Generator) -> Shape:
    """Deform, crop, damage and surround a face (millimetres, facing +z)."""
    if rng.uniform() < 0.3:
        shape = _add_hair(shape, rng)
    if rng.uniform() < 0.35:
        shape = _add_head(shape, rng)
    shape = warp(shape, rng)
    if rng.uniform() < 0.35:
        shape = _crop_sphere(shape, rng)
    if rng.uniform() < 0.3:
        shape = _crop_plane(shape, rng)
    if rng.uniform() < 0.3:
        shape = _cut_holes(shape, rng)
    if rng.uniform() < 0.25:
        shape = _decimate(shape, rng)
    if rng.uniform() < 0.5:
        shape = _add_noise(shape, rng)
    if rng.uniform() < 0.2:
        shape = _add_debris(shape, rng)
    return shape


def scene_without_face(rng: Generator) -> Shape:
    """Draw a union of ellipsoids, boxes and capsules, some like a hand or an animal."""
    parts = []
    if rng.uniform() < 0.4:  # a palm with fingers, or a trunk with legs
        parts.append(_blob(np.zeros(3), rng.uniform((30, 35, 10), (60, 60, 40)), rng))
        for x in np.linspace(-35, 35, rng.integers(3, 6)):
            length = rng.uniform(25, 60)
            parts.append(_blob(np.array([x, 45 + length, rng.uniform(-20, 20)]), np.array([9, length, 9]), rng))
    else:
        for _ in range(rng.integers(1, 9)):
            build = _box if rng.uniform() < 0.3 else _blob
            parts.append(build(rng.normal(0, 50, 3), rng.uniform(8, 90, 3), rng))
    return _add_noise(warp(_union(parts), rng), rng)


def _union(parts: list[Shape]) -> Shape:
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Shape(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
        np.concatenate([part.landmarks for part in parts]),
    )


def warp(shape: Shape, rng: Generator) -> Shape:
    """Scale along the axes, shear, and move smoothly by waves; all of it moves the landmarks too."""
    matrix = np.diag(np.exp(rng.normal(0, 0.08, 3))) + rng.normal(0, 0.03, (3, 3))
    num_waves = 6
    lengths = rng.uniform(50, 260, num_waves)
    directions = rng.normal(size=(num_waves, 3))
    directions *= (2 * np.pi / lengths / np.linalg.norm(directions, axis=1))[:, None]
    moves = rng.normal(0, 0.012, (num_waves, 3)) * lengths[:, None]
    phases = rng.uniform(0, 2 * np.pi, num_waves)

    def move(points: Floats) -> Floats:
        return points @ matrix + np.sin(points @ directions.T + phases) @ moves

    return replace(shape, vertices=move(shape.vertices), landmarks=move(shape.landmarks))


def _keep(shape: Shape, is_kept: NDArray[np.bool_]) -> Shape:
    """Keep the faces between kept vertices, unless hardly anything is left."""
    faces = shape.faces[is_kept[shape.faces].all(axis=1)]
    return shape if len(faces) < 0.15 * len(shape.faces) else replace(shape, faces=faces)


def _crop_sphere(shape: Shape, rng: Generator) -> Shape:
    center = shape.landmarks[30] + rng.normal(0, 8, 3)
    return _keep(shape, np.linalg.norm(shape.vertices - center, axis=1) < rng.uniform(65, 150))


def _crop_plane(shape: Shape, rng: Generator) -> Shape:
    normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    return _keep(shape, (shape.vertices - shape.landmarks.mean(axis=0)) @ normal < rng.uniform(35, 110))


def _cut_holes(shape: Shape, rng: Generator) -> Shape:
    is_kept = np.ones(len(shape.vertices), bool)
    for _ in range(rng.integers(1, 6)):
        center = shape.vertices[rng.integers(len(shape.vertices))]
        is_kept &= np.linalg.norm(shape.vertices - center, axis=1) > rng.uniform(3, 14)
    return _keep(shape, is_kept)


def _decimate(shape: Shape, rng: Generator) -> Shape:
    """Merge all vertices in a cell of a grid."""
    cells = np.floor(shape.vertices / rng.uniform(2, 6.5) + rng.uniform(size=3)).astype(np.int64)
    cells -= cells.min(axis=0)
    _, cell = np.unique(cells @ (1, 1 << 20, 1 << 40), return_inverse=True)
    counts = np.bincount(cell)
    merged = np.stack([np.bincount(cell, shape.vertices[:, axis]) / counts for axis in range(3)], axis=1)
    faces = cell[shape.faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (a != c)]
    return Shape(merged, faces.astype(np.int32), shape.landmarks) if len(faces) > 200 else shape


def _add_noise(shape: Shape, rng: Generator) -> Shape:
    noise = rng.normal(0, 1, shape.vertices.shape) * rng.choice([0.1, 0.25, 0.5, 0.8])
    return replace(shape, vertices=shape.vertices + noise)


def _add_hair(shape: Shape, rng: Generator) -> Shape:
    """Add a cap over the crown, and in some cases long hair on both sides."""
    eyes = shape.landmarks[36:48].mean(axis=0)
    cap = _blob(eyes + rng.normal((0, 52, -88), (4, 8, 10)), rng.uniform((72, 55, 85), (92, 85, 115)), rng, rough=True)
    parts = [shape, cap]
    if rng.uniform() < 0.4:
        size = rng.uniform((14, 70, 30), (30, 130, 60))
        for side in (-1, 1):
            shift = np.array([side * rng.uniform(76, 92), -40, -85])
            parts.append(_blob(eyes + shift, size, rng, rough=True))
    return _union(parts)


def _add_head(shape: Shape, rng: Generator) -> Shape:
    """Add a neck, and in many cases shoulders and chest, the back of the head, and ears."""
    chin = shape.landmarks[8]
    neck = _blob(chin + rng.normal((0, -40, -75), 8), rng.uniform((48, 70, 48), (68, 100, 68)), rng)
    parts = [shape, neck]
    if rng.uniform() < 0.7:
        parts.append(_blob(chin + rng.normal((0, -130, -90), 15), rng.uniform((150, 60, 70), (230, 130, 120)), rng))
    if rng.uniform() < 0.6:
        radii = rng.uniform((4, 22, 10), (9, 32, 18))
        shift = rng.uniform((4, -25, -28), (14, -5, -6))
        for side, end in ((-1, shape.landmarks[0]), (1, shape.landmarks[16])):
            parts.append(_blob(end + shift * (side, 1, 1), radii, rng, rough=True))
    if rng.uniform() < 0.5:
        parts.append(_blob(chin + rng.normal((0, 125, -100), 6), rng.uniform((66, 85, 75), (78, 100, 90)), rng))
    return _union(parts)


def _add_debris(shape: Shape, rng: Generator) -> Shape:
    parts = [shape]
    for _ in range(rng.integers(1, 4)):
        direction = rng.normal(size=3)
        center = shape.landmarks.mean(axis=0) + direction / np.linalg.norm(direction) * rng.uniform(90, 220)
        parts.append(_blob(center, rng.uniform(3, 25, 3), rng))
    return _union(parts)


def _blob(center: Floats, radii: Floats, rng: Generator, rough: bool = False) -> Shape:
    """Build an ellipsoid, with waves on its surface if `rough`."""
    ray = _BALL_VERTICES
    scale = np.ones((len(ray), 1))
    if rough:
        for frequency, height in ((3, 0.06), (8, 0.03), (17, 0.015)):
            wave = rng.normal(size=3) * frequency
            scale = scale + rng.uniform(0, height) * np.sin(ray @ wave + rng.uniform(0, 7))[:, None]
    return Shape(center + ray * radii * scale, _BALL_FACES, NO_LANDMARKS)


def _box(center: Floats, radii: Floats, rng: Generator) -> Shape:
    """Build a box, turned at random, as a ball that is pushed outwards to its sides."""
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    corners = _BALL_VERTICES / np.abs(_BALL_VERTICES).max(axis=1, keepdims=True)
    return Shape(center + corners * radii @ turn, _BALL_FACES, NO_LANDMARKS)


def _ball(num_rows: int = 24, num_columns: int = 40) -> tuple[Floats, NDArray[np.int32]]:
    rows, columns = np.meshgrid(np.linspace(0, np.pi, num_rows), np.linspace(0, 2 * np.pi, num_columns), indexing="ij")
    rays = np.stack([np.sin(rows) * np.cos(columns), np.cos(rows), np.sin(rows) * np.sin(columns)], axis=-1)
    index = np.arange(num_rows * num_columns, dtype=np.int32).reshape(num_rows, num_columns)
    a, b, c, d = (q.ravel() for q in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    return rays.reshape(-1, 3), np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])


_BALL_VERTICES, _BALL_FACES = _ball()
