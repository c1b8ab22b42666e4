"""Shares of correct answers and their intervals."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.samples import write_shard_set
from smile_pipe.pipeline.classifiers.metrics import subject_intervals
from smile_pipe.pipeline.evaluate.answers import (
    NUM_SHOWN,
    Example,
    examples_png,
    mean_interval,
    score_part,
    select_examples,
)
from smile_pipe.pipeline.evaluate.vote_examples import vote_examples
from smile_pipe.shards.reader import ShardSet


def test_interval_is_that_of_an_accuracy():
    rng = np.random.default_rng(0)
    correct, subjects = rng.integers(0, 2, 60), rng.integers(0, 7, 60).astype(str)
    accuracy, _ = subject_intervals(np.ones(60, int), correct, subjects, 2, 5)
    assert mean_interval(correct.astype(float), subjects, 5) == pytest.approx(accuracy)
    assert mean_interval(correct.astype(float), subjects, 6) != pytest.approx(accuracy)


def test_single_subject_has_no_interval():
    assert mean_interval(np.ones(3), ["F0001"] * 3, 0) is None


def test_part_has_means():
    part = score_part("class", "change", [1, 0, 0.5, 0.5], [0.1, 0.3, 0.1, 0.1], list("aabb"), 0, [1, 1, 0, 1], 5)
    assert (part.group, part.name, part.num_questions, part.position) == ("class", "change", 4, 5)
    assert (part.accuracy, part.chance, part.baseline) == (0.5, pytest.approx(0.15), 0.75)
    assert score_part("class", "change", [1.0], 0.5, ["a"], 0).baseline is None


def test_examples_are_drawn_from_right_and_wrong_answers():
    correct = np.arange(40) % 4 == 0
    drawn = select_examples(correct, 0)
    assert len(drawn) == len({*drawn}) == 2 * NUM_SHOWN
    assert [bool(correct[n]) for n in drawn] == [True] * NUM_SHOWN + [False] * NUM_SHOWN
    assert select_examples(correct, 1) != drawn
    assert len(select_examples(np.array([True, True]), 0)) == 2


def test_picture_has_a_row_for_each_example(tmp_path):
    write_shard_set(tmp_path / "shards", num_subjects=2)
    shards = ShardSet.open(str(tmp_path / "shards"))
    rows = list(shards.rows)
    sizes = [
        Image.open(io.BytesIO(examples_png("title", shards, rows, [Example("a", {"A": 0, "B": 1})] * n))).size
        for n in (1, 3)
    ]
    assert sizes[0][0] == sizes[1][0] and sizes[1][1] - sizes[0][1] == 2 * 164
    # The first image of the named samples is shown.
    one, same, other = (examples_png("t", shards, rows, [Example("a", {"A": n})]) for n in (0, 0, 4))
    assert one == same != other


def test_examples_of_the_vote_name_the_nearest_caption():
    faces, anchors = np.array([[2.0, 0.1], [0.1, 1.0], [0.1, 3.0]]), np.array([[1.0, 0.0], [0.0, 5.0]])
    predicted = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
    found = vote_examples(faces, np.array([0, 1, 0]), predicted, ("HA", "SA"), (("a grin", "a frown"), anchors), 0)
    assert sorted(found[:2], key=lambda each: each.label) == [
        Example("happiness (80 %), right; nearest caption: a grin", {"face": 0}),
        Example("sadness (60 %), right; nearest caption: a frown", {"face": 1}),
    ]
    assert found[2:] == (Example("sadness (90 %), wrong, it is happiness; nearest caption: a frown", {"face": 2}),)
