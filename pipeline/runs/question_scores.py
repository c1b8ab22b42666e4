"""Results of questions: protocols that ask more of embeddings than the class of a sample."""

import re
from typing import Annotated, Literal

from pydantic import Field

from smile_pipe.shards.manifest import Frozen

Question = Literal["analogy", "missing-views", "few-labels", "caption-check"]
Fewshot = Annotated[str, Field(pattern=r"^fewshot:[1-9]\d{0,2}$")]
"""`fewshot:K`: classes are defined by K example faces."""

QUESTION_TITLES = {
    "analogy": "analogies",
    "missing-views": "missing views",
    "few-labels": "few labels",
    "caption-check": "caption check",
}
VIEW_SEPARATOR = " + "
"""Between the views of a subset, in the names of the parts of `missing-views`."""
_FEWSHOT = re.compile(r"fewshot:(\d+)")


def fewshot_examples(question: str) -> int | None:
    """Return K of the question `fewshot:K`, and None for another one."""
    match = _FEWSHOT.fullmatch(question)
    return int(match[1]) if match else None


def question_title(question: str) -> str:
    """Return the name of a question within a sentence."""
    if (num_examples := fewshot_examples(question)) is not None:
        return f"few shots, {num_examples} example{'s' if num_examples > 1 else ''} per class"
    return QUESTION_TITLES[question]


class QuestionPart(Frozen):
    """The answers to some of the questions.

    Attributes:
        group: what is asked.
        name: which of the questions these are, or what they are answered from.
        num_questions: number of questions.
        accuracy: share of correct answers.
        interval: its 95 % interval over subjects; None for a single subject.
        chance: expected share of correct answers of a random choice.
        baseline: share of correct answers of a simpler way, see `QuestionScore.baseline`; None where there is none.
        position: place on the axis of the plot, such as the number of views; None for what is not in the plot.
    """

    group: str
    name: str
    num_questions: int
    accuracy: float
    interval: tuple[float, float] | None = None
    chance: float
    baseline: float | None = None
    position: float | None = None


class QuestionScore(Frozen):
    """The answers to all questions of one kind.

    Attributes:
        parts: groups of questions, in order.
        baseline: description of the simpler way to answer; "" where there is none.
    """

    parts: tuple[QuestionPart, ...]
    baseline: str = ""
