"""What a renderer is: meshes in the canonical frame and a rig go in, the images of all views come out.

Promised by every renderer: the camera convention of `shards.sample.CAMERA_CONVENTION`, perspective-correct
interpolation, both sides of a face drawn (normals turned to the camera), nothing dropped silently, nothing random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import Mesh
from pipeline.rendering.rig import Rig

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
