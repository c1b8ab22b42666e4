"""Alignment without landmarks: a face is placed by its nose and its width, assuming that it is upright and faces +z.

The surface is drawn from the front, so what counts is what is seen, not how many vertices a part has or what is behind
it. The nose is where the surface is in front of both cheeks and of the rest of the face. The width is that of the rows
from the tip of the nose up to the brows, without what is far behind: ears and hair. Mouth, chin, crown and neck change
neither. A surface without a nose is placed by its bounds, in its real size if its unit is known.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.landmark_fit import Similarity
from smile_pipe.pipeline.landmarks.length_units import MILLIMETRES, LengthUnit, size_problem
from smile_pipe.pipeline.landmarks.mean_face import NOSE_TIP, ORIGIN, UNIT_MM
from smile_pipe.pipeline.landmarks.surface import main_piece
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.rendering.cameras import DISTANCE, HALF_SPAN, Rig, View
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

_SIZE = 128
_PIXEL = 2 * HALF_SPAN / _SIZE
# Extent of what is drawn: the middle of the vertices (percentiles), and a margin around it relative to their extent. A
# few vertices far outside, and their faces, are not drawn.
_LARGEST, _WINDOW, _MARGIN = 2.2, (0.5, 99.5), 0.1
# Width of a face (mm), measured as here on faces that landmarks align: 143 mm (ICT-FaceKit, whatever its crop) and
# 153 mm (parametric). The other lengths are relative to the width.
FACE_WIDTH = 147.0
REACH = 0.22  # from the tip of the nose to the cheeks, the eyes and the mouth
MIN_NOSE, MAX_NOSE = 0.1, 0.25  # how far it is in front of them
TIP, LIPS = 0.06, 0.15  # drop of the score around the tip, and between it and the lips
WEIGHT = 2.0  # of the nearness to the viewer
ROWS, DEPTH = 0.3, 0.65  # height of the rows above the tip of the nose; depth of the surface behind it
_NUM_ROUNDS = 12
# Without a nose: height of the middle 96 % of the drawn surface, in frame units.
BOUNDS_HEIGHT = 2.0


def fit_bounds(mesh: Mesh, matrix: NDArray[np.float64], units: LengthUnit = "auto") -> Similarity:
    """Fit the canonical frame to the surface of a mesh; the face is not turned.

    Args:
        mesh: the scan; small pieces far from the largest are ignored.
        matrix: [3, 3], from the axes of the scan to left, up and front.
        units: unit of the scan.

    Returns:
        The similarity from `vertices @ matrix` to the canonical frame.

    Raises:
        MeshError: the mesh has no extent, so the scale is undefined.
    """
    kept = main_piece(mesh)
    vertices = mesh.vertices.astype(np.float64) @ matrix
    low, high = np.percentile(vertices[kept], _WINDOW, axis=0)
    extent = float((high - low).max())
    if extent <= 0:
        raise MeshError("no extent: all vertices are at one point")
    centre, zoom = (low + high) / 2, _LARGEST / extent / (1 + 2 * _MARGIN)
    kept &= (np.abs(vertices - centre) <= (high - low) / 2 + _MARGIN * extent).all(axis=1)
    drawn = Mesh(((vertices - centre) * zoom).astype(np.float32), mesh.faces[kept[mesh.faces].all(axis=1)])
    point, is_nose, scale = _find_face(_draw(drawn))
    scale *= zoom
    goal = (np.array(NOSE_TIP) - ORIGIN) / UNIT_MM if is_nose else np.zeros(3)
    if units != "auto" and not is_nose and not size_problem(scale, units):
        scale = MILLIMETRES[units] / UNIT_MM
    return scale, np.eye(3), goal - scale * (centre + point / zoom)


@cache
def _rig() -> Rig:
    return Rig.build((View(name="front"),), _SIZE, "orthographic")


def _draw(mesh: Mesh) -> NDArray[np.float64]:
    """Height of the surface towards the viewer at each pixel, [H, W]; -inf where there is none."""
    (images,) = ZBufferRenderer().render([mesh], [_rig()])
    depth = images.depth[0].astype(np.float64)
    return np.where(depth > 0, DISTANCE - depth, -np.inf)


def _find_face(heights: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool, float]:
    """Find a point [3] in the image, whether it is the nose or the middle, and the scale to the canonical frame."""
    shown = np.isfinite(heights)
    if not shown.any():  # edge-on
        return np.zeros(3), False, BOUNDS_HEIGHT / _LARGEST
    width = float(np.median(shown.sum(axis=1)[shown.any(axis=1)])) * _PIXEL
    tip = _find_nose(heights, width)
    if tip is None:
        rows, columns = np.nonzero(shown)
        points = np.stack([_x(columns), _y(rows), heights[shown]], axis=1)
        low, high = np.percentile(points, [2, 98], axis=0)
        return (low + high) / 2, False, BOUNDS_HEIGHT / max(float((high - low).max()), _PIXEL)
    y, z = tip
    middle = 0.0
    for _ in range(_NUM_ROUNDS):
        above = _y(np.arange(_SIZE)) - y
        near = (heights > z - DEPTH * width)[(above > 0) & (above <= max(ROWS * width, _PIXEL))]
        left, right = _ends(near[near.any(axis=1)])
        if not len(left):
            break
        width = float((right - left).mean()) * _PIXEL
        middle = float(_x((left + right - 1) / 2).mean())
    return np.array([middle, y, z]), True, FACE_WIDTH / UNIT_MM / width


def _find_nose(heights: NDArray[np.float64], width: float) -> tuple[float, float] | None:
    """Find height in the image and nearness of the tip of the nose; None if there is none."""
    reach = max(round(REACH * width / _PIXEL), 1)
    surface = np.where(np.isfinite(heights), heights, np.nan)
    padded = np.pad(surface, ((0, 0), (reach, reach)), constant_values=np.nan)
    # The surface under the chin is far in front of its sides too, but the nose is in front of it.
    cheeks = surface - (padded[:, : -2 * reach] + padded[:, 2 * reach :]) / 2
    scores = np.nan_to_num(np.minimum(cheeks, MAX_NOSE * width) + WEIGHT * surface, nan=-np.inf)
    of_rows = scores.max(axis=1)
    # Lips may be as far in front as the nose, which is above them: the first of the runs of rows with high scores.
    is_high = of_rows > of_rows.max() - LIPS * width
    if not is_high.any():
        return None
    first = int(is_high.argmax())
    run = of_rows[first : first + int(np.append(~is_high[first:], True).argmax())]
    row = first + int(run.argmax())
    column, best = int(scores[row].argmax()), run.max()
    if cheeks[row, column] < MIN_NOSE * width:
        return None
    top, left = max(row - reach // 2, 0), max(column - reach // 2, 0)
    near = (slice(top, row + reach // 2 + 1), slice(left, column + reach // 2 + 1))
    weights = np.maximum(scores[near] - best + TIP * width, 0)
    y = (weights.sum(axis=1) * _y(top + np.arange(len(weights)))).sum() / weights.sum()
    return float(y), float(heights[near][weights > 0].max())


def _ends(shown: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First column of each row [N, W] that is shown, and the one after the last; each row has one."""
    return shown.argmax(axis=1), _SIZE - shown[:, ::-1].argmax(axis=1)


def _x(columns: NDArray[np.float64] | NDArray[np.intp]) -> NDArray[np.float64]:
    return np.asarray(columns, np.float64) * _PIXEL + (0.5 * _PIXEL - HALF_SPAN)


def _y(rows: NDArray[np.intp]) -> NDArray[np.float64]:
    return -_x(rows)
