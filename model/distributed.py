"""Collectives with exact gradients, and the rows of a batch that is distributed over ranks.

Losses compare samples, so a loss L belongs to the joined batch of all W ranks, and is not a mean of losses of single
ranks. Each rank computes its own share: its rows, compared with the rows of all ranks. The sum of the shares is L.
Every rank gets this sum and backpropagates it. The gradients are exact for any parameter:

    1. The backward pass of each collective is its adjoint: the gradient of a sum over ranks, and that of a gathered
       row, is the sum of the gradients of all ranks.
    2. The backward passes of all ranks together are therefore one backward pass through the joint computation. Its
       output is the sum of the W equal losses, W L.
    3. Each rank has a copy of a parameter. The gradients of all copies add up to the gradient of W L.
    4. Data-parallel training takes the mean over ranks. It divides this sum by W, so the result is the gradient of L.

It makes no difference whether a parameter is reached through own rows, through gathered rows, or directly, as a
temperature is. A loss that every rank computes from reduced values, such as a cross-correlation, would count W times in
the sum over ranks, so its share is one W-th of it. With one rank there are no collectives, and the share is the loss.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """One quantity of the samples of a batch.

    Attributes:
        own: Rows of this rank, [n, ...]; n may differ between ranks and may be 0.
        all: Rows of all ranks in rank order, [N, ...]; with one rank, `own` itself. Empty if they were not gathered.
        num: Number N of rows of all ranks.
    """

    own: Tensor
    all: Tensor
    num: int

    @classmethod
    def alone(cls, rows: Tensor) -> "Rows":
        """Rows of a single rank."""
        return cls(rows, rows, len(rows))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        """Apply a function of single rows; once if there is one rank."""
        own = function(self.own)
        return Rows(own, own if self.all is self.own else function(self.all), self.num)

    @staticmethod
    def cat(parts: Sequence["Rows"]) -> "Rows":
        """Concatenate rows: own rows with own rows, and all with all; once if there is one rank."""
        own = torch.cat([part.own for part in parts])
        is_alone = all(part.all is part.own for part in parts)
        joined = own if is_alone else torch.cat([part.all for part in parts])
        return Rows(own, joined, sum(part.num for part in parts))


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum equally shaped values of all ranks; with one rank, `values` itself."""
    return values if world_size() == 1 else _SumOverRanks.apply(values)


def gather_rows(fields: Mapping[str, Tensor], gathered: Collection[str]) -> dict[str, Rows]:
    """Gather rows of all ranks; all ranks must call this together.

    Args:
        fields: Rows of this rank by name, [n, ...] with the same n. Names, types and shapes of rows are equal on all
            ranks.
        gathered: Names of the fields that are gathered.

    Returns:
        The fields, and under `numbers` the number of each row in the joined batch, int64.
    """
    first_field = next(iter(fields.values()))
    num_own, device = len(first_field), first_field.device
    if world_size() == 1:
        return {name: Rows.alone(rows) for name, rows in (*fields.items(), ("numbers", _range(num_own, device)))}
    counts = _gather_counts(num_own)
    starts, num = [0, *accumulate(counts)], sum(counts)
    numbers = _range(num, device)
    found = {name: Rows(rows, rows[:0], num) for name, rows in fields.items()}
    found["numbers"] = Rows(numbers[starts[dist.get_rank()] :][:num_own], numbers, num)
    # One collective for each type of numbers, of which there are two: embeddings and identifiers.
    for dtype in dict.fromkeys(rows.dtype for name, rows in fields.items() if name in gathered):
        names = [name for name, rows in fields.items() if name in gathered and rows.dtype == dtype]
        columns = [fields[name][:, None].flatten(1) for name in names]
        joined = _GatherRows.apply(torch.cat(columns, dim=1), counts)
        for name, part in zip(names, joined.split([each.shape[1] for each in columns], dim=1), strict=True):
            found[name] = Rows(fields[name], part.reshape(num, *fields[name].shape[1:]), num)
    return found


def _range(num: int, device: torch.device) -> Tensor:
    return torch.arange(num, device=device)


def _gather_counts(num_own: int) -> list[int]:
    """Numbers of rows of all ranks, exchanged between CPUs: reading them from a GPU would wait for all its kernels."""
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([num_own]))
    return [int(count) for count in counts]


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _reduce(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _reduce(grads[0])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _reduce(grads[0]).split(ctx.counts)[dist.get_rank()], None


def _reduce(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
