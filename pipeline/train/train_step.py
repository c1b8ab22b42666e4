"""One optimiser step of a run, and the state that a checkpoint saves.

A step is a function of the state, the batch and the number of the step, so a resumed run gives the same result.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from smile_pipe.model.config import RECIPES
from smile_pipe.model.recipes import RecipeModel
from smile_pipe.model.transfer import to_device
from smile_pipe.pipeline.common.finite_steps import FiniteSteps, check_finite
from smile_pipe.pipeline.common.optimization import BETAS
from smile_pipe.pipeline.data.augment import augment, generator_for, mirror_order, seed_dropout
from smile_pipe.pipeline.data.dataset import Batch, FaceDataset
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.ema import ExponentialMovingAverage
from smile_pipe.pipeline.train.grad_cache import ModelInputs, backward
from smile_pipe.pipeline.train.text_targets import TextTargets
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import SampleRow

COMPILE_BACKEND = "inductor"


class TrainStep:
    """Model, optimiser, moving average and text targets of one rank.

    Attributes:
        directions: Unit vectors from the face to the cameras, [V, 3], on the device.
        finite_steps: Skips steps that are not finite, and counts them.
    """

    def __init__(
        self, job: Job, worker: Worker, model: RecipeModel, dataset: FaceDataset, rows: Sequence[SampleRow]
    ) -> None:
        self.job, self.worker, self.model = job, worker, model
        config = job.config
        groups = _parameter_groups(model, job.learning_rates, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)
        # Not in the groups: those of a checkpoint replace them.
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.finite_steps = FiniteSteps(self.optimizer, learned, list(model.buffers()))
        directions = dataset.directions(rows)
        self.directions, self.mirror_order = directions.to(worker.device), mirror_order(directions)
        self.text_targets = TextTargets(job.text_source, model, dataset, rows, config.seed, job.metadata, job.knowledge)
        if RECIPES[job.recipe.name].class_prompts:
            model.set_class_prompts(self.text_targets.class_tokens())
        self.ema = ExponentialMovingAverage(model, config.ema) if config.ema else None
        if config.checkpoint_activations:
            for towers in model.all_towers:
                towers.checkpoint_activations()
        if config.compile:
            for towers in model.all_towers:
                towers.compile_image_tower(COMPILE_BACKEND)

    @property
    def result(self) -> RecipeModel:
        """The model whose weights are the result: the trained one, or its moving average."""
        return self.ema.averaged_model if self.ema else self.model

    def load_checkpoint(self, run: RunDirectory) -> int:
        """Load the newest checkpoint if there is one, then wrap the model for data-parallel training.

        Returns:
            Number of steps of the checkpoint, 0 without one.

        Raises:
            UsageError: The checkpoint is of a version that trained other parameters.
        """
        step = 0
        if checkpoints := run.checkpoints():
            weights, state = checkpoints[-1].load_model(), checkpoints[-1].load_state()
            if self.ema:
                self.ema.load_checkpoint(weights, int(state["num_averaged"]))
                weights = state["model"]
            self.model.load_state_dict(weights)
            try:
                self.optimizer.load_state_dict(state["optimizer"])
            except ValueError as error:
                raise UsageError(
                    f"{checkpoints[-1].path}: another version has written it, whose optimiser has other parameters "
                    f"({error}); train in a new directory"
                ) from None
            self.text_targets.load_state(state)
            if "skipped_steps" in state:
                self.finite_steps.load_state(state["skipped_steps"])
            step = int(state["step"])
        is_parallel = dist.is_initialized() and self.worker.world_size > 1
        # Without views of the buckets, gradients would be in memory twice.
        self.network: nn.Module = (
            DistributedDataParallel(self.model, gradient_as_bucket_view=True) if is_parallel else self.model
        )
        return step

    def save(self, run: RunDirectory, step: int) -> None:
        """Write a checkpoint, on rank 0 only: its state is that of all ranks.

        Raises:
            DivergedError: The weights are not finite; earlier checkpoints remain.
        """
        if self.worker.rank == 0:
            for model in {self.model, self.result}:
                check_finite(model, f"no checkpoint is written at step {step}", self._remedy())
            state: dict[str, Any] = {
                "optimizer": self.optimizer.state_dict(),
                "step": step,
                "skipped_steps": self.finite_steps.state(),
                **self.text_targets.state(),
            }
            if self.ema:
                state |= {"model": self.model.state_dict(), "num_averaged": int(self.ema.num_averaged)}
            run.save(step, self.result.state_dict(), state, self.job.config.keep_checkpoints)

    def scalars(self) -> dict[str, float]:
        """Scalars to log: those that the model learns, and the number of skipped steps, if there are any."""
        num_skipped = int(self.finite_steps.num_skipped)
        return self.model.learned_scalars() | ({"skipped_steps": num_skipped} if num_skipped else {})

    def check(self, step: int, num_steps: int, losses: Mapping[str, Tensor]) -> None:
        """Check that training advances; see `FiniteSteps.check`. All ranks must call this for the same steps."""
        self.finite_steps.check(step, num_steps, losses, self._remedy())

    def _remedy(self) -> str:
        precision = "" if self.job.precision == "float32" else ", or with `precision=float32`"
        return f"train in a new directory with a lower `learning_rate`{precision}"

    def start_epoch(self, is_resumed: bool) -> None:
        """Assign new pseudo-labels; an epoch that is resumed keeps those of its checkpoint."""
        if not is_resumed:
            self.text_targets.start_epoch(self.model, self.directions, self.worker)

    def step(self, batch: Batch, epoch: int, step: int, schedule: float) -> dict[str, Tensor]:
        """Update the weights, unless loss or gradient are not finite.

        Args:
            batch: The samples of this rank.
            epoch: Number of the epoch, from 0.
            step: Number of steps done before.
            schedule: Factor of the peak learning rates.

        Returns:
            Loss terms by name, from before the update.
        """
        device, config = self.worker.device, self.job.config
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * schedule
        generator = generator_for(config.seed, epoch, step, self.worker.rank)
        views = to_device(batch.views, device)
        views = augment(views, self.job.channels, self.mirror_order, generator, batch.frames)
        text_and_targets = self.text_targets.encode(batch, epoch, device)
        seed_dropout(generator)
        inputs = ModelInputs(views, self.directions, batch.frames, *text_and_targets)
        self.finite_steps.start()
        chunks, recomputes = config.grad_cache_chunks, config.checkpoint_activations
        losses = backward(self.network, self.model, inputs, self.job.precision, chunks, recomputes)
        self.finite_steps.finish(losses["total"])
        if self.ema:
            self.ema.update(self.finite_steps.was_skipped)
        return losses


def _parameter_groups(
    model: nn.Module, learning_rates: Mapping[str, float], weight_decay: float
) -> Iterator[dict[str, Any]]:
    """Two groups for each learning rate: matrices, with weight decay, and other parameters."""
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = learning_rates["towers" if "towers" in name.split(".") else "heads"]
            by_rate.setdefault(rate, []).append(parameter)
    for rate, learned in by_rate.items():
        yield {"params": [p for p in learned if p.ndim > 1], "weight_decay": weight_decay, "lr": rate}
        yield {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0, "lr": rate}
