"""Selection of samples by subject, expression, level, and a condition over all labels: `level >= 3 and sex == 'F'`.

A condition can only compare. `simpleeval` evaluates it, so text from a user or a file cannot run code.
"""

import ast
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

import numpy as np
from pydantic import Field, field_validator
from simpleeval import InvalidExpression, SimpleEval

from smile_pipe.pipeline.common.expressions import expression_code, expressions_of, order_expressions
from smile_pipe.pipeline.common.option_types import CommaSeparated
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.sample_table import SampleTable

FIELDS = ("key", "subject", "expression", "level")
_EXAMPLE = "level >= 3 and sex == 'F'"
_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d*)?")
# Enough to name thousands of subjects.
_MAX_LENGTH = 100_000
_MAX_SHOWN = 200
_MAX_VALUES_SHOWN = 8


class Labelled(Protocol):
    """A sample with labels: a source on disk, or a row of an index."""

    @property
    def key(self) -> str:
        """Unique name of the sample."""

    @property
    def subject(self) -> str:
        """The person."""

    @property
    def expression(self) -> str:
        """A code or a word, or several joined by ';'."""

    @property
    def level(self) -> int | None:
        """Intensity, or None where the dataset gives none."""

    @property
    def labels(self) -> Mapping[str, str]:
        """All other labels, as text by name."""


Row = TypeVar("Row", bound=Labelled)


class SampleFilter(Frozen):
    """Options that select samples; without any option, all samples are selected."""

    subjects: Annotated[tuple[str, ...], CommaSeparated] = Field((), description="Only these subjects, e.g. F001,M002.")
    expressions: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="Only these expressions, by code or word, e.g. HA,surprise."
    )
    levels: Annotated[tuple[int, ...], CommaSeparated] = Field(
        (), description="Only these levels, e.g. 3,4; 0 selects samples without a level, such as neutral ones."
    )
    where: str | None = Field(
        None,
        description="Condition on labels, e.g. \"level >= 3 and sex == 'F'\".",
    )

    @field_validator("expressions")
    @classmethod
    def _codes(cls, expressions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(expression_code(word) for word in expressions)

    def __str__(self) -> str:
        given = self.model_dump(exclude_defaults=True)
        shown = {name: value if isinstance(value, str) else ",".join(map(str, value)) for name, value in given.items()}
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    def apply(self, rows: Iterable[Row]) -> list[Row]:
        """Select rows and keep their order.

        A sample with several expressions is selected by one of them, or by all of them together ("HA;SU").

        Raises:
            UsageError: `where` is not a valid condition over the labels of the rows, or no row is selected.
        """
        rows = list(rows)
        if not str(self):
            return rows
        return [row for row, selected in zip(rows, self._select(rows), strict=True) if selected]

    def apply_to_table(self, table: SampleTable) -> SampleTable:
        """Select samples of a shard set; see `apply`."""
        return table.filter(np.array(self._select(table), bool)) if str(self) else table

    def _select(self, rows: Sequence[Labelled]) -> list[bool]:
        selected = [self._matches(row) for row in rows]
        if self.where is not None and rows:
            holds = parse_condition(self.where, {label for row in rows for label in row.labels})
            selected = [matches and holds(row) for row, matches in zip(rows, selected, strict=True)]
        if not any(selected):
            raise UsageError(f"no sample matches {self}; the values are {_describe_values(rows)}")
        return selected

    def _matches(self, row: Labelled) -> bool:
        expressions = {row.expression, *expressions_of(row.expression)}
        return (
            (not self.subjects or row.subject in self.subjects)
            and (not self.levels or (row.level or 0) in self.levels)
            and (not self.expressions or not expressions.isdisjoint(self.expressions))
        )


def parse_condition(text: str, labels: Iterable[str]) -> Callable[[Labelled], bool]:
    """Parse and check a condition.

    Args:
        text: Comparisons of labels with values, joined by `and`, `or` and `not`; `in` with a list of values; for text
            also the methods `startswith`, `endswith`, `lower` and `upper`. A label that looks like a number is compared
            with numbers as one. Empty text is an unknown value: every order comparison with it is false.
        labels: Names of the existing labels. A character that an identifier cannot have is written '_' in `text`.

    Returns:
        A function that evaluates it for a sample; a missing level is 0, a missing label is empty text. It raises
        `UsageError` if two values cannot be compared, or the result is not true or false.

    Raises:
        UsageError: The text cannot be parsed, does more than compare, or uses an unknown label.
    """
    # Of two labels with the same identifier, the one that is spelled so comes last and wins.
    names = sorted(set(labels) - set(FIELDS), key=lambda label: (label.isidentifier(), label))
    label_of = {re.sub(r"\W", "_", label): label for label in names}
    evaluator = SimpleEval(_OPERATORS, functions={}, allowed_attrs={str: _METHODS})
    lists = dict.fromkeys((ast.List, ast.Tuple), cache(_values))
    evaluator.nodes = {kind: evaluator.nodes[kind] for kind in _NODES} | lists

    def refuse(reason: str) -> NoReturn:
        shown = f"{text[:_MAX_SHOWN]} ..." if len(text) > _MAX_SHOWN else repr(text)
        raise UsageError(reason, field="where", value=shown) from None

    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"over {_MAX_LENGTH:,} characters")
        tree = ast.parse(text.strip(), mode="eval").body
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        refuse(f"cannot be parsed: {reason}; write it like {_EXAMPLE}")
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    for node in nodes:
        if isinstance(node, ast.expr | ast.cmpop) and type(node) not in {*evaluator.nodes, *_OPERATORS}:
            refuse(f"only comparisons are allowed, found {type(node).__name__}; write it like {_EXAMPLE}")
    for name in used - {*FIELDS, *label_of}:
        refuse(f"unknown label {name}; choose one of {', '.join([*FIELDS, *sorted(label_of)])}")

    def holds(row: Labelled) -> bool:
        fields = {"key": row.key, "subject": row.subject, "expression": row.expression, "level": row.level or 0}
        evaluator.names = fields | {name: row.labels.get(label_of[name], "") for name in used - fields.keys()}
        try:
            value = evaluator.eval(text, tree)
        except (InvalidExpression, TypeError, ValueError, RecursionError) as error:
            refuse(f"cannot be evaluated for the sample {row.key}: {error}")
        if not isinstance(value, bool):
            refuse(f"the result is {value!r}, not true or false; write a comparison, e.g. {_EXAMPLE}")
        return value

    return holds


def _as_number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _equals(left: Any, right: Any) -> bool:
    is_mixed = isinstance(left, str) != isinstance(right, str)
    return _as_number(left) == _as_number(right) if is_mixed else left == right


def _contains(value: Any, values: Collection[Any]) -> bool:
    return value in values or (not isinstance(values, str) and _as_number(value) in values)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def apply(left: Any, right: Any) -> bool:
        if "" in (left, right):
            return False
        numbers = _as_number(left), _as_number(right)
        return compare(left, right) if any(isinstance(number, str) for number in numbers) else compare(*numbers)

    return apply


def _values(node: ast.List | ast.Tuple) -> Collection[Any]:
    try:
        # A view of keys, which may name thousands of subjects: `simpleeval` inspects all members of a set for each row.
        return dict.fromkeys(ast.literal_eval(node)).keys()
    except ValueError:
        raise ValueError("a list has something else than values; write it like subject in ('F001', 'F002')") from None


_METHODS = {"startswith", "endswith", "lower", "upper"}
_NODES = (ast.Name, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Call, ast.Attribute)
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Eq: _equals,
    ast.NotEq: lambda left, right: not _equals(left, right),
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _contains,
    ast.NotIn: lambda value, values: not _contains(value, values),
    ast.Not: operator.not_,
    ast.USub: operator.neg,
}


def _describe_values(rows: Sequence[Labelled]) -> str:
    if not rows:
        return "none, as there are no samples"
    values_by_name = {
        "subjects": sorted({row.subject for row in rows}),
        "expressions": order_expressions(row.expression for row in rows),
        "levels": [str(level) for level in sorted({row.level or 0 for row in rows})],
    }
    for label in sorted({label for row in rows for label in row.labels}):
        values_by_name[label] = sorted({row.labels.get(label, "") for row in rows})
    return "; ".join(f"{name} {_truncate(values)}" for name, values in values_by_name.items())


def _truncate(values: Iterable[str]) -> str:
    shown = [value or "''" for value in values]
    more = [f"... ({len(shown)})"] if len(shown) > _MAX_VALUES_SHOWN else []
    return ", ".join(shown[:_MAX_VALUES_SHOWN] + more)


WHERE_HELP = SampleFilter.model_fields["where"].description
