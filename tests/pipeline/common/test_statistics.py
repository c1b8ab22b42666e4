"""Tests of differences: intervals are those of subjects and seeds, and p-values do not find what is not there."""

import numpy as np
import pytest
from scipy import stats

from smile_pipe.pipeline.common.statistics import bootstrap_difference, corrected_t_test, macro_f1


def binomial(rng, shares, num_samples) -> np.ndarray:
    """Numbers of correct samples of subjects that are predicted with these shares, [1, subjects]."""
    return rng.binomial(num_samples, shares)[None]


class TestBootstrap:
    def test_equal_systems_do_not_differ(self):
        correct = np.array([[3, 9, 5, 7]])
        found = bootstrap_difference(correct, correct, np.full(4, 10))
        assert (found.value, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)

    def test_value_is_of_all_samples_and_the_sign_is_that_of_the_first(self):
        found = bootstrap_difference(np.array([[9, 30]]), np.array([[5, 10]]), np.array([10, 90]))
        assert found.value == pytest.approx(0.24)

    def test_interval_is_that_of_the_differences_of_subjects(self):
        rng = np.random.default_rng(0)
        one, other = (binomial(rng, rng.beta(4, 2, 100), 25) for _ in range(2))
        found = bootstrap_difference(one, other, np.full(100, 25))
        differences = (one - other)[0] / 25
        error = 1.96 * differences.std(ddof=1) / 10
        assert found.interval == pytest.approx(differences.mean() + np.array([-error, error]), abs=0.1 * error)
        assert found.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.03)

    def test_variation_that_both_systems_share_cancels(self):
        # Subjects differ from 0 to 24 correct samples, and the systems by one sample of each.
        other = np.arange(25)[None]
        found = bootstrap_difference(other + 1, other, np.full(25, 25))
        assert found.interval == pytest.approx((0.04, 0.04)) and found.p == pytest.approx(2 / 10_001)

    def test_seeds_of_both_systems_are_drawn(self):
        # All subjects are alike, so all variation is that between seeds.
        one, other = (np.array([[n] * 50 for n in counts]) for counts in ((40, 50, 60), (30, 50, 70)))
        found = bootstrap_difference(one, other, np.full(50, 100), num_draws=40_000)
        draws = np.random.default_rng(1).choice
        expected = draws([0.4, 0.5, 0.6], (40_000, 2)).mean(1) - draws([0.3, 0.5, 0.7], (40_000, 2)).mean(1)
        assert found.interval == pytest.approx(np.quantile(expected, (0.025, 0.975)), abs=0.02)
        # The variance of the mean of three seeds, which three draws of three would make a third too small.
        variance = (0.1**2 + 0.2**2) / 3
        assert np.var(expected) == pytest.approx(variance, rel=0.03)
        assert found.interval[1] > 1.2 * np.sqrt(variance)

    def test_p_is_small_as_rarely_as_it_should_be(self):
        rng = np.random.default_rng(0)
        found = []
        for _ in range(300):
            shares = rng.beta(4, 2, 60)
            one, other = (binomial(rng, np.clip(shares + rng.normal(0, 0.1, 60), 0, 1), 25) for _ in range(2))
            found.append(bootstrap_difference(one, other, np.full(60, 25), num_draws=500).p)
        assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


class TestCorrectedTTest:
    def test_is_more_careful_than_a_t_test_of_folds(self):
        # Five folds with a mean of 1.8 and a deviation of 1.2, of which each other fold is a quarter of the training.
        differences = 1.8 + 1.2 * np.array([-1, -0.5, 0, 0.5, 1]) / np.std([-1, -0.5, 0, 0.5, 1], ddof=1)
        assert stats.ttest_1samp(differences, 0).pvalue == pytest.approx(0.029, abs=0.001)
        assert corrected_t_test(differences, 1 / 4) == pytest.approx(0.089, abs=0.001)

    def test_without_common_training_samples_is_a_t_test(self):
        differences = np.random.default_rng(0).normal(0.1, 1, 8)
        assert corrected_t_test(differences, 0) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)

    @pytest.mark.parametrize("differences", [[0.3], [0.2, 0.2, 0.2]])
    def test_one_fold_and_equal_folds_have_no_p(self, differences):
        assert corrected_t_test(np.array(differences), 0.25) is None


def test_mean_macro_f1_of_folds_is_not_that_of_all_samples():
    # The second fold has one sample of the second class, and it is wrong.
    folds = np.array([[[8, 2], [1, 9]], [[9, 0], [1, 0]]])
    assert macro_f1(folds.sum(axis=0)) == pytest.approx(((2 * 17 / 38) + (2 * 9 / 22)) / 2)
    assert macro_f1(folds).mean() < macro_f1(folds.sum(axis=0)) - 0.15
