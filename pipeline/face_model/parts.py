"""Parts behind the slits of the skin: eyeballs, teeth and the mouth cavity."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.curves import Array, smoothstep

# Texture tile of each part: u, v of the lower left corner, width, height.
EYE_TILE = (0.004, 0.004, 0.152, 0.152)
TEETH_TILE = (0.164, 0.004, 0.36, 0.152)
MOUTH_TILE = (0.532, 0.004, 0.2, 0.152)
GAZE = 0.35  # radians, downward rotation of an eyeball by AU64


@dataclass(frozen=True, eq=False)
class Part:
    """A rigid piece of surface.

    Attributes:
        vertices: float64 [V, 3], at rest, millimetres.
        faces: int32 [F, 3].
        uvs: float64 [V, 2].
        jaw: float64 [V], share of the jaw's rotation.
        anchor: float64 [V, 2], point of the chart whose identity modes move the vertex.
        gaze: float64 [V, 3], displacement by AU64.
    """

    vertices: Array
    faces: NDArray[np.int32]
    uvs: Array
    jaw: Array
    anchor: Array
    gaze: Array


def build_parts() -> tuple[Part, ...]:
    """Build both eyeballs (left, right), the upper and lower teeth, and the mouth cavity."""
    return (_eyeball(1), _eyeball(-1), _teeth(0.0, 10.0, -1.0), _teeth(1.0, -2.0, -11.5), _mouth())


def _eyeball(side: int) -> Part:
    away, around = _grid(np.linspace(0, np.deg2rad(100), 15), np.linspace(0, 2 * np.pi, 25))
    ray = np.stack([np.sin(away) * np.cos(around), np.sin(away) * np.sin(around), np.cos(away)], axis=1)
    centre = np.array([side * anatomy.EYE[0], anatomy.EYE[1], anatomy.EYE_DEPTH])
    disc = away / np.deg2rad(100) * 0.5
    uv = np.stack([0.5 + disc * np.cos(around), 0.5 + disc * np.sin(around)], axis=1)
    turned = anatomy.EYE_RADIUS * GAZE * np.stack([0 * away, -ray[:, 2], ray[:, 1]], axis=1)
    return _part(anatomy.EYE_RADIUS * ray + centre, (15, 25), uv, EYE_TILE, np.zeros(len(ray)), centre[:2], turned)


def _teeth(jaw: float, top: float, bottom: float) -> Part:
    t, along = _grid(np.linspace(1, 0, 5), np.linspace(-1, 1, 25))
    x = 23 * np.sin(along * 1.2)
    z = -2.5 - 1.5 * jaw - 24 * (1 - np.cos(along * 1.2)) - 1.5 * np.abs(2 * t - 1) ** 2
    y = anatomy.MOUTH_LINE + bottom + t * (top - bottom)
    v = t if jaw == 0 else 1 - t
    vertices = np.stack([x, y, z], axis=1)
    return _part(vertices, (5, 25), np.stack([0.5 + along / 2, v], axis=1), TEETH_TILE, np.full(len(x), jaw))


def _mouth() -> Part:
    t, along = _grid(np.linspace(0, 1, 9), np.linspace(-1, 1, 13))
    # Wide enough to be behind the corners of a stretched mouth, narrow at the bottom, where the jaw is.
    x, y = 46 * along * (1 - 0.4 * smoothstep(t, 0.5, 1)), anatomy.MOUTH_LINE + 22 - 42 * t
    vertices = np.stack([x, y, -20 - 6 * along**2], axis=1)
    return _part(vertices, (9, 13), np.stack([0.5 + along / 2, 1 - t], axis=1), MOUTH_TILE, t)


def _part(
    vertices: Array,
    shape: tuple[int, int],
    uv: Array,
    tile: tuple[float, float, float, float],
    jaw: Array,
    anchor: Array | None = None,
    gaze: Array | None = None,
) -> Part:
    index = np.arange(len(vertices), dtype=np.int32).reshape(shape)
    a, b, c, d = (q.ravel() for q in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    anchors = vertices[:, :2] if anchor is None else np.broadcast_to(anchor, (len(vertices), 2))
    uvs = np.array(tile[:2]) + uv * np.array(tile[2:])
    return Part(vertices, faces, uvs, jaw, anchors, np.zeros_like(vertices) if gaze is None else gaze)


def _grid(rows: Array, columns: Array) -> tuple[Array, Array]:
    row, column = np.meshgrid(rows, columns, indexing="ij")
    return row.ravel(), column.ravel()
