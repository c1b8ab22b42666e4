"""Other heads from the scans of a person: random changes of shape, the same for all of the person's scans.

A model that learned from the heads of one source reads those of others badly, because it learned how they are made as
well: proportions, creases, the grain of the mesh. Varied shapes are further training data (`RenderConfig.variant`);
model/README.md has what they are worth. The constants are ours.

Only sums, products and roundings are used, in a fixed order: the result is equal on any machine.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh

Floats = NDArray[np.float64]

# Increase it when an equal variant gives other shapes.
VERSION = 1
# Deviations of the scale along each axis, and of each other element of the linear map.
_STRETCH, _SHEAR = 0.08, 0.03
# Waves that move the surface: their number, shortest and longest length in units of 90 mm, and the deviation of their
# height relative to their length.
_NUM_WAVES, _LENGTHS, _HEIGHT = 6, (0.55, 2.9), 0.012
# Rounds of smoothing, of which one is drawn.
_ROUNDS = (0, 2, 6, 14)


@dataclass(frozen=True, eq=False)
class Variation:
    """A random change of shape, in the canonical frame (unit 90 mm).

    Attributes:
        matrix: linear map of row vectors, [3, 3].
        waves: frequency vectors of the waves, [W, 3], in periods per unit.
        phases: of the waves, [W], in periods.
        moves: displacement at the crest of each wave, [W, 3].
        rounds: rounds of smoothing.
    """

    matrix: Floats
    waves: Floats
    phases: Floats
    moves: Floats
    rounds: int

    @classmethod
    def of(cls, subject: str, variant: int) -> Self:
        """Draw the change of a person; other variants give other changes."""
        seed = blake3(f"{VERSION} {variant} {subject}".encode()).digest(8)
        rng = np.random.default_rng(int.from_bytes(seed))
        matrix = np.eye(3) + rng.normal(0, _SHEAR, (3, 3))
        matrix[np.diag_indices(3)] = 1 + np.clip(rng.normal(0, _STRETCH, 3), -2 * _STRETCH, 2 * _STRETCH)
        lengths = rng.uniform(*_LENGTHS, _NUM_WAVES)[:, None]
        directions = rng.normal(size=(_NUM_WAVES, 3))
        waves = directions / np.sqrt((directions**2).sum(axis=1, keepdims=True)) / lengths
        moves = rng.normal(0, _HEIGHT, (_NUM_WAVES, 3)) * lengths
        return cls(matrix, waves, rng.uniform(size=_NUM_WAVES), moves, int(rng.choice(_ROUNDS)))

    def apply(self, mesh: Mesh) -> Mesh:
        """Change the shape of a mesh in the canonical frame, with its landmarks; it has no flow yet.

        Landmarks are moved, not smoothed: smoothing moves the surface by less than the errors of landmarks.
        """
        vertices = self._move(smooth(mesh.vertices.astype(np.float64), mesh.faces, self.rounds))
        landmarks = None if mesh.landmarks is None else self._move(mesh.landmarks.astype(np.float64)).astype(np.float32)
        return replace(mesh, vertices=vertices.astype(np.float32), landmarks=landmarks)

    def _move(self, points: Floats) -> Floats:
        """Move points [N, 3] by the linear map and the waves."""
        x, y, z = (points[:, [axis]] for axis in range(3))
        moved = x * self.matrix[0] + y * self.matrix[1] + z * self.matrix[2]
        for wave, phase, move in zip(self.waves, self.phases, self.moves, strict=True):
            moved += _wave(x * wave[0] + y * wave[1] + z * wave[2] + phase) * move
        return moved


def smooth(vertices: Floats, faces: NDArray[np.int32], rounds: int) -> Floats:
    """Move each vertex half of the way to the mean of its neighbours, so many times; lone vertices stay.

    Args:
        vertices: [V, 3].
        faces: [F, 3].
        rounds: how often.
    """
    a, b, c = faces.T
    # Each edge of each face in both directions: an edge inside of the surface counts twice, one at its border once.
    sources, targets = np.concatenate([a, b, c, b, c, a]), np.concatenate([b, c, a, a, b, c])
    counts = np.bincount(targets, minlength=len(vertices))[:, None]
    for _ in range(rounds):
        sums = [np.bincount(targets, vertices[sources, axis], len(vertices)) for axis in range(3)]
        means = np.stack(sums, axis=1) / np.maximum(counts, 1)
        vertices = np.where(counts > 0, 0.5 * (vertices + means), vertices)
    return vertices


def _wave(turns: Floats) -> Floats:
    """A wave of period 1 and height 1 that consists of parabolas; it differs from a sine by less than 0.06."""
    part = turns - np.round(turns)
    return 8 * part * (1 - 2 * np.abs(part))
