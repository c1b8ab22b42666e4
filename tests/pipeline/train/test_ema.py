"""Exponential moving average of the weights: its value, its use as the result, and bit-identical resuming."""

import pytest
import torch

from helpers import small_runs
from helpers.small_runs import learn, learn_until, same, timeless, weights
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.ema import ExponentialMovingAverage
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.pipeline.train.validation import Validation


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def averaged(shards, tmp_path_factory):
    """A run with an average, and the weights after each step."""
    out, trail, step = tmp_path_factory.mktemp("run") / "run", [], TrainStep.step

    def watched(self, *given):
        losses = step(self, *given)
        trail.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "step", watched)
        learn(shards, out, ema=0.5)
    return out, trail


def average_of(trail: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """w' = d w' + (1 - d) w, d = min(decay, (1 + t) / (10 + t)), starting at the initial weights."""
    found = dict(trail[0])
    for t, current in enumerate(trail[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        for name, value in current.items():
            found[name] = d * found[name] + (1 - d) * value if value.is_floating_point() else value
    return found


def test_checkpoint_holds_the_moving_average(averaged):
    out, trail = averaged
    found, expected = weights(out), average_of(trail, 0.5)
    assert len(trail) == 8 and found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7)
    # The last weights are stored as well, to resume from.
    assert not same(found, trail[-1])
    assert same(RunDirectory(out).checkpoints()[-1].load_state()["model"], trail[-1])


def test_decay_warms_up_to_its_limit():
    torch.manual_seed(0)
    model = build_model(RecipeConfig(arch="smile-tiny", joint_dim=4))
    average, trail = ExponentialMovingAverage(model, 0.3), []
    statistics = model.towers.clip.visual.bn1
    for number in range(6):
        with torch.no_grad():
            model.log_scale.fill_(float(number))
            statistics.running_mean.fill_(10.0 * number)
            statistics.num_batches_tracked.fill_(7 * number)
        average.update(torch.tensor(False))
        trail.append({"w": model.log_scale.detach().clone(), "s": statistics.running_mean.clone()})
    expected = average_of(trail, 0.3)
    torch.testing.assert_close(average.averaged_model.log_scale.detach(), expected["w"])
    norm = average.averaged_model.towers.clip.visual.bn1
    torch.testing.assert_close(norm.running_mean, expected["s"])
    # Integers are copied, not averaged.
    assert int(norm.num_batches_tracked) == 35 and average.num_averaged == 6


def test_averaging_does_not_change_training(averaged, shards, tmp_path):
    out, trail = averaged
    learn(shards, tmp_path / "plain")
    assert timeless(tmp_path / "plain") == timeless(out)
    assert same(weights(tmp_path / "plain"), trail[-1])
    state = RunDirectory(tmp_path / "plain").checkpoints()[-1].load_state()
    assert state.keys() == {"optimizer", "step", "skipped_steps"}


def test_validation_uses_the_average(shards, tmp_path, monkeypatch):
    seen, accuracy = [], Validation.accuracy
    monkeypatch.setattr(
        Validation, "accuracy", lambda self, model, *rest: seen.append(model) or accuracy(self, model, *rest)
    )
    learn(shards, tmp_path / "run", ema=0.5, val_fraction=0.2)
    found = {name: tensor for name, tensor in seen[-1].state_dict().items()}
    assert same(found, weights(tmp_path / "run"))


@pytest.mark.parametrize(
    "options", [{}, {"grad_cache_chunks": 2, "val_fraction": 0.2}, {"recipe": "multiview-vlm"}, {"recipe": "facet-vlm"}]
)
def test_resumed_run_is_bit_identical(shards, tmp_path, monkeypatch, options):
    given = {"ema": 0.9, "save_every": 1} | options
    learn(shards, tmp_path / "whole", **given)
    learn_until(5, monkeypatch, shards, tmp_path / "halves", **given)
    # Stopped within the second epoch.
    assert RunDirectory(tmp_path / "halves").checkpoints()[-1].step == 5
    learn(shards, tmp_path / "halves", resume=True, **given)
    one, other = (RunDirectory(tmp_path / name).checkpoints()[-1] for name in ("whole", "halves"))
    assert same(one.load_model(), other.load_model())
    assert same(one.load_state()["model"], other.load_state()["model"])
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "halves")
