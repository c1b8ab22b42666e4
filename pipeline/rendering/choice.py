"""Which renderer: by name, or the one that fits the machine. Each is imported only when it is chosen."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Literal

from pipeline.rendering.renderer import SHADING_VERSION, Renderer
from shards.errors import UsageError

RendererName = Literal["auto", "pytorch3d", "zbuffer", "zbuffer-cuda"]
ON_GPUS = ("pytorch3d", "zbuffer-cuda")


def choose_renderer(name: RendererName) -> RendererName:
    """Resolve `auto`: `pytorch3d` where it is importable and a GPU is present, else `zbuffer`.

    Raises:
        UsageError: `pytorch3d` was asked for and is not installed, or `zbuffer-cuda` and there is no GPU.
    """
    if name == "zbuffer-cuda" and not _has_gpu():
        raise UsageError("--renderer zbuffer-cuda: there is no GPU here that PyTorch can use; use --renderer zbuffer")
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
    elif name == "zbuffer-cuda":
        from pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

        version = ZBufferCudaRenderer.version
    else:
        from pipeline.rendering.zbuffer import ZBufferRenderer

        version = ZBufferRenderer.version
    return f"{version}+shading.{SHADING_VERSION}"


def build_renderer(name: RendererName) -> Renderer:
    """The renderer of a resolved name; its library is imported only now."""
    if name == "pytorch3d":
        from pipeline.rendering.pytorch3d import PyTorch3DRenderer

        return PyTorch3DRenderer()
    if name == "zbuffer-cuda":
        from pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

        return ZBufferCudaRenderer()
    from pipeline.rendering.zbuffer import ZBufferRenderer

    return ZBufferRenderer()


def _has_gpu() -> bool:
    # Importing torch takes seconds, which a plan on a machine without the driver's devices need not wait for.
    if sys.platform == "linux" and not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()
