"""Results of questions: protocols that ask more of embeddings than the class of a sample."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from smile_pipe.model.config import RunTextSource
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen

Question = Literal["analogy", "missing-views", "few-labels", "caption-check", "printed-word"]
Fewshot = Annotated[str, Field(pattern=r"^fewshot:[1-9]\d{0,2}$")]
"""`fewshot:K`: classes are defined by K example faces."""

QUESTION_TITLES = {
    "analogy": "analogies",
    "missing-views": "missing views",
    "few-labels": "few labels",
    "caption-check": "caption check",
    "printed-word": "printed words",
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


class Headline(NamedTuple):
    """Questions whose score stands for a whole kind of them in a table: those of `group` whose names start alike."""

    question: str
    group: str
    name_start: str


HEADLINES = {
    "caption check": Headline("caption-check", "choice", "all"),
    "false phrase": Headline("caption-check", "locate", "all"),
    "analogy": Headline("analogy", "class and level", "arithmetic"),
    "5 % of labels": Headline("few-labels", "probe", "5 %"),
    "one view": Headline("missing-views", "probe", "mean of 1 of"),
}
"""Columns of a comparison of systems, by title."""


def check_questions(questions: Sequence[str], text_source: RunTextSource, num_views: int) -> None:
    """Check that questions can be asked of a run, before anything is read.

    Args:
        questions: requested questions.
        text_source: what the run learned from.
        num_views: number of views of the scored shards.

    Raises:
        UsageError: a question cannot be asked.
    """
    if "caption-check" in questions and text_source != "geometry":
        raise UsageError(
            f"asks about captions that are measured on meshes, and the run was trained with text from {text_source}; "
            "train on shards that were rendered with `text=geometry`",
            field="protocol",
            value="caption-check",
        )
    if "missing-views" in questions and num_views < 2:
        raise UsageError("needs shards with at least two views", field="protocol", value="missing-views")


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
