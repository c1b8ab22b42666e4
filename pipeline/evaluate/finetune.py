"""Fine-tuning: what a trained encoder comes to when labels may move all of it.

Goes in: a trained model, rows to learn from with their classes, and rows to predict. Comes out: class probabilities of
the latter. Promised: the model that is given stays as it is; of the rows to predict nothing is read before the last
step; on the same CPU the same input gives the same output, to the bit.

A linear probe comes first, and then all weights move from where it stands: a head that begins at random would pull the
features apart before it knows what it wants of them (Kumar et al., "Fine-tuning can distort pretrained features and
underperform out-of-distribution", ICLR 2022). All constants are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from smile_pipe.model.towers import native_precision
from smile_pipe.pipeline.classifiers.probe import PROBE_DEFAULT_STRENGTH
from smile_pipe.pipeline.common.optimization import BETAS, MAX_GRADIENT_NORM, cosine_schedule
from smile_pipe.pipeline.data.augment import augment, generator_for, mirror_order
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.sampler import Sampler

BATCH_SIZE = 32
# Part of the steps in which the learning rate rises: AdamW's first steps are as long as its later ones, and know less.
WARMUP = 0.1
_PROBE_STEPS = 200


class LinearHead(nn.Module):
    """Fused embeddings [B, D] -> logits [B, K]: linear in standardised embeddings, as the linear probe is.

    Standardised, and not brought to unit length: so a step of the optimiser means the same for every feature, whatever
    scale the recipe's losses left it at. In training they are standardised over the batch, else by the statistics of
    `settle`: without that, what a step moves in all embeddings alike can outweigh in what they differ.
    """

    def __init__(self, x_nd: Tensor, y_n: Tensor, num_classes: int) -> None:
        """Begin as the logistic regression on `x_nd`: the least mean cross-entropy + |W|^2 / (2 C N).

        C is `PROBE_DEFAULT_STRENGTH`.
        """
        super().__init__()
        self.weight = nn.Parameter(x_nd.new_zeros(num_classes, x_nd.shape[1]))
        self.bias = nn.Parameter(x_nd.new_zeros(num_classes))
        self.settle(x_nd)
        self.eval()
        self._fit(x_nd, y_n)

    def settle(self, x_nd: Tensor) -> None:
        """Standardise as `x_nd` are to be."""
        self.mean, self.deviation = _statistics(x_nd)

    def forward(self, fused_bd: Tensor) -> Tensor:
        """Logits of the classes."""
        mean, deviation = _statistics(fused_bd) if self.training else (self.mean, self.deviation)
        return F.linear((fused_bd - mean) / deviation, self.weight, self.bias)

    def _fit(self, x_nd: Tensor, y_n: Tensor) -> None:
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=_PROBE_STEPS, line_search_fn="strong_wolfe")

        def objective() -> Tensor:
            optimizer.zero_grad()
            penalty = self.weight.square().sum() / (2 * PROBE_DEFAULT_STRENGTH * len(y_n))
            value = F.cross_entropy(self(x_nd), y_n) + penalty
            value.backward()
            return value

        optimizer.step(objective)


def finetune(
    model: TrainedModel,
    reader: FaceDataset,
    train_rows: Sequence[IndexRow],
    test_rows: Sequence[IndexRow],
    y_train: NDArray[np.int64],
    num_classes: int,
    seed: int,
    epochs: int,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """Fine-tune a copy of `model` on some rows, and tell the class probabilities [N, K] of others.

    Rows that the reader skips are on neither side: the result has a row for each of `test_rows` that is not in
    `reader.skipped` afterwards, in order.

    Args:
        y_train: the classes of `train_rows`, in [0, K). Those that do not occur in it have probability 0.
        seed: of order and augmentation.
        epochs: times that each of `train_rows` is learned from; with 0 the answer is the probe's.
        on_progress: is told after each step how many were taken, and how many there are.

    Raises:
        UsageError: there are no rows to learn from.
        BadSampleError: a sample cannot be read; where these are skipped, none of a side can be.
    """
    if not train_rows:
        raise UsageError("there are no training samples to fine-tune on: the training part of the split is empty")
    labels = {row.key: int(label) for row, label in zip(train_rows, y_train, strict=True)}
    copied = TrainedModel(deepcopy(model.model), model.tokenizer, model.device)
    x = _settled(copied, reader, train_rows, seed)
    good = [row for row in train_rows if row.key not in reader.skipped]
    classes, columns = np.unique([labels[row.key] for row in good], return_inverse=True)
    head = LinearHead(x, torch.from_numpy(columns).to(model.device), len(classes))
    column_of = {row.key: int(column) for row, column in zip(good, columns, strict=True)}
    _train(copied, head, reader, good, column_of, seed, epochs, on_progress)
    head.settle(_settled(copied, reader, good, seed))
    x_test = np.concatenate([*copied.embed_faces(reader, test_rows, BATCH_SIZE)])
    probabilities = np.zeros((len(x_test), num_classes), np.float32)
    with torch.inference_mode():
        logits = head(torch.from_numpy(x_test).to(model.device))
    probabilities[:, classes] = logits.softmax(dim=1).cpu().numpy()
    return probabilities


def learning_rate(arch: str) -> float:
    """The peak of the schedule: large towers, mostly pretrained on far more than faces, move a tenth as fast."""
    return 3e-4 if arch == "smile-tiny" else 3e-5


def _settled(model: TrainedModel, reader: FaceDataset, rows: Sequence[IndexRow], seed: int) -> Tensor:
    """Let BatchNorm take its statistics over all of `rows`; returns their embeddings, [N, D].

    The averages that it keeps in training trail behind the weights, and after few steps are mostly of what it began
    with; those of the run may also be of other data.
    """
    if norms := _norms(model.model):
        for norm in norms:
            norm.reset_running_stats()
            # The mean over all batches, which therefore are to be alike: of one size, and of mixed subjects.
            norm.momentum = None
            norm.train()
        sampler = Sampler([row.shard for row in rows], BATCH_SIZE, seed)
        mixed = [rows[number] for number in sampler.order(0)]
        for _ in model.embed_faces(reader, mixed, -(-len(rows) // sampler.num_steps)):
            pass
    model.model.eval()
    return torch.from_numpy(np.concatenate([*model.embed_faces(reader, rows, BATCH_SIZE)])).to(model.device)


def _train(
    model: TrainedModel,
    head: LinearHead,
    reader: FaceDataset,
    rows: Sequence[IndexRow],
    column_of: Mapping[str, int],
    seed: int,
    epochs: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Move encoder and head; `column_of` is the head's column of the class of a key.

    What normalises does so over the batch, as in training; there is no dropout.
    """
    encoder, device = model.model, model.device
    for module in (head, *_norms(encoder)):
        module.train()
    peak, is_half = learning_rate(encoder.config.arch), native_precision(device.type) == "bfloat16"
    # What no gradient reaches, such as the text tower, the optimiser leaves as it is. No weight decay: at these rates
    # and over so few steps it would take less than a hundredth off.
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=BETAS, weight_decay=0.0)
    sampler = Sampler([row.shard for row in rows], BATCH_SIZE, seed)
    directions, step, num_steps = reader.directions(rows), 0, epochs * sampler.num_steps
    order, directions = mirror_order(directions), directions.to(device)
    for epoch in range(epochs):
        groups = ([rows[number] for number in numbers] for numbers in sampler.batches(epoch))
        for batch in reader.batches(groups):
            optimizer.param_groups[0]["lr"] = peak * cosine_schedule(step, num_steps, WARMUP)
            views = batch.views.to(device).float() / 255
            views = augment(views, reader.decode_spec.channel, order, generator_for(seed, epoch, step), batch.frames)
            with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
                _, fused, _ = encoder.embed_faces(views, directions, batch.frames.to(device))
            columns = torch.tensor([column_of[key] for key in batch.keys], device=device)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(head(fused.float()), columns).backward()
            nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimizer.step()
            step += 1
            on_progress(step, num_steps)
    head.eval()


def _norms(encoder: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [module for module in encoder.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]


def _statistics(x_nd: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [D] of features; 1 for the deviation of one that does not vary, but for rounding."""
    deviation, mean = torch.std_mean(x_nd, dim=0, correction=0)
    return mean, torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)
