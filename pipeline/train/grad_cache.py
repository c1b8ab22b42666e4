"""Gradients of the losses of a batch, computed for the whole batch at once or in chunks that need less memory.

Losses compare the samples of a batch with each other, so the sum of the losses of chunks is another loss. GradCache
(Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021, arXiv 2101.06983) is
exact: embed all chunks without keeping activations; compute the losses of all embeddings together, and the gradients of
the embeddings; then embed chunk after chunk again and backpropagate its gradients. Embeddings are small, so the memory
is that of one chunk, at the cost of a second forward pass. BatchNorm inside a tower takes its statistics over a chunk,
the same in both passes, and updates its running statistics once. So it does if activations are recomputed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from smile_pipe.model.config import Precision
from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import RecipeModel


@dataclass(frozen=True)
class ModelInputs:
    """A batch as the model and its losses take it: B samples with N frames.

    Attributes:
        views: Augmented views in [0, 1], float32 [N, V, 3, H, W].
        directions: Unit vectors from the face to the cameras, [V, 3].
        frames: Which frames belong to which sample; may be on the CPU.
        tokens: Token ids of the prompts [B, T], or of a true and a false one [B, 2, T], on the CPU; None without text.
        concept_ids: Which samples are positives of each other, int64 [B]; None without text.
        subject_ids: Who is shown, int64 [B].
    """

    views: Tensor
    directions: Tensor
    frames: PackedFrames
    tokens: Tensor | None
    concept_ids: Tensor | None
    subject_ids: Tensor

    def chunks(self, num: int) -> list["ModelInputs"]:
        """Divide the batch into `num` chunks of about equal numbers of samples; at most one chunk per sample."""
        num = min(num, len(self.frames.counts))
        counts = self.frames.counts.tensor_split(num)
        sizes = [int(part.sum()) for part in counts]
        frames = [PackedFrames(*part) for part in zip(counts, self.frames.times.split(sizes), strict=True)]
        tokens, concept_ids = _split(self.tokens, num), _split(self.concept_ids, num)
        columns = zip(
            self.views.split(sizes), frames, tokens, concept_ids, self.subject_ids.tensor_split(num), strict=True
        )
        return [ModelInputs(v, self.directions, f, t, c, s) for v, f, t, c, s in columns]


def embed(network: nn.Module, inputs: ModelInputs, precision: Precision) -> Embeddings:
    """Embed a batch by a model or its data-parallel wrapper."""
    device = inputs.views.device
    with torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext():
        return network(inputs.views, inputs.directions, inputs.tokens, inputs.frames.to(device))


def backward(
    network: nn.Module,
    model: RecipeModel,
    inputs: ModelInputs,
    precision: Precision,
    num_chunks: int = 1,
    recomputes: bool = False,
) -> dict[str, Tensor]:
    """Compute the losses of a batch and add their gradients to the parameters.

    Args:
        network: The model, or its data-parallel wrapper.
        model: The model.
        inputs: The batch.
        precision: Precision of the towers.
        num_chunks: Number of chunks that the batch is embedded in.
        recomputes: Whether the backward pass repeats forward passes (activation checkpointing).

    Returns:
        Loss terms by name; see `ContrastiveModel.losses`.
    """
    # A repeated forward pass would update running statistics a second time.
    in_backward = _kept_buffers if recomputes else nullcontext
    if num_chunks == 1:
        losses = model.losses(embed(network, inputs, precision), inputs.concept_ids, inputs.subject_ids)
        with in_backward(model):
            losses["total"].backward()
        return losses
    chunks, states, embedded = inputs.chunks(num_chunks), list[_RandomState](), list[Embeddings]()
    with torch.no_grad(), _kept_buffers(model):
        for chunk in chunks:
            states.append(_RandomState(inputs.views.device))
            embedded.append(embed(model, chunk, precision))
    leaves = {name: torch.cat(parts).requires_grad_() for name, parts in _collect(embedded).items()}
    gathered = Embeddings(leaves["views"], leaves["fused"], leaves["attention"], leaves.get("text"))
    losses = model.losses(gathered, inputs.concept_ids, inputs.subject_ids)
    # Parameters of the losses, such as temperatures, do not depend on embeddings: the passes below do not reach them.
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    grads = torch.autograd.grad(losses["total"], [*leaves.values(), *learned], allow_unused=True)
    loss_grads: list[tuple[Tensor, Tensor]] = [
        (parameter, grad) for parameter, grad in zip(learned, grads[len(leaves) :], strict=True) if grad is not None
    ]
    sizes = [len(chunk.frames.counts) for chunk in chunks]
    chunk_grads = {name: g.split(sizes) for name, g in zip(leaves, grads, strict=False) if g is not None}
    for number, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        is_last = number == len(chunks) - 1
        # Ranks exchange gradients once, with the last chunk, even if they have different numbers of chunks.
        sync = network.no_sync() if isinstance(network, DistributedDataParallel) and not is_last else nullcontext()
        with sync, state.restored():
            outputs = _as_dict(embed(network, chunk, precision))
            pairs = [(outputs[name], grad[number]) for name, grad in chunk_grads.items() if outputs[name].requires_grad]
            pairs += loss_grads if is_last else []
            with in_backward(model):
                torch.autograd.backward([tensor for tensor, _ in pairs], [grad for _, grad in pairs])
    return losses


def _split(rows: Tensor | None, num: int) -> Sequence[Tensor | None]:
    return [None] * num if rows is None else rows.tensor_split(num)


def _as_dict(embeddings: Embeddings) -> dict[str, Tensor]:
    """The tensors of a batch by name; without `text` if there is none."""
    tensors = {"views": embeddings.views, "fused": embeddings.fused, "attention": embeddings.attention}
    return tensors if embeddings.text is None else {**tensors, "text": embeddings.text}


def _collect(embedded: Sequence[Embeddings]) -> Mapping[str, list[Tensor]]:
    """The tensors of all chunks, by name."""
    parts = [_as_dict(chunk) for chunk in embedded]
    return {name: [part[name] for part in parts] for name in parts[0]}


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers, such as the running statistics of BatchNorm, at the end of the block."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)


class _RandomState:
    """The state of PyTorch's random generators at construction, so that the second pass repeats the same dropout."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the saved state within the block; the state from before the block continues after it."""
        with torch.random.fork_rng(devices=[self.device] if self.cuda is not None else []):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield
