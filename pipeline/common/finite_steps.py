"""Optimiser steps without NaN and infinity, for training and fine-tuning.

A step whose loss or gradient is not finite is skipped: one such step would make all weights NaN, for good.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smile_pipe.pipeline.common.optimization import MAX_GRADIENT_NORM

# A rare batch is survived; weights from which ten batches in a row give no finite step do not recover.
MAX_SKIPPED_IN_A_ROW = 10


class DivergedError(RuntimeError):
    """Losses, gradients or weights are not finite; the same training would end in the same way again."""


class FiniteSteps:
    """Takes the steps of an optimiser, and skips those whose loss or gradient is not finite.

    A skipped step changes neither weights nor the state of the optimiser, and buffers, such as the running statistics
    of BatchNorm, return to their values before it. The decision stays on the device, so that no step waits for it: a
    fused optimiser reads `found_inf`, as it does for `torch.amp.GradScaler`. All ranks decide alike, because losses and
    gradients are those of the joined batch.

    Attributes:
        was_skipped: Whether the last step was skipped, a scalar on the device.
        num_skipped: Number of skipped steps, a scalar on the device.
        num_in_a_row: Number of skipped steps since the last one that was taken, a scalar on the device.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor]
    ) -> None:
        """Prepare.

        Args:
            optimizer: A fused optimiser.
            parameters: What the optimiser learns.
            buffers: What a forward pass may change.
        """
        self.optimizer, self.parameters, self.buffers = optimizer, parameters, buffers
        self._buffers_before = [buffer.clone() for buffer in buffers]
        self.num_skipped = torch.zeros((), dtype=torch.int64, device=parameters[0].device)
        self.num_in_a_row = torch.zeros_like(self.num_skipped)
        self.was_skipped = torch.zeros_like(self.num_skipped, dtype=torch.bool)

    def start(self) -> None:
        """Start a step, before its forward pass: reset the gradients and remember the buffers."""
        self.optimizer.zero_grad(set_to_none=True)
        for before, buffer in zip(self._buffers_before, self.buffers, strict=True):
            before.copy_(buffer)

    @torch.no_grad()
    def finish(self, loss: Tensor) -> None:
        """Clip the gradients and take the step, unless one of them or the loss is not finite."""
        norm = nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        self.was_skipped = ~(norm.isfinite() & loss.isfinite())
        self.optimizer.found_inf = self.was_skipped.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        for before, buffer in zip(self._buffers_before, self.buffers, strict=True):
            torch.where(self.was_skipped, before, buffer, out=buffer)
        self.num_skipped += self.was_skipped
        self.num_in_a_row = (self.num_in_a_row + 1) * self.was_skipped

    def check(self, step: int, num_steps: int, losses: Mapping[str, Tensor], remedy: str) -> None:
        """Check that training advances; this waits for the device. All ranks find the same.

        Args:
            step: Number of steps done.
            num_steps: Number of all steps.
            losses: Losses of the last step by name.
            remedy: What the user can do.

        Raises:
            DivergedError: `MAX_SKIPPED_IN_A_ROW` steps in a row were skipped, or all steps of a shorter training.
        """
        num_in_a_row = int(self.num_in_a_row)
        if num_in_a_row < min(MAX_SKIPPED_IN_A_ROW, num_steps):
            return
        names = [name for name, loss in losses.items() if not loss.isfinite()]
        what = f"the loss {', '.join(names)}" if names else "the gradient"
        raise DivergedError(
            f"training has diverged: {what} is not finite at step {step}, and {num_in_a_row} steps in a row were "
            f"skipped; {remedy}"
        )

    def state(self) -> dict[str, int]:
        """Counters for a checkpoint."""
        return {"num_skipped": int(self.num_skipped), "num_in_a_row": int(self.num_in_a_row)}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Restore the result of `state`."""
        self.num_skipped.fill_(state["num_skipped"])
        self.num_in_a_row.fill_(state["num_in_a_row"])


def check_finite(model: nn.Module, what: str, remedy: str) -> None:
    """Check the weights of a model and the running statistics of BatchNorm.

    Args:
        model: The model.
        what: What the weights are, for the error.
        remedy: What the user can do.

    Raises:
        DivergedError: One of them is not finite.
    """
    statistics = ((name, b) for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var")))
    for name, tensor in (*model.named_parameters(), *statistics):
        if not tensor.isfinite().all():
            raise DivergedError(f"{what}: {name} is not finite; {remedy}")
