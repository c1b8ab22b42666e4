"""Rigs: named tuples of views. A view is a camera that looks at the canonical frame's origin from a yaw and a pitch.

Goes in: a rig's name (`3`, `5`, `9`, `sphere:N`) or a YAML file, the yaw step and the image size. Comes out: cameras in
the one convention of the project (`CAMERA_CONVENTION` in `shards/sample.py`), which is PyTorch3D's for axes and row
vectors.
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

# The camera stands 5 frame units away; a unit is 90 mm (pipeline/landmarks/alignment.py), so 45 cm: portrait distance.
DISTANCE = 5.0
# Half of what the image spans at the origin, in frame units: the whole face with a margin.
HALF_SPAN = 1.2

# How far from the front the views of `sphere:N` go, in degrees; a scan has no back of the head.
SPHERE_REACH, MAX_SPHERE = 80.0, 99
MAX_PITCH = 89.0

Projection = Literal["perspective", "orthographic"]


class View(Frozen):
    """One camera's place: yaw > 0 stands on the subject's left, pitch > 0 above; degrees."""

    name: Annotated[str, Field(pattern=f"^{VIEW.pattern}$")]
    yaw: Annotated[float, Field(ge=-180, le=180)] = 0.0
    pitch: Annotated[float, Field(ge=-MAX_PITCH, le=MAX_PITCH)] = 0.0


@dataclass(frozen=True, eq=False)
class Rig:
    """The cameras of all views, stacked.

    Attributes:
        cameras: one record a view, as written to the shards.
        size: height and width of the images in pixels.
    """

    cameras: tuple[Camera, ...]
    size: int

    @classmethod
    def build(cls, views: tuple[View, ...], size: int, projection: Projection = "perspective") -> Self:
        """Cameras for `views`, for square images of `size` pixels."""
        return cls(tuple(_camera(view, size, projection) for view in views), size)

    @cached_property
    def rotations(self) -> NDArray[np.float64]:
        """R of all views, [V, 3, 3]."""
        return np.array([camera.R for camera in self.cameras])

    @cached_property
    def translations(self) -> NDArray[np.float64]:
        """T of all views, [V, 3]."""
        return np.array([camera.T for camera in self.cameras])

    @cached_property
    def intrinsics(self) -> NDArray[np.float64]:
        """K of all views, [V, 3, 3], pixels."""
        return np.array([camera.K for camera in self.cameras])

    def finer(self, num_samples: int) -> Self:
        """The same views with so many pixels for each of theirs."""
        factor = side_of(num_samples)
        if factor == 1:
            return self
        scale = np.diag([factor, factor, 1.0])
        finer = [camera.model_copy(update={"K": (scale @ camera.K).tolist()}) for camera in self.cameras]
        return type(self)(tuple(finer), self.size * factor)

    @property
    def is_perspective(self) -> bool:
        """Whether the views divide by depth."""
        return self.cameras[0].projection == "perspective"


def side_of(num_samples: int) -> int:
    """Samples along each side of a pixel that has `num_samples`, a square number."""
    return math.isqrt(num_samples)


def project(camera: Camera, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points of the canonical frame [N, 3] to (u, v, z) [N, 3]: pixels, and depth in frame units."""
    x, y, z = (points @ np.array(camera.R) + np.array(camera.T)).T
    divisor = z if camera.projection == "perspective" else np.ones_like(z)
    K = np.array(camera.K)
    return np.stack([K[0, 2] - K[0, 0] * x / divisor, K[1, 2] - K[1, 1] * y / divisor, z], axis=1)


def views_of(rig: str, yaw: float) -> tuple[View, ...]:
    """The views of a built-in rig, or of a YAML file with a list of `{name, yaw, pitch}`.

    `sphere:N` has N of them, spread evenly over the sphere before the face.

    Raises:
        UsageError: neither a built-in name nor a readable rig file.
    """
    if rig == "3":
        return tuple(View(name=n, yaw=y) for n, y in (("front", 0), ("left", yaw), ("right", -yaw)))
    if rig == "5":
        return (*views_of("3", yaw), View(name="far-left", yaw=2 * yaw), View(name="far-right", yaw=-2 * yaw))
    if rig == "9":
        raised = [
            View(name=f"{row}-{v.name}", yaw=v.yaw, pitch=pitch)
            for row, pitch in (("up", 20.0), ("down", -20.0))
            for v in views_of("3", yaw)
        ]
        return (*views_of("3", yaw), *raised)
    if match := re.fullmatch(r"sphere:(\d+)", rig):
        return _sphere(int(match[1]))
    return _views_from_file(Path(rig))


def jittered(views: Sequence[View], degrees: float, seed: int) -> tuple[View, ...]:
    """Views whose yaw and pitch are off by up to `degrees` each, evenly; a function of `seed` alone."""
    offsets = np.random.default_rng(seed).uniform(-degrees, degrees, (len(views), 2))
    return tuple(
        view.model_copy(
            update={
                # Rounded as `_camera` rounds; a yaw that passes the back comes in at the other side.
                "yaw": round(float((view.yaw + yaw + 180) % 360 - 180), 6),
                "pitch": round(float(np.clip(view.pitch + pitch, -MAX_PITCH, MAX_PITCH)), 6),
            }
        )
        for view, (yaw, pitch) in zip(views, offsets, strict=True)
    )


def _sphere(num: int) -> tuple[View, ...]:
    """Points of a Fibonacci spiral on the cap of the sphere within `SPHERE_REACH` of the front, each of equal area.

    R. Swinbank and R. J. Purser, "Fibonacci grids", 2006.
    """
    if not 1 <= num <= MAX_SPHERE:
        raise UsageError(f"has 1 to {MAX_SPHERE} views", field="rig", value=f"sphere:{num}")
    away = 1 - np.arange(num) / max(num - 1, 1) * (1 - np.cos(np.radians(SPHERE_REACH)))
    turn = np.arange(num) * np.pi * (3 - np.sqrt(5))
    across = np.sqrt(1 - away**2)
    x, y = across * np.cos(turn), across * np.sin(turn)
    yaw, pitch = np.degrees(np.arctan2(x, away)), np.degrees(np.arcsin(y))
    return tuple(
        View(name=f"at-{n:02d}", yaw=round(float(yaw[n]), 6), pitch=round(float(pitch[n]), 6)) for n in range(num)
    )


def _views_from_file(path: Path) -> tuple[View, ...]:
    if not path.is_file():
        raise UsageError(
            "neither 3, 5, 9, sphere:N nor a file; a rig file is a YAML list of {name, yaw, pitch}",
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
        raise UsageError("needs at least one view, each with a name of its own", field="rig", value=path)
    return views


def _camera(view: View, size: int, projection: Projection) -> Camera:
    yaw, pitch = np.deg2rad(view.yaw), np.deg2rad(view.pitch)
    towards_camera = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    forward = -towards_camera
    left = np.cross([0.0, 1.0, 0.0], forward)
    left /= np.linalg.norm(left)
    R = np.stack([left, np.cross(forward, left), forward], axis=1)
    # Rounded so that the last bit of a platform's sine does not reach the shards.
    R = np.round(R, 9) + 0.0
    focal = size / 2 / HALF_SPAN * (DISTANCE if projection == "perspective" else 1.0)
    K = ((focal, 0.0, size / 2), (0.0, focal, size / 2), (0.0, 0.0, 1.0))
    return Camera(name=view.name, projection=projection, K=K, R=R.tolist(), T=(0.0, 0.0, DISTANCE))
