"""The caption vote: equality with plain loops, an oracle, chance, and the shares of captions."""

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


def plain_vote(faces, captions, shares, scale):
    """p(k|z) in plain loops."""
    rows = []
    for z in faces:
        weights = []
        for t in captions:
            dot = sum(a * b for a, b in zip(z, t, strict=True))
            cosine = dot / math.sqrt(sum(a * a for a in z)) / math.sqrt(sum(b * b for b in t))
            weights.append(math.exp(cosine * scale))
        total = sum(weights)
        rows.append(
            [sum(w / total * q[k] for w, q in zip(weights, shares, strict=True)) for k in range(len(shares[0]))]
        )
    return rows


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    shares = rng.random((30, 7))
    return rng.normal(size=(700, 16)), rng.normal(size=(30, 16)), shares / shares.sum(axis=1, keepdims=True)


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
    shares = np.eye(7)[np.arange(len(captions)) % 7]
    found = caption_vote(3.0 * captions[captions_of_faces], captions, shares, 100.0)
    assert (found.argmax(axis=1) == y).all()


def test_a_random_embedding_is_at_chance(problem):
    faces, captions, _ = problem
    y = np.arange(len(faces)) % 7
    shares = np.eye(7)[np.arange(len(captions)) % 7]
    accuracy = (caption_vote(faces, captions, shares, 14.3).argmax(axis=1) == y).mean()
    # Three standard deviations of 700 independent guesses.
    assert abs(accuracy - 1 / 7) < 3 * math.sqrt(1 / 7 * 6 / 7 / len(faces))


def test_no_face_is_no_row(problem):
    _, captions, shares = problem
    assert caption_vote(np.zeros((0, 16)), captions, shares, 14.3).shape == (0, 7)


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


def test_shares_are_means_of_the_names_of_samples(captions):
    shares = captions.shares(CLASSES)
    expected = np.zeros((3, 7))
    expected[0, CLASSES.index("NE")] = expected[1, CLASSES.index("HA")] = 1
    expected[2, CLASSES.index("HA")], expected[2, CLASSES.index("SA")] = 0.75, 0.25
    assert shares == pytest.approx(expected)


def test_a_face_that_matches_no_candidate_is_shared_by_the_known_ones(captions):
    assert captions.shares(("HA", "SA", "smirk"))[0] == pytest.approx([0.5, 0.5, 0])


def test_other_knowledge_changes_the_shares(captions, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("sources: {ME: mine}\nexpressions: {joy: {ME: [43]}, smirk: {ME: [6+12]}}\n")
    assert captions.shares(("HA", "smirk"), load_knowledge(path))[1] == pytest.approx([0, 1])
    assert captions.shares(("HA", "smirk"))[1] == pytest.approx([1, 0])


def test_candidates_without_any_prototype_are_an_error(captions):
    with pytest.raises(UsageError, match="has none of smirk, frown; add prototypes"):
        captions.shares(("smirk", "frown"))


def test_samples_without_a_caption_are_left_out(tmp_path):
    sample = make_sample("F0001_HA", text_source="geometry")
    assert sample.record.caption is None
    collected = TrainingCaptions.collect([sample], load_knowledge(), "geometry")
    assert not collected.captions
    collected.write(StoragePath(tmp_path))
    with pytest.raises(UsageError, match="has no captions"):
        TrainingCaptions.read(StoragePath(tmp_path))
