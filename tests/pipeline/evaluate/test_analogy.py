"""Analogies: the questions, a plain loop, and embeddings that know everything or nothing."""

import numpy as np
import pytest

from smile_pipe.pipeline.classifiers.metrics import Labels
from smile_pipe.pipeline.evaluate.analogy import (
    MAX_SUBJECT_PAIRS,
    STRUCTURES,
    analogy,
    analogy_questions,
    answer_analogies,
    answer_of,
    structure_of,
    subject_pairs,
)
from smile_pipe.pipeline.evaluate.answers import mean_interval
from smile_pipe.shards.errors import UsageError

CLASSES = ("AN", "HA", "SU", "NE")
STATES = [("NE", None), *((c, level) for c in CLASSES[:3] for level in (1, 2, 3, 4))]


def labels_of(num_subjects: int = 4, states=STATES) -> Labels:
    samples = [(f"F{n:04d}", c, level) for n in range(num_subjects) for c, level in states]
    return Labels(
        y=np.array([CLASSES.index(c) for _, c, _ in samples]),
        classes=CLASSES,
        levels=[level for _, _, level in samples],
        subjects=[subject for subject, _, _ in samples],
    )


def oracle(labels: Labels) -> np.ndarray:
    """Embeddings in which subject, class and level are added."""
    keys = [
        [f"subject {s}", f"class {y}", f"level {level}"]
        for s, y, level in zip(labels.subjects, labels.y, labels.levels, strict=True)
    ]
    names = sorted({name for key in keys for name in key})
    return np.array([[float(name in key) for name in names] for key in keys])


def noise(labels: Labels, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(labels.y), 64))


def part_of(answers, group, name):
    (part,) = [part for part in answers.score.parts if (part.group, part.name) == (group, name)]
    return part


def plain_answer(x, labels, a, b, c) -> int:
    """The answer to one analogy, step by step."""
    unit = [row / np.sqrt(sum(row * row)) for row in x]
    wanted = [unit[c][d] + unit[b][d] - unit[a][d] for d in range(len(unit[a]))]
    best, best_cosine = -1, -np.inf
    for number, row in enumerate(unit):
        if labels.subjects[number] != labels.subjects[c] or number == c:
            continue
        cosine = sum(w * v for w, v in zip(wanted, row, strict=True)) / np.sqrt(sum(w * w for w in wanted))
        if cosine > best_cosine:
            best, best_cosine = number, cosine
    return best


@pytest.mark.parametrize(
    ("a", "b", "c", "structure", "answer"),
    [
        (("AN", 2), ("HA", 2), ("AN", 2), "change", ("HA", 2)),
        (("NE", None), ("HA", 2), ("NE", None), "from neutral", ("HA", 2)),
        (("HA", 2), ("NE", None), ("HA", 2), "to neutral", ("NE", None)),
        (("AN", 2), ("HA", 2), ("AN", 4), "distraction", ("HA", 4)),
        (("AN", 1), ("AN", 3), ("AN", 1), "stable", ("AN", 3)),
        (("AN", 1), ("AN", 1), ("AN", 1), "stable", ("AN", 1)),
        (("AN", 2), ("AN", 1), ("AN", 2), "arithmetic", ("AN", 1)),
        # A dataset may have no levels, or levels of some scans only.
        (("AN", None), ("HA", None), ("AN", None), "change", ("HA", None)),
        (("AN", None), ("AN", None), ("AN", None), "stable", ("AN", None)),
        (("AN", None), ("AN", 1), ("AN", None), "stable", ("AN", 1)),
        (("AN", None), ("HA", None), ("AN", 2), None, None),
        (("AN", 2), ("HA", 2), ("AN", None), None, None),
        (("HA;SU", 2), ("AN", 2), ("HA;SU", 2), "change", ("AN", 2)),
        # Neutral scans that have levels are no distraction.
        (("NE", 1), ("HA", 1), ("NE", 2), None, None),
        # Neither of these is a question: class and level change, or C is of another class, or of another level.
        (("AN", 1), ("HA", 2), ("AN", 1), None, None),
        (("AN", 1), ("HA", 1), ("SU", 1), None, None),
        (("AN", 1), ("AN", 2), ("AN", 3), None, None),
        (("NE", None), ("NE", None), ("NE", None), None, None),
    ],
)
def test_structure_and_answer_follow_from_classes_and_levels(a, b, c, structure, answer):
    assert structure_of(a, b, c) == structure
    if structure:
        assert answer_of(a, b, c) == answer


def test_questions_are_those_of_a_plain_loop():
    labels = labels_of(3)
    states = [(CLASSES[y], level) for y, level in zip(labels.y, labels.levels, strict=True)]
    expected = {name: set() for name in STRUCTURES}
    numbers = range(len(states))
    for a in numbers:
        for b in numbers:
            for c in numbers:
                same = labels.subjects[a] == labels.subjects[b] and a != b and labels.subjects[c] != labels.subjects[a]
                if same and (name := structure_of(states[a], states[b], states[c])):
                    expected[name].add((a, b, c))
    found = analogy_questions(labels, 0)
    assert {name: {*map(tuple, asked.tolist())} for name, asked in found.items()} == expected
    assert all(len(asked) == len(expected[name]) for name, asked in found.items())


def test_question_without_another_scan_for_its_answer_is_left_out():
    # The second subject has no happy scan: nothing can be asked of it but anger at another level.
    labels = Labels(np.array([0, 1, 0, 0]), CLASSES, [1, 1, 1, 2], ["s", "s", "t", "t"])
    found = analogy_questions(labels, 0)
    # The angry scan of the first subject has no other level, and A and B of the second one need another C.
    assert {name: asked.tolist() for name, asked in found.items()} == {}
    # A second take of C is no answer to itself: with one happy scan, "stable" has an answer for two takes only.
    takes = Labels(np.array([1, 1, 1]), CLASSES, [1, 1, 1], ["s", "s", "t"])
    assert analogy_questions(takes, 0) == {}
    takes = Labels(np.array([1, 1, 1, 1]), CLASSES, [1, 1, 1, 1], ["s", "s", "t", "t"])
    assert len(analogy_questions(takes, 0)["stable"]) == 8


def test_answers_are_those_of_a_plain_loop():
    labels = labels_of(3)
    x = noise(labels) + 2 * np.repeat(noise(labels_of(1), 1)[None], 3, axis=0).reshape(-1, 64)
    for asked in analogy_questions(labels, 0).values():
        drawn = asked[np.random.default_rng(0).permutation(len(asked))[:40]]
        found = answer_analogies(x, labels, drawn)
        for n, (a, b, c) in enumerate(drawn.tolist()):
            best = plain_answer(x, labels, a, b, c)
            assert found.answer[n] == best
            assert found.class_correct[n] == (labels.y[best] == labels.y[b])
            states = [(CLASSES[y], level) for y, level in zip(labels.y, labels.levels, strict=True)]
            assert found.state_correct[n] == (states[best] == answer_of(states[a], states[b], states[c]))
            others = [m for m in range(len(x)) if labels.subjects[m] == labels.subjects[c] and m != c]
            assert found.class_chance[n] == pytest.approx(np.mean([labels.y[m] == labels.y[b] for m in others]))
            assert found.state_chance[n] == pytest.approx(1 / len(others))


def test_oracle_answers_everything():
    labels = labels_of()
    found = analogy(oracle(labels), labels, 0)
    assert {part.name for part in found.score.parts} == set(STRUCTURES)
    assert [part.accuracy for part in found.score.parts] == [1.0] * 12
    assert all(part.interval == (1.0, 1.0) for part in found.score.parts)
    # Its scans are nearest to B in class, but not in level, where C is of another level.
    assert part_of(found, "class", "change").baseline == 1.0
    assert part_of(found, "class and level", "distraction").baseline == 0.0


def test_random_embeddings_are_at_chance():
    labels = labels_of(20)
    found = analogy(noise(labels), labels, 0)
    for part in found.score.parts:
        # The answers to questions on one subject depend on each other; so wider than by their number.
        assert part.accuracy == pytest.approx(part.chance, abs=0.05), part
        assert part.interval[0] - 0.02 <= part.chance <= part.interval[1] + 0.02, part
    assert part_of(found, "class", "change").chance == pytest.approx(4 / 12)
    assert part_of(found, "class", "arithmetic").chance == pytest.approx(3 / 12)
    assert part_of(found, "class and level", "change").chance == pytest.approx(1 / 12)


def test_interval_is_over_the_subjects_of_the_answers():
    labels = labels_of(6)
    x = noise(labels)
    asked, subjects = analogy_questions(labels, 0)["change"], np.array(labels.subjects)
    correct = answer_analogies(x, labels, asked).class_correct.astype(float)
    found = part_of(analogy(x, labels, 3), "class", "change")
    assert found.interval == mean_interval(correct, subjects[asked[:, 2]], 3)
    assert found.interval != mean_interval(correct, subjects[asked[:, 0]], 3)


def test_examples_are_right_ones_and_then_wrong_ones():
    labels = labels_of()
    examples = analogy(noise(labels), labels, 0).examples
    assert [example.label.partition(":")[0] for example in examples] == ["right"] * 5 + ["wrong"] * 5
    for example in examples:
        a, b, c, answer = example.faces.values()
        assert labels.subjects[a] == labels.subjects[b] != labels.subjects[c] == labels.subjects[answer]
        assert example.label.startswith("right") == (labels.y[answer] == labels.y[b])


def test_many_subjects_have_some_of_the_others():
    assert len([*subject_pairs([f"{n}" for n in range(20)], 0)]) == 380
    pairs = [*subject_pairs([f"{n}" for n in range(100)], 0)]
    assert len(pairs) == len({*pairs}) == MAX_SUBJECT_PAIRS == 400 and all(one != other for one, other in pairs)
    assert pairs != [*subject_pairs([f"{n}" for n in range(100)], 1)]


def test_single_subject_raises():
    labels = labels_of(1)
    with pytest.raises(UsageError, match="two subjects"):
        analogy(noise(labels), labels, 0)
