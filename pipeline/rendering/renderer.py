"""What a renderer is: meshes in the canonical frame and a rig go in, the images of all views come out.

Promised by every renderer: the camera convention of `shards.sample.CAMERA_CONVENTION`, perspective-correct
interpolation, both sides of a face drawn (normals turned to the camera), nothing dropped silently, nothing random.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import Mesh
from pipeline.rendering.rig import Rig
from shards.errors import UsageError

RendererName = Literal["auto", "pytorch3d", "zbuffer"]

# Shading, shared by the renderers so that their images agree: a soft light at the camera.
#   colour = albedo * (AMBIENT + (1 - AMBIENT) * max(0, n . towards_camera))
# Raise the version when the images of all renderers change, so that finished shards are known to be stale.
SHADING_VERSION = 1
AMBIENT = 0.35
SKIN_TONE = (214, 178, 156)
BACKGROUND = (240, 240, 240)


@dataclass(frozen=True, eq=False)
class ViewImages:
    """What one mesh looks like from all views of a rig.

    Attributes:
        rgb: uint8 [V, H, W, 3]; `BACKGROUND` where no face is.
        depth: float32 [V, H, W], camera z in frame units; 0 where no face is.
        normal: float32 [V, H, W, 3], unit, x right, y up, z towards the camera; 0 where no face is.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]


class Renderer(Protocol):
    """Turns meshes into view images."""

    name: str
    version: str

    def render(self, meshes: Sequence[Mesh], rig: Rig) -> list[ViewImages]:
        """Images of each mesh, all views of `rig`; vertices are in the canonical frame."""
        ...


def choose_renderer(name: RendererName) -> RendererName:
    """Resolve `auto`: `pytorch3d` where it is importable and a GPU is present, else `zbuffer`.

    Raises:
        UsageError: `pytorch3d` was asked for and is not installed.
    """
    has_pytorch3d = importlib.util.find_spec("pytorch3d") is not None
    if name == "pytorch3d" and not has_pytorch3d:
        raise UsageError("--renderer pytorch3d: PyTorch3D is not installed; see docker/ or use --renderer zbuffer")
    if name != "auto":
        return name
    return "pytorch3d" if has_pytorch3d and _has_gpu() else "zbuffer"


def renderer_version(name: RendererName) -> str:
    """The version of a resolved renderer and of the shading; shards made by another are stale."""
    if name == "pytorch3d":
        version = importlib.metadata.version("pytorch3d")
    else:
        from pipeline.rendering.zbuffer import ZBufferRenderer

        version = ZBufferRenderer.version
    return f"{version}+shading.{SHADING_VERSION}"


def build_renderer(name: RendererName) -> Renderer:
    """The renderer of a resolved name; its library is imported only now."""
    if name == "pytorch3d":
        from pipeline.rendering.pytorch3d import PyTorch3DRenderer

        return PyTorch3DRenderer()
    from pipeline.rendering.zbuffer import ZBufferRenderer

    return ZBufferRenderer()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
