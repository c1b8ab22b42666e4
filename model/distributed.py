"""The only collective that training needs: gather the rows of all ranks, with exact gradients.

Losses that compare samples are computed on the gathered batch by every rank. Each rank then has the complete gradient
of its own rows, except for the factor that data-parallel averaging divides by. The backward pass below adds this
factor: it sums the equal gradients of all ranks. So the gradients of the parameters equal those of one rank with the
gathered batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows_nd: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order.

    Args:
        rows_nd: Rows of this rank, [N, ...]; N may differ between ranks and may be 0.

    Returns:
        Rows of all ranks, [sum N, ...]; without a process group, `rows_nd` itself.
    """
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
