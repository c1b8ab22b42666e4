"""The step: what moves the weights of a run, and all that has to be saved of it.

Goes in: batches. Comes out: loss terms, and checkpoints. Promised: a step is a function of the state, the batch and its
number, so a run that was stopped goes on as if it had not been.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.pipeline.common.optimization import BETAS, MAX_GRADIENT_NORM
from smile_pipe.pipeline.data.augment import augment, generator_for, mirror_order, seed_dropout
from smile_pipe.pipeline.data.dataset import Batch, FaceDataset
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.ema import ExponentialMovingAverage
from smile_pipe.pipeline.train.grad_cache import ModelInputs, backward
from smile_pipe.pipeline.train.text_targets import TextTargets
from smile_pipe.shards.index import IndexRow

COMPILE_BACKEND = "inductor"


class TrainStep:
    """Model, optimiser, running average and words of one rank.

    Attributes:
        directions: of the views, [V, 3], on the device.
    """

    def __init__(
        self, job: Job, worker: Worker, model: ContrastiveModel, reader: FaceDataset, rows: Sequence[IndexRow]
    ) -> None:
        self.job, self.worker, self.model = job, worker, model
        config = job.config
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=BETAS, fused=True
        )
        self.directions = reader.directions(rows).to(worker.device)
        self.order = mirror_order(self.directions.cpu())
        self.words = TextTargets(job.text_source, model, reader, rows, config.seed, job.metadata)
        self.average = ExponentialMovingAverage(model, config.ema) if config.ema else None
        if config.checkpoint_activations:
            model.towers.checkpoint_activations()
        if config.compile:
            model.towers.compile_images(COMPILE_BACKEND)

    @property
    def result(self) -> ContrastiveModel:
        """The model whose weights are the result: the one that learns, or its running average."""
        return self.average.result if self.average else self.model

    def load_checkpoint(self, run: RunDirectory) -> int:
        """Load the newest checkpoint, if there is one; returns its step."""
        step = 0
        if checkpoints := run.checkpoints():
            weights, state = checkpoints[-1].load_model(), checkpoints[-1].load_state()
            if self.average:
                self.average.load_checkpoint(weights, int(state["num_averaged"]))
                weights = state["model"]
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(state["optimizer"])
            self.words.load_state(state)
            step = int(state["step"])
        several = dist.is_initialized() and self.worker.world_size > 1
        self.trained: nn.Module = DistributedDataParallel(self.model) if several else self.model
        return step

    def save(self, run: RunDirectory, step: int) -> None:
        """Write a checkpoint, from which a run goes on with the same numbers; that of rank 0 is all ranks'."""
        if self.worker.rank == 0:
            state: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), "step": step, **self.words.state()}
            if self.average:
                state |= {"model": self.model.state_dict(), "num_averaged": self.average.count()}
            run.save(step, self.result.state_dict(), state, self.job.config.keep)

    def begin_epoch(self, is_new: bool) -> None:
        """Find pseudo-labels anew; an epoch that is gone on with keeps those that it began with."""
        if is_new:
            self.words.begin_epoch(self.model, self.directions, self.worker)

    def step(self, batch: Batch, epoch: int, step: int, learning_rate: float) -> dict[str, Tensor]:
        """Loss terms of the batch, after the weights have moved."""
        device, config = self.worker.device, self.job.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        generator = generator_for(config.seed, epoch, step, self.worker.rank)
        views = batch.views.to(device, non_blocking=True).float() / 255
        views = augment(views, self.job.channel, self.order, generator, batch.moments)
        tokens, targets = self.words.of(batch, epoch, device)
        seed_dropout(generator)
        shown = ModelInputs(views, self.directions, tokens, batch.moments)
        self.optimizer.zero_grad(set_to_none=True)
        losses = backward(self.trained, self.model, shown, targets, self.job.precision, config.accumulate)
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        if self.average:
            self.average.update()
        return losses


def _parameter_groups(model: nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    yield {"params": [p for p in learned if p.ndim > 1], "weight_decay": weight_decay}
    yield {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0}
