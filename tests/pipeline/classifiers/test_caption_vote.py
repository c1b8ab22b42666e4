"""The caption vote: equality with plain loops, an oracle, chance, and the votes of captions."""

import math

import numpy as np
import pytest

from helpers.samples import make_sample
from smile_pipe.pipeline.captions.knowledge import load_knowledge
from smile_pipe.pipeline.captions.naming import AXES, Activity
from smile_pipe.pipeline.classifiers.caption_vote import caption_vote
from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.runs.training_captions import TrainingCaptions
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

CLASSES = tuple(EXPRESSIONS)


def plain_vote(faces, captions, votes, scale):
    """p(k|z) in plain loops."""
    rows = []
    for z in faces:
        sums = [0.0] * len(votes[0])
        for t, n in zip(captions, votes, strict=True):
            dot = sum(a * b for a, b in zip(z, t, strict=True))
            cosine = dot / math.sqrt(sum(a * a for a in z)) / math.sqrt(sum(b * b for b in t))
            sums = [total + count * math.exp(cosine * scale) for total, count in zip(sums, n, strict=True)]
        rows.append([total / sum(sums) for total in sums])
    return rows


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(700, 16)), rng.normal(size=(30, 16)), rng.integers(0, 5, (30, 7)) + 0.0


@pytest.mark.parametrize("scale", [100.0, 14.3, 1.0])
def test_it_equals_plain_loops(problem, scale, monkeypatch):
    monkeypatch.setattr("smile_pipe.pipeline.classifiers.caption_vote._CHUNK", 64)
    found = caption_vote(*problem, scale)
    assert found == pytest.approx(np.array(plain_vote(*problem, scale)), abs=1e-12)
    assert found.sum(axis=1) == pytest.approx(1)


def test_an_oracle_embedding_is_always_right(problem):
    _, captions, _ = problem
    captions_of_faces = np.random.default_rng(1).integers(0, len(captions), 700)
    y = captions_of_faces % 7
    votes = np.eye(7)[np.arange(len(captions)) % 7]
    found = caption_vote(3.0 * captions[captions_of_faces], captions, votes, 100.0)
    assert (found.argmax(axis=1) == y).all()


def test_a_random_embedding_is_at_chance(problem):
    faces, captions, _ = problem
    y = np.arange(len(faces)) % 7
    votes = np.eye(7)[np.arange(len(captions)) % 7]
    accuracy = (caption_vote(faces, captions, votes, 14.3).argmax(axis=1) == y).mean()
    # Three standard deviations of 700 independent guesses.
    assert abs(accuracy - 1 / 7) < 3 * math.sqrt(1 / 7 * 6 / 7 / len(faces))


def test_a_caption_of_many_samples_has_many_votes():
    found = caption_vote(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0], [1.0, -1.0]]), np.diag([1.0, 3.0]), 10.0)
    assert found[0] == pytest.approx([0.25, 0.75])


def test_no_face_is_no_row(problem):
    _, captions, votes = problem
    assert caption_vote(np.zeros((0, 16)), captions, votes, 14.3).shape == (0, 7)


def activity(*units, is_neutral=False):
    strengths = tuple(float(any(unit in axis for unit in units)) for axis in AXES["geometry"])
    return Activity(strengths=strengths, is_neutral=is_neutral)


@pytest.fixture
def captions():
    smile, frown, rest = activity(6, 12), activity(1, 4, 15), activity(is_neutral=True)
    return TrainingCaptions(
        source="geometry",
        knowledge=load_knowledge(),
        captions={"a relaxed face": (rest, rest), "a smile": (smile,), "both": (smile, smile, smile, frown)},
    )


def test_votes_are_numbers_of_samples_by_name(captions):
    expected = np.zeros((3, 7))
    expected[0, CLASSES.index("NE")], expected[1, CLASSES.index("HA")] = 2, 1
    expected[2, CLASSES.index("HA")], expected[2, CLASSES.index("SA")] = 3, 1
    assert captions.votes(CLASSES) == pytest.approx(expected)


def test_a_face_that_matches_no_candidate_is_divided_among_the_known_ones(captions):
    assert captions.votes(("HA", "SA", "smirk"))[0] == pytest.approx([1, 1, 0])


def test_other_knowledge_changes_the_votes(captions, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("sources: {ME: mine}\nexpressions: {joy: {ME: [43]}, smirk: {ME: [6+12]}}\n")
    assert captions.votes(("HA", "smirk"), load_knowledge(path))[1] == pytest.approx([0, 1])
    assert captions.votes(("HA", "smirk"))[1] == pytest.approx([1, 0])


def test_candidates_without_any_prototype_are_an_error(captions):
    with pytest.raises(UsageError, match="has none of smirk, frown; add prototypes"):
        captions.votes(("smirk", "frown"))


def test_samples_without_a_caption_are_left_out(tmp_path):
    sample = make_sample("F0001_HA", text_source="geometry")
    assert sample.record.caption is None
    collected = TrainingCaptions.collect([sample], load_knowledge(), "geometry")
    assert not collected.captions
    collected.write(StoragePath(tmp_path))
    with pytest.raises(UsageError, match="has no captions"):
        TrainingCaptions.read(StoragePath(tmp_path))
