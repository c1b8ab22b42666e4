"""Conditions over the labels of a sample, e.g. `level >= 3 and sex == 'F'`.

A condition can only compare. It is parsed and evaluated by `simpleeval`, so text from a user or a file cannot run code.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

from smile_pipe.shards.errors import UsageError

FIELDS = ("key", "subject", "expression", "level")
_EXAMPLE = "level >= 3 and sex == 'F'"
_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d*)?")
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_LOGIC = (ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare)
_VALUES = (ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List, ast.Call, ast.Attribute)
_METHODS = {"startswith", "endswith", "lower", "upper"}
# Enough to name thousands of subjects.
_MAX_LENGTH = 100_000
_MAX_SHOWN = 200


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


class _Label(str):
    """Text that is compared as a number if it looks like one.

    Empty text is an unknown value: every order comparison with it is false.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return _number(self) == other if isinstance(other, int | float) else str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return self._compare(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._compare(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._compare(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._compare(operator.ge, other)

    def _compare(self, comparison: Callable[[Any, Any], bool], other: Any) -> bool:
        if self == "":
            return False
        numbers = _number(self), _number(other)
        if None not in numbers:
            return comparison(*numbers)
        if isinstance(other, int | float):
            raise TypeError(f"{str(self)!r} is not a number")
        return comparison(str(self), str(other))


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else None
    return value if isinstance(value, int | float) else None


class Condition:
    """A parsed and checked condition.

    Args:
        text: Comparisons of labels with values, joined by `and`, `or` and `not`; `in` with a list; for text also the
            methods `startswith`, `endswith`, `lower` and `upper`.
        labels: Names of the existing labels. A character that an identifier cannot have is written '_' in `text`.

    Raises:
        UsageError: The text cannot be parsed, does more than compare, or uses an unknown label.
    """

    def __init__(self, text: str, labels: Iterable[str]) -> None:
        self._shown = f"{text[:_MAX_SHOWN]} ..." if len(text) > _MAX_SHOWN else repr(text)
        # Of two labels with the same identifier, the one that is spelled so comes last and wins.
        names = sorted(set(labels) - set(FIELDS), key=lambda label: (label.isidentifier(), label))
        self._labels = {re.sub(r"\W", "_", label): label for label in names}
        self._text, self._tree = text, self._parse(text)
        self._evaluator = EvalWithCompoundTypes(
            operators={kind: DEFAULT_OPERATORS[kind] for kind in (*_COMPARISONS, ast.Not, ast.USub)},
            functions={},
            names={},
            allowed_attrs={str: _METHODS, _Label: _METHODS},
        )

    def holds(self, row: Labelled) -> bool:
        """Evaluate the condition for a sample; a missing level is 0, a missing label is empty text.

        Raises:
            UsageError: Two values cannot be compared, or the result is not true or false.
        """
        fields = {"key": row.key, "subject": _Label(row.subject), "expression": row.expression, "level": row.level or 0}
        labels = {name: _Label(row.labels.get(label, "")) for name, label in self._labels.items()}
        self._evaluator.names = labels | fields
        try:
            value = self._evaluator.eval(self._text, self._tree)
        except (InvalidExpression, TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"cannot be evaluated for the sample {row.key}: {error}", field="where", value=self._shown
            ) from None
        if not isinstance(value, bool):
            raise UsageError(
                f"the result is {value!r}, not true or false; write a comparison, e.g. {_EXAMPLE}",
                field="where",
                value=self._shown,
            )
        return value

    def _parse(self, text: str) -> ast.expr:
        try:
            if len(text) > _MAX_LENGTH:
                raise ValueError(f"over {_MAX_LENGTH:,} characters")
            tree = ast.parse(text.strip(), mode="eval").body
            nodes = list(ast.walk(tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UsageError(
                f"cannot be parsed: {reason}; write it like {_EXAMPLE}", field="where", value=self._shown
            ) from None
        for node in nodes:
            called = isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute)
            if called or not isinstance(node, (*_COMPARISONS, *_LOGIC, *_VALUES)):
                raise UsageError(
                    f"only comparisons are allowed, found {ast.unparse(node)}; write it like {_EXAMPLE}",
                    field="where",
                    value=self._shown,
                )
            if isinstance(node, ast.Name) and node.id not in {*FIELDS, *self._labels}:
                names = ", ".join([*FIELDS, *sorted(self._labels)])
                raise UsageError(f"unknown label {node.id}; choose one of {names}", field="where", value=self._shown)
        for node in nodes:
            if isinstance(node, ast.Compare):
                node.comparators = [*map(_as_set, node.ops, node.comparators)]
        return tree


def _as_set(comparison: ast.cmpop, values: ast.expr) -> ast.expr:
    """Turn a list of texts after `in` into a set, since a list may name hundreds of subjects."""
    if isinstance(comparison, ast.In | ast.NotIn) and isinstance(values, ast.Tuple | ast.List):
        texts = [value.value for value in values.elts if isinstance(value, ast.Constant)]
        if len(texts) == len(values.elts) and all(isinstance(text, str) for text in texts):
            return ast.Constant(frozenset(texts))  # type: ignore[arg-type]
    return values
