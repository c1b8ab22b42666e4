"""The one collective that training needs: all ranks' rows, with gradients.

Losses that compare samples with each other are computed on the joined batch, by every rank. Each rank's gradient of its
own rows is then complete but for the factor that data-parallel averaging divides by, which the backward pass below puts
in: it sums the ranks' equal gradients. So the parameters' gradients equal those of one rank with the joined batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows_nd: Tensor) -> Tensor:
    """All ranks' rows [sum N, ...] in rank order; the identity without a process group. N may differ between ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows_nd
    return _GatherRows.apply(rows_nd)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
        counts[dist.get_rank()] = len(rows)
        dist.all_reduce(counts)
        ctx.counts = counts.tolist()
        padded = rows.new_zeros(max(ctx.counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in ctx.counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, ctx.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.counts)[dist.get_rank()]
