"""A running average of the weights, which is a run's result where `ema` is set.

Goes in: the model after each step. Comes out: a model of the same names. Promised: what a checkpoint holds of it is
enough to go on to the bit.
"""

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from smile_pipe.model.objectives import ContrastiveModel


class ExponentialMovingAverage:
    """w' <- d w' + (1 - d) w after each step, of weights and of BatchNorm's statistics, which belong to them.

    The decay warms up, d_t = min(decay, (1 + t) / (10 + t)) after t averages: the first weights, which know nothing,
    are soon forgotten. Whole numbers, such as how many batches were counted, are taken as they are.
    """

    def __init__(self, model: ContrastiveModel, decay: float) -> None:
        self.model, self.decay = model, decay
        self._averaged = AveragedModel(model, use_buffers=True)

    @property
    def result(self) -> ContrastiveModel:
        """The model of the averaged weights."""
        return self._averaged.module

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        count = int(self._averaged.n_averaged)
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(min(self.decay, (1 + count) / (10 + count)))
        self._averaged.update_parameters(self.model)
        for averaged, current in zip(self.result.buffers(), self.model.buffers(), strict=True):
            if not current.is_floating_point():
                averaged.copy_(current)

    def count(self) -> int:
        """How many times weights were taken in."""
        return int(self._averaged.n_averaged)

    def load_checkpoint(self, weights: dict[str, Tensor], count: int) -> None:
        """Go on from averaged weights."""
        self.result.load_state_dict(weights)
        self._averaged.n_averaged.fill_(count)
