"""Analogies of faces by arithmetic of embeddings: "A is to B as C is to D", for two subjects.

A = (s, e) and B = (s, e') are scans of one subject, C = (s', e) and D = (s', e') of another one. The answer is the
scan of s' that is nearest to C + B - A, of all scans of s' except C; A, B, C are unit vectors. It is correct if it is
of D's class, or of D's class and level. The kinds of questions follow VOILA (Yilmaz et al., "VOILA: evaluation of MLLMs
for perceptual understanding and analogical reasoning", ICLR 2025).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.knn import Features, unit_vectors
from smile_pipe.pipeline.classifiers.metrics import Labels
from smile_pipe.pipeline.common.expressions import NEUTRAL, word_for
from smile_pipe.pipeline.evaluate.answers import Answers, Example, score_part, select_examples
from smile_pipe.pipeline.runs.question_scores import QuestionPart, QuestionScore
from smile_pipe.shards.errors import UsageError

STRUCTURES = ("change", "from neutral", "to neutral", "distraction", "stable", "arithmetic")
# All ordered pairs of 20 subjects are 380; of more subjects, each has fewer others, which are drawn.
MAX_SUBJECT_PAIRS = 400

State = tuple[str, int | None]
"""Class and level of a scan."""


@dataclass(frozen=True)
class AnalogyAnswers:
    """Answers to Q analogies.

    Attributes:
        answer: number of the scan that was chosen, [Q].
        class_correct, state_correct: whether it has D's class, and D's class and level, [Q].
        class_chance, state_chance: share of the candidates for which this holds, [Q].
    """

    answer: NDArray[np.int64]
    class_correct: NDArray[np.bool_]
    state_correct: NDArray[np.bool_]
    class_chance: NDArray[np.float64]
    state_chance: NDArray[np.float64]


def analogy(x: Features, labels: Labels, seed: int) -> Answers:
    """Ask analogies of all kinds of `STRUCTURES` that the samples have; see `structure_of`.

    Args:
        x: fused embeddings, [N, D].
        labels: labels of the samples.
        seed: random seed of the pairs of subjects and of the intervals.

    Raises:
        UsageError: there is no analogy, as the samples are of one subject, or no two subjects share two classes.
    """
    questions = analogy_questions(labels, seed)
    if not questions:
        raise UsageError(
            "needs two subjects with the same two classes among the scored samples", field="protocol", value="analogy"
        )
    parts: list[QuestionPart] = []
    examples: list[Example] = []
    subjects = np.asarray(labels.subjects)
    for structure, asked in questions.items():
        of_subject = subjects[asked[:, 2]]
        found = answer_analogies(x, labels, asked)
        # What the analogy adds to the plain search for a face like B.
        simple = answer_analogies(x, labels, asked, only_b=True)
        for group, name in (("class", "class"), ("class and level", "state")):
            correct, chance = getattr(found, f"{name}_correct"), getattr(found, f"{name}_chance")
            baseline = getattr(simple, f"{name}_correct")
            parts.append(score_part(group, structure, correct, chance, of_subject, seed, baseline))
        if structure == "change":
            examples = [
                _example(labels, asked[n], found.answer[n], bool(found.class_correct[n]))
                for n in select_examples(found.class_correct, seed)
            ]
    parts.sort(key=lambda part: part.group)
    return Answers(QuestionScore(parts=tuple(parts), baseline="the scan nearest to B"), tuple(examples))


def structure_of(a: State, b: State, c: State) -> str | None:
    """Return the kind of the question with scans of these classes and levels, None for none.

    - change: two classes at one level, neither neutral, and C is like A;
    - from neutral, to neutral: A and C, or B, is neutral, the others have one class and level;
    - distraction: like change, but C has another level than A, which D has then too;
    - stable: one class at levels that differ by 0, or by 2 or more, and C is like A;
    - arithmetic: one class at levels that differ by 1, and C is like A.
    """
    neutral = NEUTRAL in (a[0], b[0])
    if a[0] == c[0] and a[0] != b[0] and a[1] == b[1] and a[1] != c[1]:
        return None if neutral or None in (a[1], c[1]) else "distraction"
    if a != c:
        return None
    if a[0] == b[0]:
        step = 0 if a[1] is None or b[1] is None else abs(a[1] - b[1])
        return None if neutral else "arithmetic" if step == 1 else "stable"
    if neutral:
        return "from neutral" if a[0] == NEUTRAL else "to neutral"
    return "change" if a[1] == b[1] else None


def answer_of(a: State, b: State, c: State) -> State:
    """Return the class and level of D: B's, with C's level in a distraction."""
    return (b[0], c[1]) if structure_of(a, b, c) == "distraction" else b


def analogy_questions(labels: Labels, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the numbers of the scans A, B and C of each question, int64 [Q, 3], by its kind.

    All pairs of subjects are asked, or about `MAX_SUBJECT_PAIRS` that are drawn. A question without a scan D is left
    out.
    """
    states = states_of(labels)
    members: dict[str, list[int]] = defaultdict(list)
    for number, subject in enumerate(labels.subjects):
        members[subject].append(number)
    asked: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for one, other in subject_pairs(sorted(members), seed):
        by_state: dict[State, list[int]] = defaultdict(list)
        for number in members[other]:
            by_state[states[number]].append(number)
        for structure, triple in _questions_of_pair(members[one], by_state, states):
            asked[structure].append(triple)
    return {name: np.array(asked[name], np.int64) for name in STRUCTURES if name in asked}


def _questions_of_pair(
    members: Sequence[int], by_state: Mapping[State, Sequence[int]], states: Sequence[State]
) -> Iterator[tuple[str, tuple[int, int, int]]]:
    kinds = {
        (a, b): [
            (structure, c, answer_of(a, b, c))
            for c in by_state
            if c[0] == a[0] and (structure := structure_of(a, b, c))
        ]
        for a in {states[n] for n in members}
        for b in {states[n] for n in members}
    }
    for a in members:
        for b in members:
            if a == b:
                continue
            for structure, state, wanted in kinds[states[a], states[b]]:
                for c in by_state[state]:
                    if any(d != c for d in by_state.get(wanted, ())):
                        yield structure, (a, b, c)


def answer_analogies(x: Features, labels: Labels, asked: NDArray[np.int64], *, only_b: bool = False) -> AnalogyAnswers:
    """Answer analogies by the nearest scan of C's subject, except C.

    Args:
        x: fused embeddings, [N, D].
        labels: labels of the samples.
        asked: numbers of A, B and C, int64 [Q, 3].
        only_b: search for B instead of for C + B - A.
    """
    unit, states, subjects = unit_vectors(x), states_of(labels), np.asarray(labels.subjects)
    classes, codes = np.asarray(labels.y), _codes(states)
    code_of = {state: code for state, code in zip(states, codes.tolist(), strict=True)}
    wanted = np.array([code_of[answer_of(states[a], states[b], states[c])] for a, b, c in asked.tolist()])
    values = {name: np.zeros(len(asked)) for name in ("answer", "class", "state", "class chance", "state chance")}
    for subject in np.unique(subjects[asked[:, 2]]):
        rows = np.flatnonzero(subjects[asked[:, 2]] == subject)
        a, b, c = asked[rows].T
        candidates = np.flatnonzero(subjects == subject)
        query = unit[b] if only_b else unit_vectors(unit[c] + unit[b] - unit[a])
        cosines = query @ unit[candidates].T
        is_c = candidates == c[:, None]
        cosines[is_c] = -np.inf
        best = candidates[cosines.argmax(axis=1)]
        right_class = (classes[candidates] == classes[b][:, None]) & ~is_c
        right_state = (codes[candidates] == wanted[rows][:, None]) & ~is_c
        values["answer"][rows] = best
        values["class"][rows] = classes[best] == classes[b]
        values["state"][rows] = codes[best] == wanted[rows]
        values["class chance"][rows] = right_class.sum(axis=1) / (len(candidates) - 1)
        values["state chance"][rows] = right_state.sum(axis=1) / (len(candidates) - 1)
    return AnalogyAnswers(
        values["answer"].astype(np.int64),
        values["class"] > 0,
        values["state"] > 0,
        values["class chance"],
        values["state chance"],
    )


def states_of(labels: Labels) -> list[State]:
    """Return the class and level of each sample."""
    return [(labels.classes[y], level) for y, level in zip(np.asarray(labels.y).tolist(), labels.levels, strict=True)]


def subject_pairs(subjects: Sequence[str], seed: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of different subjects: all, or of many subjects as many others for each as `MAX_SUBJECT_PAIRS`."""
    num_others = min(len(subjects) - 1, -(-MAX_SUBJECT_PAIRS // len(subjects)))
    rng = np.random.default_rng(seed)
    for number, subject in enumerate(subjects):
        others = [other for other in range(len(subjects)) if other != number]
        if num_others < len(others):
            others = sorted(rng.choice(others, num_others, replace=False).tolist())
        yield from ((subject, subjects[other]) for other in others)


def _codes(states: Sequence[State]) -> NDArray[np.int64]:
    numbers = {state: number for number, state in enumerate(dict.fromkeys(states))}
    return np.array([numbers[state] for state in states])


def _example(labels: Labels, asked: NDArray[np.int64], answer: int, is_correct: bool) -> Example:
    a, b, c = asked.tolist()
    words = [_words(labels, n) for n in (a, b, c, int(answer))]
    label = f"{'right' if is_correct else 'wrong'}: {words[0]} : {words[1]} = {words[2]} : {words[3]}"
    return Example(label, {"A": a, "B": b, "C": c, "answer": int(answer)})


def _words(labels: Labels, number: int) -> str:
    level = labels.levels[number]
    return word_for(labels.classes[labels.y[number]]) + (f" {level}" if level else "")
