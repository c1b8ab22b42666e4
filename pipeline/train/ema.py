"""Exponential moving average of the weights, which is the result of a run if `ema` is set."""

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from smile_pipe.model.objectives import ContrastiveModel


class ExponentialMovingAverage:
    """w' <- d w' + (1 - d) w after each step, for weights and for the running statistics of BatchNorm.

    The decay warms up, d_t = min(decay, (1 + t) / (10 + t)) after t updates, so that the average soon forgets the
    initial weights. Integer buffers, such as BatchNorm's number of batches, are copied.
    """

    def __init__(self, model: ContrastiveModel, decay: float) -> None:
        self.model, self.decay = model, decay
        self._averaged = AveragedModel(model, use_buffers=True)

    @property
    def averaged_model(self) -> ContrastiveModel:
        """The model with the averaged weights."""
        averaged = self._averaged.module
        assert isinstance(averaged, ContrastiveModel)
        return averaged

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average."""
        count = self.num_averaged()
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(min(self.decay, (1 + count) / (10 + count)))
        self._averaged.update_parameters(self.model)
        for averaged, current in zip(self.averaged_model.buffers(), self.model.buffers(), strict=True):
            if not current.is_floating_point():
                averaged.copy_(current)

    def num_averaged(self) -> int:
        """Number of updates so far."""
        return int(self._averaged.n_averaged)

    def load_checkpoint(self, weights: dict[str, Tensor], num_averaged: int) -> None:
        """Restore averaged weights and the number of updates; the continuation is equal to the bit."""
        self.averaged_model.load_state_dict(weights)
        self._averaged.n_averaged.fill_(num_averaged)
