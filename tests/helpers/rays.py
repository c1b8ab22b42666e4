"""Ray casting of spheres, planes and boxes, as a reference for the rasterisers.

Rays are derived from the text of `CAMERA_CONVENTION`, independently of the code in `rendering/cameras.py`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.shards.sample import Camera

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rays:
    """One ray per pixel: x(depth) = origin + depth * step, where depth is the camera's z."""

    origin: Array  # [H, W, 3]
    step: Array  # [H, W, 3]
    camera: Camera

    @classmethod
    def of(cls, camera: Camera, size: int) -> "Rays":
        """Build the rays through the pixel centres of an image of `size` pixels."""
        v, u = np.mgrid[:size, :size] + 0.5
        K, R, T = np.array(camera.K), np.array(camera.R), np.array(camera.T)
        left_up = np.stack([(K[0, 2] - u) / K[0, 0], (K[1, 2] - v) / K[1, 1]], axis=-1)
        zero, one = np.zeros((size, size, 1)), np.ones((size, size, 1))
        if camera.projection == "perspective":
            origin, step = np.zeros((size, size, 3)), np.concatenate([left_up, one], axis=-1)
        else:
            origin, step = np.concatenate([left_up, zero], axis=-1), np.concatenate([zero, zero, one], axis=-1)
        return cls((origin - T) @ R.T, step @ R.T, camera)

    def points(self, depth: Array) -> Array:
        """Points of the rays at `depth` [H, W]."""
        return self.origin + depth[..., None] * self.step

    def image_normals(self, normals: Array) -> Array:
        """Convert frame normals [..., 3] to those of the `normal` channel, flipped towards the camera."""
        seen = normals @ np.array(self.camera.R) * [-1, 1, -1]
        return np.where(self.facing(normals)[..., None] < 0, -seen, seen)

    def facing(self, normals: Array) -> Array:
        """Cosines [H, W] between normals and the direction to the camera."""
        return -(normals * self.step).sum(axis=-1) / np.linalg.norm(self.step, axis=-1)


def hit_sphere(rays: Rays, center: tuple[float, float, float], radius: float) -> tuple[Array, Array]:
    """Depth [H, W] of the nearer intersection (NaN without one) and the unit normals there [H, W, 3]."""
    offset = rays.origin - center
    a, b = (rays.step**2).sum(axis=-1), (offset * rays.step).sum(axis=-1)
    discriminant = b**2 - a * ((offset**2).sum(axis=-1) - radius**2)
    with np.errstate(invalid="ignore"):
        depth = (-b - np.sqrt(discriminant)) / a
    return depth, (rays.points(depth) - center) / radius


def hit_card(rays: Rays, origin: Array, along_u: Array, along_v: Array) -> tuple[Array, Array, Array]:
    """Depth [H, W] of the card's plane, the card's uv there [H, W, 2] (in the card from 0 to 1), and its normal [3]."""
    normal = np.cross(along_u, along_v)
    normal /= np.linalg.norm(normal)
    depth = ((origin - rays.origin) @ normal) / (rays.step @ normal)
    uv = (rays.points(depth) - origin) @ np.linalg.pinv(np.stack([along_u, along_v]))
    return depth, uv, normal


def hit_cube(rays: Rays, half_side: float) -> tuple[Array, Array, Array]:
    """Depth [H, W] (NaN without a hit), normals [H, W, 3], and the margin in depth to the nearest edge [H, W]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = (np.array([-half_side, half_side])[:, None, None, None] - rays.origin) / rays.step
    enter, leave = np.sort(bounds, axis=0)
    depth, side = enter.max(axis=-1), enter.argmax(axis=-1)
    with np.errstate(invalid="ignore"):
        margin = np.minimum(depth - np.sort(enter, axis=-1)[..., 1], leave.min(axis=-1) - depth)
    normals = -np.sign(np.take_along_axis(rays.step, side[..., None], axis=-1)) * np.eye(3)[side]
    return np.where(depth < leave.min(axis=-1), depth, np.nan), normals, np.abs(margin)
