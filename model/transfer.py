"""Copies to a GPU that do not make the CPU wait."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor from the CPU to a device; one that is there already is returned.

    A copy to a GPU is queued: a copy from ordinary memory would wait for all kernels before it, so pinned memory is
    used. PyTorch keeps the pinned memory until the copy is done.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")
