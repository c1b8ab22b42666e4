"""Camera rigs: views by yaw and pitch, and their camera matrices.

A view is a camera that looks at the origin of the canonical frame from a yaw and a pitch. A rig is built in (`3`, `5`,
`9`, `sphere:N`) or read from a YAML file. Cameras follow `CAMERA_CONVENTION` in `shards/sample.py`, which is the
convention of PyTorch3D for axes and row vectors.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.sample import VIEW, Camera

# Distance of a camera from the origin, in frame units of 90 mm (`UNIT_MM` in landmarks): 45 cm, as in portraits.
DISTANCE = 5.0
# Half the width of the image at the origin, in frame units: the whole face with a margin.
HALF_SPAN = 1.2

# Largest angle between the front and a view of `sphere:N`, in degrees (a scan has no back of the head); largest N.
SPHERE_MAX_ANGLE, MAX_SPHERE = 80.0, 99
MAX_PITCH = 89.0

Projection = Literal["perspective", "orthographic"]


class View(Frozen):
    """Position of one camera.

    Attributes:
        name: Name of the view, part of the image file names.
        yaw: Degrees; positive on the subject's left.
        pitch: Degrees; positive above.
    """

    name: Annotated[str, Field(pattern=f"^{VIEW.pattern}$")]
    yaw: Annotated[float, Field(ge=-180, le=180)] = 0.0
    pitch: Annotated[float, Field(ge=-MAX_PITCH, le=MAX_PITCH)] = 0.0


@dataclass(frozen=True, eq=False)
class Rig:
    """The cameras of all views of one render.

    Attributes:
        cameras: One record per view, as written to the shards.
        size: Height and width of the images in pixels.
    """

    cameras: tuple[Camera, ...]
    size: int

    @classmethod
    def build(cls, views: tuple[View, ...], size: int, projection: Projection = "perspective") -> Self:
        """Build the cameras of `views` for square images of `size` pixels."""
        return cls(tuple(_camera(view, size, projection) for view in views), size)

    @cached_property
    def rotations(self) -> NDArray[np.float64]:
        """R of all views, float64 [V, 3, 3]."""
        return np.array([camera.R for camera in self.cameras])

    @cached_property
    def translations(self) -> NDArray[np.float64]:
        """T of all views, float64 [V, 3], frame units."""
        return np.array([camera.T for camera in self.cameras])

    @cached_property
    def intrinsics(self) -> NDArray[np.float64]:
        """K of all views, float64 [V, 3, 3], pixels."""
        return np.array([camera.K for camera in self.cameras])

    def supersampled(self, samples_per_pixel: int) -> Self:
        """Return the same views with `samples_per_pixel` (a square number) pixels for each pixel of this rig."""
        factor = samples_per_side(samples_per_pixel)
        if factor == 1:
            return self
        scale = np.diag([factor, factor, 1.0])
        cameras = [camera.model_copy(update={"K": (scale @ camera.K).tolist()}) for camera in self.cameras]
        return type(self)(tuple(cameras), self.size * factor)

    @property
    def is_perspective(self) -> bool:
        """Whether the projection divides by depth."""
        return self.cameras[0].projection == "perspective"


def samples_per_side(samples_per_pixel: int) -> int:
    """Return the number of samples along each side of a pixel; `samples_per_pixel` is a square number."""
    return math.isqrt(samples_per_pixel)


def project(camera: Camera, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Project points of the canonical frame to the image of a camera.

    Args:
        camera: Camera of one view.
        points: float [N, 3], frame units.

    Returns:
        float64 [N, 3]: u and v in pixels, and the depth z in frame units.
    """
    x, y, z = (points @ np.array(camera.R) + np.array(camera.T)).T
    divisor = z if camera.projection == "perspective" else np.ones_like(z)
    K = np.array(camera.K)
    return np.stack([K[0, 2] - K[0, 0] * x / divisor, K[1, 2] - K[1, 1] * y / divisor, z], axis=1)


def build_views(rig: str, yaw: float) -> tuple[View, ...]:
    """Build the views of a built-in rig, or read them from a YAML file.

    Args:
        rig: `3`, `5`, `9`, `sphere:N` (N views, spread evenly over the sphere in front of the face), or the path of a
            YAML file with a list of `{name, yaw, pitch}`.
        yaw: Degrees between neighbouring views of the rigs `3`, `5` and `9`.

    Raises:
        UsageError: `rig` is neither a built-in name nor a valid rig file.
    """
    if rig == "3":
        return tuple(View(name=n, yaw=y) for n, y in (("front", 0), ("left", yaw), ("right", -yaw)))
    if rig == "5":
        return (*build_views("3", yaw), View(name="far-left", yaw=2 * yaw), View(name="far-right", yaw=-2 * yaw))
    if rig == "9":
        raised = [
            View(name=f"{row}-{v.name}", yaw=v.yaw, pitch=pitch)
            for row, pitch in (("up", 20.0), ("down", -20.0))
            for v in build_views("3", yaw)
        ]
        return (*build_views("3", yaw), *raised)
    if match := re.fullmatch(r"sphere:(\d+)", rig):
        return _sphere(int(match[1]))
    return _views_from_file(Path(rig))


def jitter_views(views: Sequence[View], degrees: float, seed: int) -> tuple[View, ...]:
    """Add to the yaw and the pitch of each view a uniform random offset of up to `degrees`, determined by `seed`."""
    offsets = np.random.default_rng(seed).uniform(-degrees, degrees, (len(views), 2))
    return tuple(
        view.model_copy(
            update={
                # Rounded like the matrices in `_camera`; a yaw beyond 180 degrees wraps around.
                "yaw": round(float((view.yaw + yaw + 180) % 360 - 180), 6),
                "pitch": round(float(np.clip(view.pitch + pitch, -MAX_PITCH, MAX_PITCH)), 6),
            }
        )
        for view, (yaw, pitch) in zip(views, offsets, strict=True)
    )


def _sphere(num: int) -> tuple[View, ...]:
    """Build `num` views on a Fibonacci spiral with equal areas, up to `SPHERE_MAX_ANGLE` degrees from the front.

    Source: R. Swinbank and R. J. Purser, "Fibonacci grids", 2006.
    """
    if not 1 <= num <= MAX_SPHERE:
        raise UsageError(f"the number of views must be 1 to {MAX_SPHERE}", field="rig", value=f"sphere:{num}")
    z = 1 - np.arange(num) / max(num - 1, 1) * (1 - np.cos(np.radians(SPHERE_MAX_ANGLE)))
    turn = np.arange(num) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z**2)
    x, y = radius * np.cos(turn), radius * np.sin(turn)
    yaw, pitch = np.degrees(np.arctan2(x, z)), np.degrees(np.arcsin(y))
    return tuple(
        View(name=f"at-{n:02d}", yaw=round(float(yaw[n]), 6), pitch=round(float(pitch[n]), 6)) for n in range(num)
    )


def _views_from_file(path: Path) -> tuple[View, ...]:
    if not path.is_file():
        raise UsageError(
            "neither a built-in rig nor a file; use 3, 5, 9, sphere:N or a YAML file with a list of {name, yaw, pitch}",
            field="rig",
            value=path,
        )
    try:
        rows = yaml.safe_load(path.read_text())
        views = tuple(View.model_validate(row) for row in rows)
    except (yaml.YAMLError, ValidationError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"not a YAML list of {{name, yaw, pitch}} ({str(error).splitlines()[0]})", field="rig", value=path
        ) from None
    if not views or len({view.name for view in views}) != len(views):
        raise UsageError("needs at least one view, and view names must be unique", field="rig", value=path)
    return views


def _camera(view: View, size: int, projection: Projection) -> Camera:
    yaw, pitch = np.deg2rad(view.yaw), np.deg2rad(view.pitch)
    towards_camera = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    forward = -towards_camera
    left = np.cross([0.0, 1.0, 0.0], forward)
    left /= np.linalg.norm(left)
    R = np.stack([left, np.cross(forward, left), forward], axis=1)
    # Rounded because the last bits of sine and cosine differ between platforms, and shards must not.
    R = np.round(R, 9) + 0.0
    focal = size / 2 / HALF_SPAN * (DISTANCE if projection == "perspective" else 1.0)
    K = ((focal, 0.0, size / 2), (0.0, focal, size / 2), (0.0, 0.0, 1.0))
    return Camera(name=view.name, projection=projection, K=K, R=R.tolist(), T=(0.0, 0.0, DISTANCE))
