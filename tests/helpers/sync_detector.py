"""Detection, without a GPU, of code that makes the CPU wait for the device.

A value of a tensor that Python reads, or that decides the shape of a result, must first be computed: on a GPU the CPU
then waits for all kernels before it. Such operations run everywhere, so they can be found on a CPU:

    with no_device_syncs():
        loss = model(images).sum()
        loss.backward()

All tensors count as tensors on the device here. Code that also reads small tensors on the host is run with its device
tensors on `meta`, which have no data, and `no_device_syncs(device="meta")`: it then counts only these, and also finds
blocking copies to the device, and host tensors as indices.

Not found are waits inside kernels or libraries, such as memory that the allocator must free first, and whether the
source of a copy is in pinned memory. Only a GPU with `torch.cuda.set_sync_debug_mode` shows these.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The value of a tensor is read, or decides the shape of the result.
_READING = frozenset(
    (
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "nonzero",
        "nonzero_numpy",
        "masked_select",
        "unique_dim",
        "unique_consecutive",
        "unique_dim_consecutive",
        "_unique",
        "_unique2",
        "bincount",
        "_linalg_check_errors",
    )
)
# Methods that copy to the host without a dispatched operation if the tensor is on the CPU already.
_COPYING = frozenset(("tolist", "numpy", "__array__", "cpu"))
_CREATING = frozenset(("tensor", "as_tensor", "asarray"))


class DeviceSyncError(AssertionError):
    """An operation waits for the device; the message has its name."""


@contextmanager
def no_device_syncs(allow: Collection[str] = (), device: str = "cpu") -> Iterator[None]:
    """Let operations that wait for the device fail within the block, in forward and in backward passes.

    Args:
        allow: Names of operations that may wait, such as `nonzero` or `tolist`.
        device: Type of the device that stands for the GPU: `cpu` for all tensors, or `meta`.

    Raises:
        DeviceSyncError: An operation in the block waits.
    """
    with _Functions(frozenset(allow), device), _Operations(frozenset(allow), device):
        yield


class _Operations(TorchDispatchMode):
    def __init__(self, allow: frozenset[str], device: str) -> None:
        super().__init__()
        self.allow, self.device = allow, device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        on_device = [leaf for leaf in tree_leaves((args, kwargs)) if _is_on(leaf, self.device)]
        if name not in self.allow and (reason := self._reason(name, args, kwargs, bool(on_device))):
            raise DeviceSyncError(f"{name} waits for the device: {reason}")
        return func(*args, **kwargs)

    def _reason(self, name: str, args: Any, kwargs: Any, any_on_device: bool) -> str:
        """Why an operation waits; empty if it does not."""
        if any_on_device and name in _READING:
            return "a value is read, or decides a shape"
        if any_on_device and name == "repeat_interleave" and kwargs.get("output_size") is None:
            return "the sum of the repeats decides the shape; set `output_size`"
        if name in ("index", "index_put", "index_put_", "_unsafe_index") and _is_on(args[0], self.device):
            return self._reason_of_indices(name, args)
        return self._reason_of_copy(name, args, kwargs)

    def _reason_of_indices(self, name: str, args: Any) -> str:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            # One value for all elements of a mask is written by `masked_fill`.
            is_fill = name.startswith("index_put") and len(indices) == 1 and args[2].numel() == 1
            return "" if is_fill else "the number of set elements of a mask decides the shape"
        is_host = any(not _is_on(index, self.device) for index in indices)
        return "an index is on the host, and is copied first" if is_host else ""

    def _reason_of_copy(self, name: str, args: Any, kwargs: Any) -> str:
        if self.device == "cpu":
            return ""
        if name == "_to_copy":
            source, target, non_blocking = args[0], kwargs.get("device"), kwargs.get("non_blocking", False)
        elif name == "copy_":
            source, target = args[1], args[0].device
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            return ""
        target_type = source.device.type if target is None else torch.device(target).type
        if _is_on(source, self.device) and target_type == "cpu":
            return "a tensor is copied to the host"
        if source.device.type == "cpu" and target_type == self.device and source.ndim and not non_blocking:
            return "a blocking copy to the device"
        return ""


class _Functions(TorchFunctionMode):
    """Functions and methods of Python that no dispatched operation shows."""

    def __init__(self, allow: frozenset[str], device: str) -> None:
        super().__init__()
        self.allow, self.device = allow, device

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in self.allow:
            if name in _COPYING and args and _is_on(args[0], self.device):
                raise DeviceSyncError(f"{name} waits for the device: a tensor is copied to the host")
            target = torch.device(kwargs.get("device") or "cpu").type
            if name in _CREATING and target == self.device != "cpu":
                raise DeviceSyncError(f"{name} waits for the device: a blocking copy to the device")
        return func(*args, **kwargs)


def _is_on(value: Any, device: str) -> bool:
    return isinstance(value, Tensor) and value.device.type == device
