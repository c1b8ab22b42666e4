"""The interface of the renderers, and the constants that they share.

Every renderer takes meshes in the canonical frame and a rig of cameras for each, and returns the images of all views.
All of them follow the camera convention of `smile_pipe.shards.sample.CAMERA_CONVENTION`, interpolate with correct
perspective, draw both sides of a face (normals are flipped towards the camera), drop no face silently and are
deterministic.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig

# Shading model of all renderers, so that their images agree: a soft light at the camera.
#   colour = albedo * (AMBIENT + (1 - AMBIENT) * max(0, n . towards_camera))
# Increase the version when the images of all renderers change: finished shards are then rendered again.
SHADING_VERSION = 2
# The same for `zbuffer`; here, because a plan needs it, and not the kernels.
ZBUFFER_VERSION = "2"
# The same for our backend of PyTorch3D, whose own version counts too.
PYTORCH3D_REVISION = 2
AMBIENT = 0.35
SKIN_TONE = (214, 178, 156)
BACKGROUND = (240, 240, 240)
# Limit of a face's size (twice its area, square frame units) for vertex normals. A larger face has an outlier vertex;
# the normals of its other vertices are computed without it.
MAX_FACE_AREA = 2.0**18
# Bytes of a pixel that is stored, by channel. Renderers draw all of these but `landmarks`.
QUANTISED_BYTES = {"rgb": 3, "depth": 2, "normal": 3, "flow": 6, "landmarks": 3}


class DeviceError(RuntimeError):
    """A GPU failed. The process that used it can use it no more: every later call fails too."""


class OutOfDeviceMemoryError(RuntimeError):
    """A call needs more memory than the GPU has left. Smaller calls may succeed."""


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


@dataclass(frozen=True, eq=False)
class QuantisedViews:
    """Images of one mesh as the integers that are stored.

    Attributes:
        pixels: By channel, see `smile_pipe.pipeline.rendering.encoding`: uint8 [V, H, W, 3] for `rgb` and `normal`,
            uint16 [V, H, W] for `depth` and [V, H, W, 3] for `flow`.
        is_visible: Whether any view shows the mesh.
    """

    pixels: Mapping[str, NDArray]
    is_visible: bool


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

    def render_quantised(
        self, meshes: Sequence[Mesh], rigs: Sequence[Rig], channels: Sequence[str], samples_per_pixel: int = 1
    ) -> list[QuantisedViews]:
        """Render each mesh from all views of its rig, supersampled, to the integers that are stored.

        A few views are in memory at a time at the size at which they are drawn.

        Args:
            meshes: Meshes with vertices in the canonical frame.
            rigs: One rig for each mesh, with the size of the output.
            channels: Channels to render.
            samples_per_pixel: Samples of each output pixel, a square number; see `downsample`.

        Returns:
            The images of each mesh, in the order of `meshes`.

        Raises:
            ValueError: `channels` contains `flow`, and a mesh has none.
        """
        ...


def check_flow(meshes: Sequence[Mesh], channels: Sequence[str]) -> None:
    """Check that all meshes have a flow if `channels` contains it.

    Raises:
        ValueError: a mesh has no flow.
    """
    if "flow" in channels and any(mesh.flow is None for mesh in meshes):
        raise ValueError("the mesh has no flow")


def divide_views(num_views: int, bytes_per_view: int, memory: int) -> Iterator[slice]:
    """Divide the views of a rig into ranges of equal size that fit in `memory` bytes, of at least one view."""
    step = max(memory // bytes_per_view, 1)
    return (slice(start, min(start + step, num_views)) for start in range(0, num_views, step))
