"""Fine-tuning: train a copy of the encoder with a linear head on labels, and predict other samples with it.

A linear probe is fitted first, and then all weights are trained from there: gradients of a randomly initialised head
would distort the features (Kumar et al., "Fine-tuning can distort pretrained features and underperform
out-of-distribution", ICLR 2022). All constants are our own.

Results are bit-identical for the same input on the same CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from smile_pipe.model.towers import OWN_ARCHS, native_precision
from smile_pipe.pipeline.classifiers.probe import PROBE_DEFAULT_STRENGTH
from smile_pipe.pipeline.common.finite_steps import FiniteSteps
from smile_pipe.pipeline.common.optimization import BETAS, PRETRAINED_LEARNING_RATE, cosine_schedule
from smile_pipe.pipeline.data.augment import augment, generator_for, mirror_order
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.prefetch import prefetch
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.sample_table import rows_at, shard_codes
from smile_pipe.shards.sampler import Sampler

BATCH_SIZE = 32
# Share of the steps with a rising learning rate: AdamW's first steps are as long as later ones, from fewer gradients.
WARMUP = 0.1
_PROBE_STEPS = 200


class LinearHead(nn.Module):
    """A linear layer on standardised embeddings, as in the linear probe: [B, D] -> logits [B, K].

    Embeddings are standardised instead of scaled to unit length, so that a step of the optimiser has the same effect
    on every feature, whatever its scale. In training, batch statistics are used, else those of `set_statistics`:
    otherwise a shift that a step adds to all embeddings could outweigh their differences.
    """

    def __init__(self, x_nd: Tensor, y_n: Tensor, num_classes: int) -> None:
        """Fit the logistic regression on embeddings.

        It minimises mean cross-entropy + |W|^2 / (2 C N), with C = `PROBE_DEFAULT_STRENGTH`.

        Args:
            x_nd: fused embeddings, float32 [N, D].
            y_n: class indices, int64 [N].
            num_classes: number of classes K.
        """
        super().__init__()
        self.weight = nn.Parameter(x_nd.new_zeros(num_classes, x_nd.shape[1]))
        self.bias = nn.Parameter(x_nd.new_zeros(num_classes))
        self.set_statistics(x_nd)
        self.eval()
        self._fit(x_nd, y_n)

    def set_statistics(self, x_nd: Tensor) -> None:
        """Standardise by the mean and deviation of `x_nd` from now on, outside of training."""
        self.mean, self.deviation = _statistics(x_nd)

    def forward(self, fused_bd: Tensor) -> Tensor:
        """Compute the logits of the classes."""
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
    dataset: FaceDataset,
    train_rows: Sequence[SampleRow],
    test_rows: Sequence[SampleRow],
    y_train: NDArray[np.int64],
    num_classes: int,
    seed: int,
    epochs: int,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """Fine-tune a copy of a model on some rows, and predict others, which are not read before the last step.

    Args:
        model: the trained model; it is not changed.
        dataset: reader of the rows.
        train_rows: rows to train on.
        test_rows: rows to predict.
        y_train: class indices of `train_rows`, in [0, K).
        num_classes: number of classes K.
        seed: random seed for order and augmentation.
        epochs: number of epochs; with 0 the result is that of the linear probe.
        on_progress: called after each step with the number of steps done and their total.

    Returns:
        Class probabilities, float32 [N, K], of the `test_rows` that are not in `dataset.skipped` afterwards, in order.
        Classes that do not occur in `y_train` have probability 0.

    Raises:
        UsageError: there are no rows to train on.
        BadSampleError: a sample cannot be read, or, if these are skipped, no row to train on or to predict can be.
        DivergedError: too many steps in a row were not finite.
    """
    if not train_rows:
        raise UsageError(
            "there are no training samples to fine-tune on: the training part of the split is empty; give another split"
        )
    labels = {row.key: int(label) for row, label in zip(train_rows, y_train, strict=True)}
    copied = TrainedModel(deepcopy(model.model), model.tokenizer, model.device)
    x = _embed_with_fresh_statistics(copied, dataset, train_rows, seed)
    good = [row for row in train_rows if row.key not in dataset.skipped]
    classes, columns = np.unique([labels[row.key] for row in good], return_inverse=True)
    head = LinearHead(x, torch.from_numpy(columns).to(model.device), len(classes))
    column_of = {row.key: int(column) for row, column in zip(good, columns, strict=True)}
    _train(copied, head, dataset, good, column_of, seed, epochs, on_progress)
    head.set_statistics(_embed_with_fresh_statistics(copied, dataset, good, seed))
    x_test = np.concatenate([*copied.embed_faces(dataset, test_rows, BATCH_SIZE)])
    probabilities = np.zeros((len(x_test), num_classes), np.float32)
    with torch.inference_mode():
        logits = head(torch.from_numpy(x_test).to(model.device))
    probabilities[:, classes] = logits.softmax(dim=1).cpu().numpy()
    return probabilities


def learning_rate(arch: str) -> float:
    """Return the peak learning rate: a tenth for large towers, which are mostly pretrained on far more than faces."""
    return 3e-4 if arch in OWN_ARCHS else PRETRAINED_LEARNING_RATE


def _embed_with_fresh_statistics(
    model: TrainedModel, dataset: FaceDataset, rows: Sequence[SampleRow], seed: int
) -> Tensor:
    """Recompute the statistics of BatchNorm over all rows, and return the embeddings of the rows, [N, D].

    The running averages of training lag behind the weights, and after few steps consist mostly of their initial
    values; those of the run may also be of other data.
    """
    if norms := _norms(model.model):
        for norm in norms:
            norm.reset_running_stats()
            # None computes the mean over all batches; so they need one size, and mixed subjects.
            norm.momentum = None
            norm.train()
        sampler = Sampler(shard_codes(rows), BATCH_SIZE, seed)
        mixed = rows_at(rows, sampler.order(0))
        for _ in model.embed_faces(dataset, mixed, -(-len(rows) // sampler.num_steps)):
            pass
    model.model.eval()
    return torch.from_numpy(np.concatenate([*model.embed_faces(dataset, rows, BATCH_SIZE)])).to(model.device)


def _train(
    model: TrainedModel,
    head: LinearHead,
    dataset: FaceDataset,
    rows: Sequence[SampleRow],
    column_of: Mapping[str, int],
    seed: int,
    epochs: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Train encoder and head; `column_of` maps the key of a sample to the head's column of its class.

    Normalisation uses batch statistics, as in training; there is no dropout. Steps that are not finite are skipped.
    """
    encoder, device = model.model, model.device
    for module in (head, *_norms(encoder)):
        module.train()
    peak, is_half = learning_rate(encoder.config.arch), native_precision(device.type) == "bfloat16"
    # Parameters without a gradient, such as those of the text tower, are not changed. No weight decay: at these rates
    # and over so few steps it would change a weight by less than a hundredth.
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=BETAS, weight_decay=0.0, fused=True)
    steps = FiniteSteps(optimizer, parameters, list(encoder.buffers()))
    sampler = Sampler(shard_codes(rows), BATCH_SIZE, seed)
    directions, step, num_steps = dataset.directions(rows), 0, epochs * sampler.num_steps
    order, directions = mirror_order(directions), directions.to(device)
    for epoch in range(epochs):
        groups = (rows_at(rows, numbers) for numbers in sampler.batches(epoch))
        for batch in prefetch(dataset.batches(groups), device):
            optimizer.param_groups[0]["lr"] = peak * cosine_schedule(step, num_steps, WARMUP)
            steps.start()
            generator = generator_for(seed, epoch, step)
            views = augment(batch.views.to(device), dataset.decode_spec.channels, order, generator, batch.frames)
            with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
                _, fused, _ = encoder.embed_faces(views, directions, batch.frames.to(device))
            columns = torch.tensor([column_of[key] for key in batch.keys], device=device)
            loss = F.cross_entropy(head(fused.float()), columns)
            loss.backward()
            steps.finish(loss)
            step += 1
            steps.check(step, num_steps, {"ce": loss}, "leave the protocol `finetune` out")
            on_progress(step, num_steps)
    head.eval()


def _norms(encoder: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [module for module in encoder.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]


def _statistics(x_nd: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation [D] of features; the deviation is 1 for a feature that is constant up to rounding."""
    deviation, mean = torch.std_mean(x_nd, dim=0, correction=0)
    return mean, torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)
