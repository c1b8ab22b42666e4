"""What a renderer is: meshes in the canonical frame and a rig go in, the images of all views come out.

Promised by every renderer: the camera convention of `smile_pipe.shards.sample.CAMERA_CONVENTION`, perspective-correct
interpolation, both sides of a face drawn (normals turned to the camera), nothing dropped silently, nothing random.

Which renderer: by name, or the one that fits the machine. Each is imported only when it is chosen.
"""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.shards.errors import UsageError

# Shading, shared by the renderers so that their images agree: a soft light at the camera.
#   colour = albedo * (AMBIENT + (1 - AMBIENT) * max(0, n . towards_camera))
# Raise the version when the images of all renderers change, so that finished shards are known to be stale.
SHADING_VERSION = 2
AMBIENT = 0.35
SKIN_TONE = (214, 178, 156)
BACKGROUND = (240, 240, 240)
# A larger face (frame units squared, twice its area) is of a vertex that is astray: the normals of the others' vertices
# are told without it.
MAX_FACE = 2.0**18


@dataclass(frozen=True, eq=False)
class ViewImages:
    """What one mesh looks like from all views of a rig.

    Attributes:
        rgb: uint8 [V, H, W, 3]; `BACKGROUND` where no face is.
        depth: float32 [V, H, W], camera z in frame units; 0 where no face is.
        normal: float32 [V, H, W, 3], unit, x right, y up, z towards the camera; 0 where no face is.
        flow: float32 [V, H, W, 3], the mesh's flow at what each pixel shows, in frame units along the axes of
            `normal`; 0 where no face is. None where the mesh has no flow.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]
    flow: NDArray[np.float32] | None = None


class Renderer(Protocol):
    """Turns meshes into view images."""

    name: str
    version: str

    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Images of each mesh from all views of its rig; vertices are in the canonical frame.

        The rigs have equal numbers of views, of one size and projection.
        """
        ...


RendererName = Literal["auto", "pytorch3d", "zbuffer", "zbuffer-cuda"]
ON_GPUS = ("pytorch3d", "zbuffer-cuda")


def choose_renderer(name: RendererName) -> RendererName:
    """Resolve `auto`: `pytorch3d` where it is importable and a GPU is present, else `zbuffer`.

    Raises:
        UsageError: `pytorch3d` was asked for and is not installed, or `zbuffer-cuda` and there is no GPU.
    """
    if name == "zbuffer-cuda" and not _has_gpu():
        raise UsageError(
            "there is no GPU here that PyTorch can use; use `renderer=zbuffer`", field="renderer", value="zbuffer-cuda"
        )
    has_pytorch3d = importlib.util.find_spec("pytorch3d") is not None
    if name == "pytorch3d" and not has_pytorch3d:
        raise UsageError(
            "PyTorch3D is not installed; see docker/ or use `renderer=zbuffer`", field="renderer", value="pytorch3d"
        )
    if name != "auto":
        return name
    return "pytorch3d" if has_pytorch3d and _has_gpu() else "zbuffer"


def renderer_version(name: RendererName) -> str:
    """The version of a resolved renderer and of the shading; shards made by another are stale."""
    if name == "pytorch3d":
        version = importlib.metadata.version("pytorch3d")
    elif name == "zbuffer-cuda":
        from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

        version = ZBufferCudaRenderer.version
    else:
        from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

        version = ZBufferRenderer.version
    return f"{version}+shading.{SHADING_VERSION}"


def build_renderer(name: RendererName) -> Renderer:
    """The renderer of a resolved name; its library is imported only now."""
    if name == "pytorch3d":
        from smile_pipe.pipeline.rendering.pytorch3d import PyTorch3DRenderer

        return PyTorch3DRenderer()
    if name == "zbuffer-cuda":
        from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

        return ZBufferCudaRenderer()
    from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

    return ZBufferRenderer()


def _has_gpu() -> bool:
    # Importing torch takes seconds, which a plan on a machine without the driver's devices need not wait for.
    if sys.platform == "linux" and not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()
