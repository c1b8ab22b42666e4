"""Choose a renderer by name or by the machine. Its library is imported only when the renderer is built."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from smile_pipe.pipeline.rendering.backend import PYTORCH3D_REVISION, SHADING_VERSION, ZBUFFER_VERSION, Renderer
from smile_pipe.shards.errors import UsageError

RendererName = Literal["auto", "pytorch3d", "zbuffer", "zbuffer-cuda"]
GPU_RENDERERS = ("pytorch3d", "zbuffer-cuda")


def choose_renderer(name: RendererName, has_gpu: Callable[[], bool] | None = None) -> RendererName:
    """Resolve `auto` to the renderer that fits the machine, and check that a named renderer is available.

    Args:
        name: Name of a renderer; `auto` means `pytorch3d` if it is installed and there is a GPU, else `zbuffer`.
        has_gpu: Whether there is a GPU where the renderer will run; by default on this machine. It is called only if
            the answer matters.

    Returns:
        The name of the renderer to use; never `auto`.

    Raises:
        UsageError: `name` is a renderer for GPUs and there is none, or `pytorch3d` and it is not installed.
    """
    has_gpu = has_gpu or has_local_gpu
    has_pytorch3d = importlib.util.find_spec("pytorch3d") is not None
    if name == "auto":
        return "pytorch3d" if has_pytorch3d and has_gpu() else "zbuffer"
    if name == "pytorch3d" and not has_pytorch3d:
        raise UsageError(
            "PyTorch3D is not installed; create the environment of `docker/environment.yml` (conda-forge), or use "
            "`renderer=zbuffer`",
            field="renderer",
            value=name,
        )
    if name in GPU_RENDERERS and not has_gpu():
        reason = " (PyTorch3D takes about 20 s a view on a CPU)" if name == "pytorch3d" else ""
        raise UsageError(
            f"PyTorch finds no GPU on this machine{reason}; use `renderer=zbuffer`", field="renderer", value=name
        )
    return name


def renderer_version(name: RendererName) -> str:
    """Return the version of a resolved renderer and of the shading; shards of another version are rendered again."""
    if name == "pytorch3d":
        # Not from the metadata of an installation, which a folder on `sys.path` has not.
        version = f"{importlib.import_module('pytorch3d').__version__}.{PYTORCH3D_REVISION}"
    elif name == "zbuffer-cuda":
        from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

        version = ZBufferCudaRenderer.version
    else:
        version = ZBUFFER_VERSION
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


def has_local_gpu() -> bool:
    """Whether PyTorch can use a GPU of this machine."""
    # Importing torch takes seconds; without the driver's devices the answer is known before that.
    if sys.platform == "linux" and not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()
