"""Exponential moving average of the weights, which is the result of a run if `ema` is set."""

from copy import deepcopy

import torch
from torch import Tensor

from smile_pipe.model.recipes import RecipeModel


class ExponentialMovingAverage:
    """w' <- d w' + (1 - d) w after each step, for weights and for the running statistics of BatchNorm.

    The decay warms up, d_t = min(decay, (1 + t) / (10 + t)) after t updates, so that the average soon forgets the
    initial weights. The first update copies the weights. Integer buffers, such as BatchNorm's number of batches, are
    always copied. The count of updates is on the device, as `torch.optim.swa_utils.AveragedModel` cannot have it: the
    device decides whether a step counts.

    Attributes:
        averaged_model: The model with the averaged weights.
        num_averaged: Number of updates so far, a scalar on the device.
    """

    def __init__(self, model: RecipeModel, decay: float) -> None:
        self.decay, self.averaged_model = decay, deepcopy(model)
        # The tensors of a state dict share the memory of the model.
        self._pairs = [*zip(self.averaged_model.state_dict().values(), model.state_dict().values(), strict=True)]
        self.num_averaged = torch.zeros((), device=model.scale.device)

    @torch.no_grad()
    def update(self, was_skipped: Tensor) -> None:
        """Add the current weights to the average, unless the step was skipped (a scalar on the device)."""
        count = self.num_averaged
        decay = ((1 + count) / (10 + count)).clamp(max=self.decay) * (count > 0)
        weight = torch.where(was_skipped, 0.0, 1 - decay)
        for averaged, current in self._pairs:
            if current.is_floating_point():
                averaged.lerp_(current, weight.to(current.dtype))
            else:
                averaged.copy_(current)
        self.num_averaged += ~was_skipped

    def load_checkpoint(self, weights: dict[str, Tensor], num_averaged: int) -> None:
        """Restore averaged weights and the number of updates; the continuation is equal to the bit."""
        self.averaged_model.load_state_dict(weights)
        self.num_averaged.fill_(num_averaged)
