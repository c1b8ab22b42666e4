"""Gradients of a batch's losses, for the whole batch at once or in parts that need less memory.

Losses compare the samples of a batch with each other, so the losses of its parts, summed, are other losses. GradCache
(Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021, arXiv 2101.06983) is
exact: embed the parts without keeping what gradients need; take the losses of all embeddings together, and the
gradients of the embeddings; then embed part after part again and hand each its own. Embeddings are small, so the memory
is that of a part, and the price is a second pass forward. BatchNorm inside a tower takes its statistics over a part, in
both passes the same ones, and counts them once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from smile_pipe.model.config import Precision
from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.objectives import ContrastiveModel, Targets
from smile_pipe.model.packing import PackedFrames


@dataclass(frozen=True)
class ModelInputs:
    """What the model is shown of a batch: views [N, V, 3, H, W] from directions [V, 3], tokens [B, T], moments."""

    views: Tensor
    directions: Tensor
    tokens: Tensor | None
    moments: PackedFrames

    def parts(self, num: int) -> list["ModelInputs"]:
        """`num` parts, or one a face where there are fewer faces, as even as they go."""
        num = min(num, len(self.moments.counts))
        counts = self.moments.counts.tensor_split(num)
        sizes = [int(part.sum()) for part in counts]
        times = self.moments.times.split(sizes)
        tokens: Sequence[Tensor | None] = [None] * num if self.tokens is None else self.tokens.tensor_split(num)
        moments = [PackedFrames(*each) for each in zip(counts, times, strict=True)]
        shown = zip(self.views.split(sizes), tokens, moments, strict=True)
        return [ModelInputs(views, self.directions, words, when) for views, words, when in shown]


def embed(network: nn.Module, shown: ModelInputs, precision: Precision) -> Embeddings:
    """What `network`, a recipe or its data-parallel wrapper, makes of a batch."""
    device = shown.views.device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return network(shown.views, shown.directions, shown.tokens, shown.moments.to(device))


def backward(
    network: nn.Module,
    model: ContrastiveModel,
    shown: ModelInputs,
    targets: Targets,
    precision: Precision,
    num_parts: int = 1,
) -> dict[str, Tensor]:
    """The loss terms of a batch, after their gradients were added to those of `model`, which `network` wraps."""
    if num_parts == 1:
        losses = model.losses(embed(network, shown, precision), targets)
        losses["total"].backward()
        return losses
    parts, noises, embedded = shown.parts(num_parts), [], []
    with torch.no_grad(), _statistics_kept(model):
        for part in parts:
            noises.append(_Noise(shown.views.device))
            embedded.append(embed(model, part, precision))
    joined = {name: torch.cat(rows).requires_grad_() for name, rows in _by_name(embedded).items()}
    losses = model.losses(Embeddings(**{"text": None} | joined), targets)
    # Temperatures and the like meet the losses without passing through embeddings: no part's pass would reach them.
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(losses["total"], [*joined.values(), *learned], allow_unused=True)
    own = [(parameter, grad) for parameter, grad in zip(learned, found[len(joined) :], strict=True) if grad is not None]
    sizes = [len(part.moments.counts) for part in parts]
    grads = {name: grad.split(sizes) for name, grad in zip(joined, found, strict=False) if grad is not None}
    for number, (part, noise) in enumerate(zip(parts, noises, strict=True)):
        is_last = number == len(parts) - 1
        # Ranks exchange gradients once, with the last part, whatever number of parts each has.
        alone = isinstance(network, DistributedDataParallel) and not is_last
        with network.no_sync() if alone else nullcontext(), noise.again():
            again = embed(network, part, precision)
            pairs = [(getattr(again, name), grad[number]) for name, grad in grads.items()]
            pairs = [pair for pair in pairs if pair[0].requires_grad] + (own if is_last else [])
            torch.autograd.backward(*zip(*pairs, strict=True))
    return losses


def _by_name(embedded: Sequence[Embeddings]) -> dict[str, list[Tensor]]:
    """The rows of each part, for all that is not None."""
    return {
        field.name: [getattr(part, field.name) for part in embedded]
        for field in fields(Embeddings)
        if getattr(embedded[0], field.name) is not None
    }


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm use the batch's statistics and not count them."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class _Noise:
    """The state of the random numbers now, so that dropout can drop the same again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers in the block, and after it go on as if there had been none."""
        with torch.random.fork_rng(devices=[self.device] if self.cuda is not None else []):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield
