"""Choose a renderer by name or by the machine. Its library is imported only when the renderer is built."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Literal

from smile_pipe.pipeline.rendering.backend import SHADING_VERSION, Renderer
from smile_pipe.shards.errors import UsageError

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
        from smile_pipe.pipeline.rendering.pytorch3d import build_pytorch3d

        return build_pytorch3d()
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
