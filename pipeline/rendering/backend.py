"""The interface of the renderers, the constants they share, and the choice of a renderer by name.

Every renderer takes meshes in the canonical frame and a rig of cameras for each, and returns the images of all views.
All of them follow the camera convention of `smile_pipe.shards.sample.CAMERA_CONVENTION`, interpolate with correct
perspective, draw both sides of a face (normals are flipped towards the camera), drop no face silently and are
deterministic. A renderer's library is imported only when that renderer is used.
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

# Shading model of all renderers, so that their images agree: a soft light at the camera.
#   colour = albedo * (AMBIENT + (1 - AMBIENT) * max(0, n . towards_camera))
# Increase the version when the images of all renderers change: finished shards are then rendered again.
SHADING_VERSION = 2
AMBIENT = 0.35
SKIN_TONE = (214, 178, 156)
BACKGROUND = (240, 240, 240)
# Limit of a face's size (twice its area, square frame units) for vertex normals. A larger face has an outlier vertex;
# the normals of its other vertices are computed without it.
MAX_FACE_AREA = 2.0**18


@dataclass(frozen=True, eq=False)
class ViewImages:
    """Images of one mesh from all views of a rig.

    Attributes:
        rgb: uint8 [V, H, W, 3]; `BACKGROUND` where there is no face.
        depth: float32 [V, H, W], camera z in frame units; 0 where there is no face.
        normal: float32 [V, H, W, 3], unit vectors, x right, y up, z towards the camera; 0 where there is no face.
        flow: float32 [V, H, W, 3], flow of the surface point at each pixel, in frame units along the axes of `normal`;
            0 where there is no face. None if the mesh has no flow.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]
    flow: NDArray[np.float32] | None = None


class Renderer(Protocol):
    """Interface of a renderer.

    Attributes:
        name: Name of the renderer, as users select it.
        version: Version of its pixels; shards of another version are rendered again.
    """

    name: str
    version: str

    def render(self, meshes: Sequence[Mesh], rigs: Sequence[Rig]) -> list[ViewImages]:
        """Render each mesh from all views of its rig.

        Args:
            meshes: Meshes with vertices in the canonical frame.
            rigs: One rig for each mesh; all have the same number of views, image size and projection.

        Returns:
            The images of each mesh, in the order of `meshes`.
        """
        ...


RendererName = Literal["auto", "pytorch3d", "zbuffer", "zbuffer-cuda"]
GPU_RENDERERS = ("pytorch3d", "zbuffer-cuda")


def choose_renderer(name: RendererName) -> RendererName:
    """Resolve `auto` to the renderer that fits the machine, and check that a named renderer is available.

    Args:
        name: Name of a renderer; `auto` means `pytorch3d` if it is installed and there is a GPU, else `zbuffer`.

    Returns:
        The name of the renderer to use; never `auto`.

    Raises:
        UsageError: `name` is `pytorch3d` and it is not installed, or `zbuffer-cuda` and there is no GPU.
    """
    if name == "zbuffer-cuda" and not _has_gpu():
        raise UsageError("PyTorch finds no GPU; use `renderer=zbuffer`", field="renderer", value="zbuffer-cuda")
    has_pytorch3d = importlib.util.find_spec("pytorch3d") is not None
    if name == "pytorch3d" and not has_pytorch3d:
        raise UsageError(
            "PyTorch3D is not installed; see docker/ or use `renderer=zbuffer`", field="renderer", value="pytorch3d"
        )
    if name != "auto":
        return name
    return "pytorch3d" if has_pytorch3d and _has_gpu() else "zbuffer"


def renderer_version(name: RendererName) -> str:
    """Return the version of a resolved renderer and of the shading; shards of another version are rendered again."""
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
    """Build the renderer with a resolved name; its library is imported here."""
    if name == "pytorch3d":
        from smile_pipe.pipeline.rendering.pytorch3d import PyTorch3DRenderer

        return PyTorch3DRenderer()
    if name == "zbuffer-cuda":
        from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

        return ZBufferCudaRenderer()
    from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

    return ZBufferRenderer()


def _has_gpu() -> bool:
    # Importing torch takes seconds; without the driver's devices the answer is known before that.
    if sys.platform == "linux" and not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()
