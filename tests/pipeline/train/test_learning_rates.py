"""Learning rates: that of all weights, and those of pretrained towers and of the new weights after them."""

import json
from pathlib import Path

import pytest
import torch

from helpers import small_runs
from helpers.small_runs import learn
from smile_pipe.model.towers import Towers
from smile_pipe.pipeline.common.optimization import LEARNING_RATE, PRETRAINED_LEARNING_RATE, cosine_schedule
from smile_pipe.pipeline.runs.run_directory import STATE, RunDirectory
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.errors import UsageError

RANDOM = {"towers": LEARNING_RATE, "heads": LEARNING_RATE}
PRETRAINED = {"towers": PRETRAINED_LEARNING_RATE, "heads": LEARNING_RATE}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def pretrained(shards, tmp_path) -> str:
    """A file of weights for the towers."""
    torch.save(Towers(small_runs.ARCH).clip.state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, RANDOM),
        ({"arch": "ViT-B-16"}, RANDOM),
        ({"pretrained": "openai"}, PRETRAINED),
        ({"arch": "hf-hub:people/faces"}, PRETRAINED),
        ({"pretrained": "openai", "learning_rate": 1e-4}, {"towers": 1e-4, "heads": 1e-4}),
        ({"learning_rate": "0.1"}, {"towers": 0.1, "heads": 0.1}),
    ],
)
def test_rates_follow_the_origin_of_the_towers(options, expected):
    assert TrainConfig(shards="s", out="o", **options).learning_rates == expected


def test_rates_decide_the_result():
    def fingerprint_of(**options: object) -> dict:
        return TrainConfig(shards="s", out="o", **options).for_fingerprint()

    # As before there was a second rate.
    assert fingerprint_of()["learning_rate"] == fingerprint_of(learning_rate=LEARNING_RATE)["learning_rate"] == 0.001
    assert fingerprint_of(pretrained="openai")["learning_rate"] == PRETRAINED


def test_pretrained_towers_have_groups_of_their_own(shards, tmp_path, pretrained, monkeypatch):
    rates: list[dict[str, tuple[float, float]]] = []
    step = TrainStep.step

    def watched(self, batch, epoch, number, schedule):
        losses = step(self, batch, epoch, number, schedule)
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = self.optimizer.param_groups
        rates.append({names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]})
        learned = {name for name, p in self.model.named_parameters() if p.requires_grad}
        assert rates[-1].keys() == learned and sum(len(group["params"]) for group in groups) == len(learned)
        assert all(
            (p.ndim > 1) == (rates[-1][name][1] > 0) for name, p in self.model.named_parameters() if name in learned
        )
        return losses

    monkeypatch.setattr(TrainStep, "step", watched)
    manifest = learn(shards, tmp_path / "run", pretrained=pretrained)
    for number, found in enumerate(rates):
        schedule = cosine_schedule(number, 8, 0.05)
        for name, (rate, _) in found.items():
            peak = PRETRAINED_LEARNING_RATE if name.startswith("towers.") else LEARNING_RATE
            assert rate == pytest.approx(peak * schedule), name
    row = RunDirectory(tmp_path / "run").metrics()[0]
    assert row["learning_rate"] / row["learning_rate_towers"] == pytest.approx(LEARNING_RATE / PRETRAINED_LEARNING_RATE)
    assert manifest.learning_rates == PRETRAINED
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["learning_rates"] == PRETRAINED and record["train"]["learning_rate"] == "auto"


def test_one_rate_has_one_column(shards, tmp_path):
    manifest = learn(shards, tmp_path / "run", epochs=1, learning_rate=0.01)
    row = RunDirectory(tmp_path / "run").metrics()[-1]
    assert row["learning_rate"] < 0.01 and "learning_rate_towers" not in row
    assert manifest.learning_rates == {"towers": 0.01, "heads": 0.01}


def test_checkpoint_with_other_parameter_groups_is_a_clear_error(shards, tmp_path):
    learn(shards, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    checkpoint = RunDirectory(tmp_path / "run").checkpoints()[-1]
    state = checkpoint.load_state()
    state["optimizer"]["param_groups"].pop()
    torch.save(state, checkpoint.path.local / STATE)
    with pytest.raises(UsageError, match=r"step-000008: another version .* train in a new directory"):
        learn(shards, tmp_path / "run", resume=True)
