"""Which exceptions are failures of a GPU. The texts are those of torch and Triton; no GPU is needed to raise them."""

import pytest
import torch

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.rendering.backend import DeviceError, OutOfDeviceMemoryError
from smile_pipe.pipeline.rendering.device_errors import as_device_error, free_device_memory

ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call.\nCompile with `TORCH_USE_CUDA_DSA`"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered" + ADVICE),
        RuntimeError("CUDA error: no kernel image is available for execution on the device" + ADVICE),
        RuntimeError("CUDA error: device-side assert triggered" + ADVICE),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("No CUDA GPUs are available"),
    ],
)
def test_failures_of_a_device(error):
    found = as_device_error(error)
    assert isinstance(found, DeviceError)
    assert str(found) == f"the GPU failed: {str(error).splitlines()[0]}"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
        ),
        RuntimeError("CUDA error: out of memory" + ADVICE),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_device_without_memory_has_not_failed(error):
    found = as_device_error(error)
    assert isinstance(found, OutOfDeviceMemoryError)
    assert str(found) == str(error).splitlines()[0]


@pytest.mark.parametrize(
    "error",
    [
        MeshError("CUDA error.obj: no faces"),
        MemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError(""),
    ],
)
def test_other_errors_stay_as_they_are(error):
    assert as_device_error(error) is error


def test_memory_is_freed_only_if_the_gpu_is_in_use(monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("freed"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    free_device_memory()
    assert calls == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    free_device_memory()
    assert calls == ["freed"]
