"""The `zbuffer` renderer on a GPU: Triton finds the nearest faces (`kernels/cuda_faces.py`).

It finds the same faces as `zbuffer`; images are equal up to the last bit of shading. Results do not depend on the order
in which a device computes.
"""

from torch import Tensor

from smile_pipe.pipeline.rendering.gpu import Drawing, GpuRenderer
from smile_pipe.pipeline.rendering.kernels.cuda_faces import rasterise


class ZBufferCudaRenderer(GpuRenderer):
    """A z-buffer of 64-bit keys on a GPU; see `smile_pipe.pipeline.rendering.backend.Renderer`."""

    name = "zbuffer-cuda"
    # Increase it when the pixels change: finished shards are then rendered again.
    version = "cuda.2"

    def find_faces(self, drawing: Drawing, exactly: bool) -> Tensor:
        """Find the nearest face of each pixel; see `GpuRenderer.find_faces`."""
        assert drawing.snapped is not None
        return rasterise(drawing.snapped, drawing.surface.faces, drawing.size, drawing.is_perspective)
