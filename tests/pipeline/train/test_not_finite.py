"""Losses, gradients and weights that are not finite: skipped steps, the end of a training, what is never written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers import small_runs
from helpers.small_runs import learn, learn_until, same, timeless, weights
from smile_pipe.cli.commands.train import _note
from smile_pipe.pipeline.common.finite_steps import MAX_SKIPPED_IN_A_ROW, DivergedError, FiniteSteps
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import WEIGHTS, RunDirectory, open_run
from smile_pipe.pipeline.runs.status import status
from smile_pipe.pipeline.train import local_job, train_step
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.storage import StoragePath

Poison = Callable[..., None]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def poison(monkeypatch) -> Poison:
    """Returns a function that makes steps, counted from 0, not finite: their images, or one gradient."""

    def make(*steps: int, value: float = torch.nan, is_gradient: bool = False) -> None:
        step, backward, augment, current = TrainStep.step, train_step.backward, train_step.augment, [0]

        def noting(self: TrainStep, batch: Any, epoch: int, number: int, *rest: Any) -> Any:
            current[0] = number
            return step(self, batch, epoch, number, *rest)

        def poisoned_backward(network: Any, model: Any, *rest: Any) -> Any:
            losses = backward(network, model, *rest)
            if is_gradient and current[0] in steps:
                model.fusion.score.weight.grad[0, 0] = value
            return losses

        def poisoned_augment(*given: Any) -> Tensor:
            return augment(*given) * (value if not is_gradient and current[0] in steps else 1.0)

        monkeypatch.setattr(TrainStep, "step", noting)
        monkeypatch.setattr(train_step, "backward", poisoned_backward)
        monkeypatch.setattr(train_step, "augment", poisoned_augment)

    return make


def state_of(step: TrainStep) -> dict[str, Tensor]:
    """Weights, buffers, moving average and state of the optimiser."""
    found = {f"model.{name}": tensor for name, tensor in step.model.state_dict().items()}
    found |= {f"average.{name}": tensor for name, tensor in step.ema.averaged_model.state_dict().items()}
    for number, state in step.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    return {name: tensor.clone() for name, tensor in found.items()}


@pytest.mark.parametrize(
    "given", [{}, {"value": torch.inf}, {"is_gradient": True}, {"is_gradient": True, "value": torch.inf}]
)
@pytest.mark.parametrize("options", [{}, {"grad_cache_chunks": 2}])
def test_skipped_step_changes_nothing(shards, tmp_path, poison, monkeypatch, given, options):
    trail: list[dict[str, Tensor]] = []
    poison(2, **given)
    step = TrainStep.step

    def watched(self: TrainStep, *rest: Any) -> Any:
        losses = step(self, *rest)
        trail.append(state_of(self))
        return losses

    monkeypatch.setattr(TrainStep, "step", watched)
    # An image tower with BatchNorm, whose statistics a single NaN would spoil for good.
    manifest = learn(shards, tmp_path / "run", arch="smile-nano", ema=0.9, epochs=1, **options)
    assert any("running_mean" in name for name in trail[0])
    assert same(trail[2], trail[1]) and not same(trail[1], trail[0]) and not same(trail[3], trail[2])
    assert all(tensor.isfinite().all() for tensor in trail[3].values())
    assert int(trail[3]["optimizer.0.step"]) == 3
    assert manifest.num_skipped_steps == 1 and manifest.num_steps == 4


def test_infinite_loss_with_finite_gradients_is_skipped():
    weight = torch.nn.Parameter(torch.ones(2))
    steps = FiniteSteps(torch.optim.AdamW([weight], fused=True), [weight], [])
    steps.start()
    loss = weight.sum() + torch.inf
    loss.backward()
    assert weight.grad.tolist() == [1.0, 1.0]
    steps.finish(loss)
    assert weight.tolist() == [1.0, 1.0] and steps.state() == {"num_skipped": 1, "num_in_a_row": 1}


def test_skipped_steps_are_shown(shards, tmp_path, poison):
    poison(1, 7)
    manifest = learn(shards, tmp_path / "run")
    rows = RunDirectory(tmp_path / "run").metrics()
    assert [(row["step"], row.get("skipped_steps")) for row in rows] == [(5, 1), (8, 2)]
    assert "epoch 2, 2 steps skipped (not finite), loss" in _note(rows[-1])
    # The losses of the last step are NaN.
    assert manifest.num_skipped_steps == 2 and manifest.final_losses["loss_total"] == rows[0]["loss_total"]
    assert status(StoragePath(tmp_path)).rows[0].counts["skipped steps"] == 2


def test_run_without_skipped_steps_does_not_mention_them(shards, tmp_path):
    manifest = learn(shards, tmp_path / "run", epochs=1)
    row = RunDirectory(tmp_path / "run").metrics()[-1]
    assert manifest.num_skipped_steps == 0 and "skipped_steps" not in row and "skipped" not in _note(row)


def test_resumed_run_with_skipped_steps_is_bit_identical(shards, tmp_path, poison, monkeypatch):
    given = {"ema": 0.9, "save_every": 1}
    poison(1, 4, 6)
    learn(shards, tmp_path / "whole", **given)
    learn_until(5, monkeypatch, shards, tmp_path / "halves", **given)
    manifest = learn(shards, tmp_path / "halves", resume=True, **given)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "halves")) and manifest.num_skipped_steps == 3
    # NaN is not equal to itself.
    assert str(timeless(tmp_path / "whole")) == str(timeless(tmp_path / "halves"))


def test_many_skipped_steps_in_a_row_end_the_training(shards, tmp_path, poison):
    # The check is after every fifth step.
    poison(*range(6, 20))
    message = (
        "^training has diverged: the loss mv, vl, cm, total is not finite at step 20, and 14 steps in a row were "
        "skipped; train in a new directory with a lower `learning_rate`$"
    )
    with pytest.raises(DivergedError, match=message):
        learn(shards, tmp_path / "run", epochs=8, precision="float32")
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_skipped_steps_with_others_between_them_do_not_end_the_training(shards, tmp_path, poison):
    poison(*(step for step in range(32) if step % MAX_SKIPPED_IN_A_ROW))
    assert learn(shards, tmp_path / "run", epochs=8).num_skipped_steps == 28


def test_short_run_without_any_finite_step_ends_with_an_error(shards, tmp_path, poison):
    poison(*range(4), is_gradient=True)
    with pytest.raises(DivergedError, match=r"the gradient is not finite at step 4, .* `precision=float32`"):
        learn(shards, tmp_path / "run", epochs=1, precision="bfloat16")


@pytest.mark.faults
def test_divergence_is_not_repeated(shards, tmp_path, monkeypatch):
    starts: list[int] = []
    started = local_job.WorkerProcesses
    monkeypatch.setattr(
        local_job, "WorkerProcesses", lambda count, num_threads: starts.append(count) or started(count, num_threads)
    )
    # A learning rate at which weights overflow, in the process that trains.
    config = small_runs.config(shards, tmp_path / "run", arch="smile-nano", epochs=8, learning_rate=1e30)
    config.out.ensure_folder()
    with pytest.raises(DivergedError, match="training has diverged"):
        local_job.train_in_one_process(prepare(config, in_process=False)[2], cores=1)
    assert starts == [1]


def test_no_checkpoint_has_weights_that_are_not_finite(shards, tmp_path, monkeypatch):
    finish = train_step.FiniteSteps.finish

    def spoil(self: Any, loss: Tensor) -> None:
        finish(self, loss)
        if len(RunDirectory(tmp_path / "run").checkpoints()) == 1:
            with torch.no_grad():
                self.parameters[0].flatten()[0] = torch.nan

    monkeypatch.setattr(train_step.FiniteSteps, "finish", spoil)
    with pytest.raises(DivergedError, match=r"no checkpoint is written at step 8: .* is not finite; train in a new"):
        learn(shards, tmp_path / "run")
    assert [checkpoint.step for checkpoint in RunDirectory(tmp_path / "run").checkpoints()] == [4]


def test_run_with_weights_that_are_not_finite_is_not_loaded(shards, tmp_path):
    learn(shards, tmp_path / "run", epochs=1)
    spoiled = weights(tmp_path / "run")
    spoiled["project_image.0.weight"][0, 0] = torch.nan
    save_file(spoiled, RunDirectory(tmp_path / "run").checkpoints()[-1].path.local / WEIGHTS)
    with pytest.raises(DivergedError, match=r"step-000004: .* project_image.0.weight is not finite; train again"):
        TrainedModel.load(*open_run(tmp_path / "run"))


def test_embeddings_that_overflow_are_an_error(shards, tmp_path):
    learn(shards, tmp_path / "run", epochs=1)
    model, reader = small_runs.result(tmp_path / "run"), small_runs.reader_of(shards, tmp_path / "run")
    with torch.no_grad():
        model.model.project_image[2].weight.mul_(1e38)
        model.model.project_image[0].weight.mul_(1e38)
    with pytest.raises(DivergedError, match=r"embeddings of .* are not finite; train again"):
        [*model.embed_faces(reader, reader.shards.rows[:2], 2)]


def test_pseudo_labels_of_embeddings_that_overflow_are_an_error(shards, tmp_path, monkeypatch):
    start_epoch = TrainStep.start_epoch

    def spoil(self: TrainStep, is_resumed: bool) -> None:
        with torch.no_grad():
            self.model.project_image[0].weight.fill_(1e38)
            self.model.project_image[2].weight.fill_(1e38)
        start_epoch(self, is_resumed)

    monkeypatch.setattr(TrainStep, "start_epoch", spoil)
    with pytest.raises(DivergedError, match="embeddings are not finite"):
        learn(shards, tmp_path / "run", recipe="multiview-vlm")
