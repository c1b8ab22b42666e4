"""The arithmetic of `bench_scaling.py`, from which model/README.md takes how far training scales."""

import pytest
import torch
from bench_scaling import Assumed, Measured, epoch_seconds, limits, losses_a_pair, measure, step_on

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.runs.run_directory import RunDirectory

BATCH, NUM_SAMPLES = 64, 100_000
ASSUMED = Assumed(tflops=200, gigabytes=25, memory=80, disk=1)
FOUND = Measured(
    weights=150_000_000, flops=3e11, saved_bytes=2e8, saved_once=2e8, row_floats=645, loss_flops_a_pair=6144,
    loss_bytes_a_pair=48, checkpoint=1_800_000_000,
)  # fmt: skip


def small_model(recipe: str = "smile-vlm") -> ContrastiveModel:
    return build_model(RecipeConfig(name=recipe, arch="smile-tiny"))


class TestWhatIsMeasured:
    @pytest.mark.parametrize("num_views", [1, 3])
    def test_a_contrast_keeps_three_matrices_its_targets_and_the_softmax_of_either_way(self, num_views):
        flops, kept = losses_a_pair(small_model(), num_views, num_samples=32)
        num_contrasts, dim = num_views + 1, small_model().config.joint_dim
        assert kept == num_contrasts * 3 * 4
        # One product forward and two backward each way, an addition and a multiplication each.
        assert flops == num_contrasts * 2 * 3 * 2 * dim

    def test_losses_that_compare_features_alone_keep_nothing_of_pairs(self):
        assert losses_a_pair(small_model("barlow"), 3, num_samples=32) == (0, 0)

    def test_what_is_kept_of_a_sample_does_not_depend_on_how_many_there_are(self):
        model = small_model()
        few, more = (measure(model, "smile-tiny", 2, num_samples) for num_samples in (2, 3))
        assert few.saved_bytes == more.saved_bytes > 0
        assert few.saved_once == more.saved_once > 0

    def test_a_checkpoint_is_as_large_as_its_files(self, tmp_path):
        model = small_model()
        model.freeze_unreached(with_text=True, with_sequences=False)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        sum(p.sum() for p in model.parameters()).backward()
        optimizer.step()
        saved = RunDirectory(tmp_path).save(1, model.state_dict(), {"optimizer": optimizer.state_dict()}, keep=1)
        files = sum(file.size() for file in saved.path.iterdir())
        assert measure(model, "smile-tiny", 2, num_samples=2).checkpoint == pytest.approx(files, rel=0.01)


class TestAStep:
    def test_one_gpu_exchanges_nothing(self):
        alone = step_on(1, BATCH, FOUND, ASSUMED)
        assert (alone.gather, alone.gradients) == (0, 0)
        assert step_on(2, BATCH, FOUND, ASSUMED).gather > 0

    @pytest.mark.parametrize("num_gpus", [1, 2])
    def test_memory_grows_with_the_pairs_of_own_samples_and_those_of_the_joined_batch(self, num_gpus):
        few, many = (step_on(num, BATCH, FOUND, ASSUMED) for num in (num_gpus, 64))
        assert many.memory - few.memory == 48 * 64 * (4096 - 64 * num_gpus)

    def test_twice_the_gpus_take_twice_as_long_for_the_losses(self):
        few, many = (step_on(num, BATCH, FOUND, ASSUMED) for num in (32, 64))
        assert many.losses == pytest.approx(2 * few.losses)
        assert many.compute == few.compute


class TestLimits:
    LIMITS = limits(BATCH, NUM_SAMPLES, FOUND, ASSUMED)

    def reached(self, what: str) -> int:
        """Numbers of GPUs at which a limit is reached."""
        return round(next(num_gpus for name, num_gpus in self.LIMITS.items() if what in name))

    def test_the_first_comes_first(self):
        assert len(self.LIMITS) == 4
        assert list(self.LIMITS.values()) == sorted(self.LIMITS.values())

    def test_memory_is_full_where_a_step_needs_all_of_it(self):
        step = step_on(self.reached("memory"), BATCH, FOUND, ASSUMED)
        assert step.memory == pytest.approx(80 * 2**30, rel=0.01)

    def test_losses_take_as_long_as_the_towers(self):
        step = step_on(self.reached("losses"), BATCH, FOUND, ASSUMED)
        assert step.losses == pytest.approx(step.compute, rel=0.01)

    def test_rows_are_exchanged_for_as_long_as_the_towers_compute(self):
        step = step_on(self.reached("exchange of rows"), BATCH, FOUND, ASSUMED)
        assert step.gather == pytest.approx(step.compute, rel=0.01)

    def test_a_checkpoint_takes_as_long_as_the_steps_of_its_epoch(self):
        step = step_on(self.reached("checkpoint"), BATCH, FOUND, ASSUMED)
        # 1.8 s, at a gigabyte a second, and as much again.
        assert epoch_seconds(step, NUM_SAMPLES, FOUND, ASSUMED) == pytest.approx(2 * 1.8, rel=0.05)

    def test_a_model_that_does_not_fit_on_two_gpus_fits_on_no_more(self):
        small = Assumed(tflops=200, gigabytes=25, memory=8, disk=1)
        assert limits(BATCH, NUM_SAMPLES, FOUND, small)["memory of 8 GiB is full"] == 0
