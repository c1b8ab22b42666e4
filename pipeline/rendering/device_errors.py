"""Recognise the failures of a GPU among the exceptions of a renderer, by their text.

The type of an exception depends on its source: `torch.AcceleratorError` or `torch.OutOfMemoryError` from torch, a plain
`RuntimeError` from an older torch, from the C++ of PyTorch3D or from Triton's launcher. The texts are those of
`c10/cuda/CUDAException.cpp`, `c10/cuda/CUDACachingAllocator.cpp`, `c10/cuda/driver_api.h` and
`triton/backends/nvidia/driver.c`.
"""

import re
import sys

from smile_pipe.pipeline.rendering.backend import DeviceError, OutOfDeviceMemoryError

_DEVICE = re.compile(r"CUDA (driver )?error|CUDA out of memory|No CUDA GPUs|Triton Error \[CUDA\]|cuDNN error")
# An allocation that fails leaves the context of the process intact; other errors do not.
_OUT_OF_MEMORY = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED")


def as_device_error(error: Exception) -> Exception:
    """Return `error` as `DeviceError` or `OutOfDeviceMemoryError` if a GPU is its cause, otherwise `error` itself."""
    # The lines after the first are advice for debugging.
    line = str(error).strip().partition("\n")[0]
    if not isinstance(error, RuntimeError) or not _DEVICE.search(line):
        return error
    return OutOfDeviceMemoryError(line) if _OUT_OF_MEMORY.search(line) else DeviceError(f"the GPU failed: {line}")


def free_device_memory() -> None:
    """Return the GPU memory that torch keeps for later calls, if torch is in use."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
