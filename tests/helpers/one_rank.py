"""Losses of a single rank, as functions of plain tensors."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from smile_pipe.model.distributed import Rows


def on_one_rank(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a loss of `Rows` take tensors: those with rows become the rows of a single rank, and scalars stay."""

    def of_tensors(*given: Any) -> Tensor:
        return loss(*(Rows.alone(x) if isinstance(x, Tensor) and x.ndim else x for x in given))

    return of_tensors
