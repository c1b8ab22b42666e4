"""The estimate of a resting scan from measures."""

import statistics

import numpy as np
import pytest

from smile_pipe.pipeline.captions.geometry import FEATURES, POPULATION
from smile_pipe.pipeline.captions.resting_face import MIN_SCANS, least_active

REST = {name: value + 1.7 for name, value in POPULATION.items()}


def scans_of(seed, num=12):
    """A subject whose resting face is not the mean one, with noise, and a movement in each scan but the sixth."""
    rng = np.random.default_rng(seed)
    scans = [{name: value + rng.normal(0, 0.1) for name, value in REST.items()} for _ in range(num)]
    for number, scan in enumerate(scans):
        if number != 5:
            scan[list(REST)[number % len(REST)]] += 4.0 * (-1) ** number
    return scans


def plain_least_active(scans):
    names = list(POPULATION)
    median = {name: statistics.median(scan[name] for scan in scans) for name in names}
    activities = []
    for scan in scans:
        total = 0.0
        for feature in FEATURES:
            score = sum(weight * (scan[name] - median[name]) for name, weight in feature.weights.items())
            total += abs(score / feature.full_score)
        activities.append(total)
    return activities.index(min(activities))


@pytest.mark.parametrize("seed", range(5))
def test_the_resting_scan_is_found_as_in_plain_loops(seed):
    assert least_active(scans_of(seed)) == plain_least_active(scans_of(seed)) == 5


def test_scans_without_measures_are_left_out():
    scans = scans_of(0)
    assert least_active([None, *scans, None, {}]) == 6
    del scans[5]["chin_drop"]
    assert least_active(scans) == 5


def test_few_scans_give_no_estimate():
    scans = scans_of(0)
    assert least_active(scans[2 : 2 + MIN_SCANS]) is not None
    assert least_active(scans[2 : 1 + MIN_SCANS]) is None and least_active([]) is None


def test_the_first_of_equal_scans_is_taken():
    assert least_active([REST] * 7) == 0
