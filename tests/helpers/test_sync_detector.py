"""The detector of synchronisation finds what it lists, and nothing else."""

from collections.abc import Callable

import pytest
import torch

from helpers.sync_detector import DeviceSyncError, no_device_syncs

WAITING: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x.sum()),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "mask": lambda x: x[x > 0],
    "write by mask": lambda x: x.index_put_((x > 0,), torch.ones_like(x)),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "unique": lambda x: x.unique(),
    "unique rows": lambda x: torch.unique(x[:, None], dim=0),
    "repeat": lambda x: x.repeat_interleave(torch.ones(len(x), dtype=torch.int64, device=x.device)),
    "select": lambda x: x.masked_select(x > 0),
}


@pytest.mark.parametrize("name", WAITING)
def test_waiting_operations_are_found(name):
    with pytest.raises(DeviceSyncError), no_device_syncs():
        WAITING[name](torch.ones(4))


@pytest.mark.parametrize("name", WAITING)
def test_waiting_operations_are_found_on_meta(name):
    with pytest.raises(DeviceSyncError), no_device_syncs(device="meta"):
        WAITING[name](torch.ones(4, device="meta"))


def test_host_tensors_may_be_read_next_to_meta():
    host = torch.arange(4)
    with no_device_syncs(device="meta"):
        assert int(host.sum()) == 6 and host.tolist() == [0, 1, 2, 3] and len(host[host > 1]) == 2
        host.to("meta", non_blocking=True)


@pytest.mark.parametrize(
    "copy",
    [
        lambda: torch.arange(4).to("meta"),
        lambda: torch.tensor([1, 2], device="meta"),
        lambda: torch.ones(4, device="meta")[torch.tensor([0, 2])],
        lambda: torch.ones(4, device="meta").copy_(torch.ones(4)),
        lambda: torch.ones(4, device="meta").to("cpu"),
    ],
)
def test_blocking_copies_are_found_on_meta(copy):
    with pytest.raises(DeviceSyncError), no_device_syncs(device="meta"):
        copy()


def test_backward_passes_are_checked():
    class ReadInBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * grad.sum().item()

    x = torch.ones(3, requires_grad=True)
    y = ReadInBackward.apply(x).sum()
    with pytest.raises(DeviceSyncError), no_device_syncs():
        y.backward()


def test_other_operations_pass():
    x = torch.randn(4, 3, requires_grad=True)
    with no_device_syncs():
        y = x[torch.tensor([0, 2])].clone()
        y[y > 0] = 0.0
        z = y.repeat_interleave(torch.tensor([1, 2]), dim=0, output_size=3)
        torch.where(z > 0, z, 0.0).sum().backward()
        torch.nn.utils.clip_grad_norm_([x], 1.0)


def test_allowed_operations_pass():
    with no_device_syncs(allow=("tolist", "nonzero")):
        assert torch.ones(2).tolist() == [1, 1]
        torch.ones(2).nonzero()
        with pytest.raises(DeviceSyncError):
            torch.ones(2).unique()
