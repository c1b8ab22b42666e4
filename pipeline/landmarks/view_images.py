"""Views of the landmark detector: cameras around a scan, images as input of a network, and the way back to the surface.

Cameras are orthographic, so that a pixel and its depth are a point without a division.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.surface import capped_areas
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer
from smile_pipe.shards.sample import Camera

Floats = NDArray[np.float64]

# Distance of the cameras from the point that they look at, in halves of the image: nothing is behind them.
DISTANCE = 20.0
# Depths that differ more than this (halves of the image) within two by two pixels belong to two surfaces.
STEP = 0.06
NUM_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class Views:
    """Views of one scan.

    Attributes:
        rotations: float64 [V, 3, 3], from scan axes to right, up and towards the viewer in each image, for row vectors:
            left, up and front of a face that looks at the viewer.
        centers: float64 [V, 3], points in the middle of the images.
        half_spans: float64 [V], distance from the middle of an image to its edge, in units of the scan.
        images: float32 [V, H, W, 4]: normal (right, up, to the viewer), and height above the middle, in halves of the
            image, from -1 to 1; all are 0 where there is no surface.
        depths: float64 [V, H, W], height above the middle in units of the scan; NaN where there is no surface.
    """

    rotations: Floats
    centers: Floats
    half_spans: Floats
    images: NDArray[np.float32]
    depths: Floats

    def lift(self, view: int, peaks: Floats) -> Floats:
        """Bring points of an image onto the surface.

        Args:
            view: number of the view.
            peaks: float64 [N, 2], column and row, relative to the width and height of the image.

        Returns:
            float64 [N, 3], in the axes of the scan; NaN where there is no surface within a pixel.
        """
        size = self.depths.shape[1]
        half = self.half_spans[view]
        heights = _heights_at(self.depths[view], peaks * size - 0.5, STEP * half)
        local = np.stack([(2 * peaks[:, 0] - 1) * half, (1 - 2 * peaks[:, 1]) * half, heights], axis=1)
        return multiply(local, self.rotations[view].T) + self.centers[view]

    def project(self, view: int, points: Floats) -> Floats:
        """Return the column, row (relative to width and height) and height above the middle of points, [N, 3]."""
        local = multiply(points - self.centers[view], self.rotations[view])
        half = self.half_spans[view]
        return np.stack([(1 + local[:, 0] / half) / 2, (1 - local[:, 1] / half) / 2, local[:, 2]], axis=1)


def draw_views(mesh: Mesh, rotations: Floats, centers: Floats, half_spans: Floats, size: int) -> Views:
    """Draw a mesh from several directions.

    Args:
        mesh: the scan, in any unit.
        rotations, centers, half_spans: see `Views`.
        size: height and width of the images in pixels.
    """
    renderer, num = ZBufferRenderer(), len(rotations)
    # The renderer has limits in frame units: the largest view is two units wide.
    unit = float(half_spans.max())
    middle = centers[0]
    scaled = Mesh(((mesh.vertices.astype(np.float64) - middle) / unit).astype(np.float32), mesh.faces)
    cameras = [
        _camera(rotation, (center - middle) / unit, half / unit, size)
        for rotation, center, half in zip(rotations, centers, half_spans, strict=True)
    ]
    drawn = renderer.render([scaled], [Rig(tuple(cameras), size)])[0]
    is_surface = drawn.depth > 0
    depths = np.where(is_surface, (DISTANCE - drawn.depth.astype(np.float64)) * unit, np.nan)
    images = np.zeros((num, size, size, NUM_CHANNELS), np.float32)
    images[..., :3] = drawn.normal
    images[..., 3] = np.where(is_surface, np.clip(depths / half_spans[:, None, None], -1, 1), 0)
    return Views(rotations, centers, half_spans, images, depths)


def _camera(rotation: Floats, center: Floats, half_span: float, size: int) -> Camera:
    # The camera's axes are left, up and into the scene.
    R = rotation * (-1.0, 1.0, -1.0)
    focal = size / 2 / half_span
    shift = -multiply(center[None], R)[0]
    K = ((focal, 0.0, size / 2), (0.0, focal, size / 2), (0.0, 0.0, 1.0))
    return Camera.model_construct(
        name="view", projection="orthographic", K=K, R=R.tolist(), T=(shift[0], shift[1], shift[2] + DISTANCE)
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _heights_at(depths: Floats, pixels: Floats, step: float) -> Floats:
    """Heights of the surface at points of an image.

    Two by two pixels are interpolated. At an edge, the mean of those near the foremost surface is taken; beyond an
    edge, that of four by four pixels; further away, NaN.

    Args:
        depths: float64 [H, W], NaN where there is no surface.
        pixels: float64 [N, 2], column and row; pixel centres are integers.
        step: largest difference of depths of one surface.
    """
    heights = np.empty(len(pixels))
    for n in range(len(pixels)):
        column, row = int(np.floor(pixels[n, 0])), int(np.floor(pixels[n, 1]))
        height, is_smooth = _front_mean(depths, row, column, 0, step)
        if is_smooth:
            a, b = pixels[n, 0] - column, pixels[n, 1] - row
            upper = depths[row, column] * (1 - a) + depths[row, column + 1] * a
            lower = depths[row + 1, column] * (1 - a) + depths[row + 1, column + 1] * a
            height = upper * (1 - b) + lower * b
        heights[n] = _front_mean(depths, row, column, 1, step)[0] if np.isnan(height) else height
    return heights


@njit(cache=True, nogil=True, error_model="numpy")
def _front_mean(depths: Floats, row: int, column: int, reach: int, step: float) -> tuple[float, bool]:
    """Mean of the pixels near the foremost surface, NaN without any; and whether all pixels are near it."""
    top, left = max(row - reach, 0), max(column - reach, 0)
    square = depths[top : max(row + 2 + reach, 0), left : max(column + 2 + reach, 0)]
    front, total, count = -np.inf, 0.0, 0
    for depth in square.flat:
        front = front if np.isnan(depth) else max(front, depth)
    for depth in square.flat:
        if depth > front - step:
            total, count = total + depth, count + 1
    return (total / count if count else np.nan), count == (2 + 2 * reach) ** 2


def multiply(points: Floats, matrix: Floats) -> Floats:
    """Multiply row vectors [N, 3] by a matrix [3, 3], with the same bits on every machine."""
    x, y, z = points[:, 0, None], points[:, 1, None], points[:, 2, None]
    return x * matrix[0] + y * matrix[1] + z * matrix[2]


def look_along(directions: Floats) -> Floats:
    """Rotations [N, 3, 3] of views from the directions [N, 3], which point to the viewer; the roll is arbitrary."""
    rotations = []
    for direction in directions:
        front = direction / np.sqrt((direction**2).sum())
        up = np.eye(3)[1 if abs(front[1]) < 0.9 else 2]
        left = np.cross(up, front)
        left /= np.sqrt((left**2).sum())
        rotations.append(np.stack([left, np.cross(front, left), front], axis=1))
    return np.round(np.array(rotations), 9)


def directions_over_sphere(num: int) -> Floats:
    """Directions [num, 3], spread evenly over the sphere (a Fibonacci spiral)."""
    z = 1 - (2 * np.arange(num) + 1) / num
    turn = np.arange(num) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z**2)
    return np.round(np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1), 9)


def rotation_about(axis: Sequence[float], degrees: float) -> Floats:
    """Rotation [3, 3] for row vectors by an angle about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, np.float64) / np.sqrt(np.square(axis).sum())
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    # The square of K, written out: no matrix product of a library.
    square = np.array([[x * x - 1, x * y, x * z], [x * y, y * y - 1, y * z], [x * z, y * z, z * z - 1]])
    return np.round(np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * square, 9).T


def bounds(mesh: Mesh) -> tuple[Floats, float]:
    """Centre [3] and half of the largest extent of a scan, from the middle 98 % of its area along each axis."""
    centers, areas = _sample_faces(mesh)
    low, high = np.zeros(3), np.zeros(3)
    for axis in range(3):
        low[axis], high[axis] = _quantiles(centers[:, axis], areas, (0.01, 0.99))
    return (low + high) / 2, float((high - low).max()) / 2


def ends(mesh: Mesh, sizes: Sequence[float]) -> Iterator[tuple[Floats, float]]:
    """Regions at both ends of a scan along its principal axes, the longest first.

    Args:
        mesh: the scan.
        sizes: half of the size of a region, relative to half of the extent of the scan along its longest axis.

    Yields:
        Centre [3] and half of the size of a region.
    """
    centers, areas = _sample_faces(mesh)
    centered = centers - (areas[:, None] * centers).sum(axis=0) / areas.sum()
    moments = (areas[:, None, None] * centered[:, :, None] * centered[:, None]).sum(axis=0)
    axes = np.round(np.linalg.eigh(moments)[1].T[::-1], 6)
    along = (centered[:, None] * axes).sum(axis=2)
    extent = max(np.subtract(*_quantiles(along[:, n], areas, (0.998, 0.002))) for n in range(3)) / 2
    for size in sizes:
        for n in range(3):
            for side in (1, -1):
                last = _quantiles(side * along[:, n], areas, (0.998,))[0]
                is_end = side * along[:, n] > last - 2 * size * extent
                yield np.median(centers[is_end], axis=0), size * extent


def _sample_faces(mesh: Mesh, num_samples: int = 4096) -> tuple[Floats, Floats]:
    """Centres [N, 3] and areas [N] of faces, spread over their order; see `capped_areas`."""
    num = len(mesh.faces)
    # Multiples of the golden ratio: equal steps would hit few columns of a grid.
    spread = np.arange(num_samples) * 0.6180339887498949 % 1
    places = np.arange(num) if num <= num_samples else (spread * num).astype(np.intp)
    corners = mesh.vertices[mesh.faces[places]].astype(np.float64)
    return corners.sum(axis=1) / 3, capped_areas(corners)


def _quantiles(values: Floats, weights: Floats, shares: Sequence[float]) -> Floats:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    at = np.searchsorted(total, np.array(shares) * total[-1])
    return values[order[np.minimum(at, len(order) - 1)]]
