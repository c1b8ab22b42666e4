"""Conditions over a sample's labels, as in `level >= 3 and sex == 'F'`.

Goes in: the text, the names of the labels, and a sample. Comes out: whether it holds. Promised: a condition compares
and can do nothing else; it is no program, whoever wrote it.

Which samples are meant: by subject, expression and level, and by a condition over all labels.

Goes in: rows with labels (sources on disk, or rows of an index). Comes out: those that fit, in their order.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field, field_validator
from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

from smile_pipe.pipeline.common.expressions import expression_code, expressions_of, order_expressions
from smile_pipe.pipeline.common.option_types import CommaSeparated
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen

FIELDS = ("key", "subject", "expression", "level")
_EXAMPLE = "level >= 3 and sex == 'F'"
_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d*)?")
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_LOGIC = (ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare)
_VALUES = (ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List, ast.Call, ast.Attribute)
_METHODS = {"startswith", "endswith", "lower", "upper"}
# Enough to name thousands of subjects.
_MAX_LETTERS = 100_000
_MAX_SHOWN = 200


class Labelled(Protocol):
    """What a condition looks at; a source on disk and a row of an index are both."""

    @property
    def key(self) -> str:
        """The sample's."""

    @property
    def subject(self) -> str:
        """Who it shows."""

    @property
    def expression(self) -> str:
        """A code or word, or several joined by ';'."""

    @property
    def level(self) -> int | None:
        """Its intensity, or None."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Everything else."""


class _Label(str):
    """Text that compares with a number as the number that it looks like.

    What is empty is not known, and is neither more nor less than anything.
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
    """A condition that has been checked.

    Args:
        text: comparisons of names with values, joined by `and`, `or` and `not`; `in` a list; and of text,
            `startswith`, `endswith`, `lower` and `upper`.
        labels: the names of the labels that there are; signs that a name cannot have are '_' in the text.

    Raises:
        UsageError: it is not understood, does more than compare, or uses a name that there is not.
    """

    def __init__(self, text: str, labels: Iterable[str]) -> None:
        self._shown = f"{text[:_MAX_SHOWN]} ..." if len(text) > _MAX_SHOWN else repr(text)
        # Of two labels with one name here, the one that has it in truth comes last and stays.
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
        """Whether it holds for a sample; a level or label that the sample has not is 0 or empty.

        Raises:
            UsageError: it compares what cannot be compared, or is no comparison.
        """
        fields = {"key": row.key, "subject": _Label(row.subject), "expression": row.expression, "level": row.level or 0}
        labels = {name: _Label(row.labels.get(label, "")) for name, label in self._labels.items()}
        self._evaluator.names = labels | fields
        try:
            value = self._evaluator.eval(self._text, self._tree)
        except (InvalidExpression, TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"cannot be told for the sample {row.key} ({error})", field="where", value=self._shown
            ) from None
        if not isinstance(value, bool):
            raise UsageError(
                f"gives {value!r}, neither true nor false; compare it, as in {_EXAMPLE}",
                field="where",
                value=self._shown,
            )
        return value

    def _parse(self, text: str) -> ast.expr:
        try:
            if len(text) > _MAX_LETTERS:
                raise ValueError(f"over {_MAX_LETTERS:,} letters")
            tree = ast.parse(text.strip(), mode="eval").body
            nodes = list(ast.walk(tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UsageError(
                f"not understood ({reason}); write it as in {_EXAMPLE}", field="where", value=self._shown
            ) from None
        for node in nodes:
            called = isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute)
            if called or not isinstance(node, (*_COMPARISONS, *_LOGIC, *_VALUES)):
                raise UsageError(
                    f"does more than compare ({ast.unparse(node)}); write as in {_EXAMPLE}",
                    field="where",
                    value=self._shown,
                )
            if isinstance(node, ast.Name) and node.id not in {*FIELDS, *self._labels}:
                names = ", ".join([*FIELDS, *sorted(self._labels)])
                raise UsageError(f"there is no label {node.id}; there are {names}", field="where", value=self._shown)
        for node in nodes:
            if isinstance(node, ast.Compare):
                node.comparators = [*map(_looked_up, node.ops, node.comparators)]
        return tree


def _looked_up(comparison: ast.cmpop, values: ast.expr) -> ast.expr:
    """A list of texts after `in` as a set: of hundreds of subjects, a sample's is found without comparing with each."""
    if isinstance(comparison, ast.In | ast.NotIn) and isinstance(values, ast.Tuple | ast.List):
        texts = [value.value for value in values.elts if isinstance(value, ast.Constant)]
        if len(texts) == len(values.elts) and all(isinstance(text, str) for text in texts):
            return ast.Constant(frozenset(texts))  # type: ignore[arg-type]
    return values


_MAX_LABELS_SHOWN = 8


Row = TypeVar("Row", bound=Labelled)


class SampleFilter(Frozen):
    """Options that say which samples are meant; where none is given, all are."""

    subjects: Annotated[tuple[str, ...], CommaSeparated] = Field((), description="Only these subjects, e.g. F001,M002.")
    expressions: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="Only these expressions, by code or word, e.g. HA,surprise."
    )
    levels: Annotated[tuple[int, ...], CommaSeparated] = Field(
        (), description="Only these levels, e.g. 3,4; 0 stands for samples without one, as neutral ones are."
    )
    where: str | None = Field(
        None, description="Only samples for which this holds, e.g. \"level >= 3 and sex == 'F'\"; over all labels."
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
        """The rows that fit, in their order.

        A sample of several expressions fits if one of them does, or all of them together ("HA;SU").

        Raises:
            UsageError: `where` is no condition over what the rows have, or something is asked for and no row fits.
        """
        rows = list(rows)
        left = [row for row in rows if self._fits(row)]
        if self.where is not None and rows:
            condition = Condition(self.where, {label for row in rows for label in row.labels})
            left = [row for row in left if condition.holds(row)]
        if not left and str(self):
            raise UsageError(f"no sample fits {self}; there are {_values(rows)}")
        return left

    def _fits(self, row: Labelled) -> bool:
        expressions = {row.expression, *expressions_of(row.expression)}
        return (
            (not self.subjects or row.subject in self.subjects)
            and (not self.levels or (row.level or 0) in self.levels)
            and (not self.expressions or not expressions.isdisjoint(self.expressions))
        )


def _values(rows: list[Row]) -> str:
    """What the rows have, for whoever asked for something else."""
    if not rows:
        return "no samples at all"
    found = {
        "subjects": sorted({row.subject for row in rows}),
        "expressions": order_expressions(row.expression for row in rows),
        "levels": [str(level) for level in sorted({row.level or 0 for row in rows})],
    }
    for label in sorted({label for row in rows for label in row.labels}):
        found[label] = sorted({row.labels.get(label, "") for row in rows})
    return "; ".join(f"{name} {_few(values)}" for name, values in found.items())


def _few(values: Iterable[str]) -> str:
    shown = [value or "''" for value in values]
    more = [f"... ({len(shown)})"] if len(shown) > _MAX_LABELS_SHOWN else []
    return ", ".join(shown[:_MAX_LABELS_SHOWN] + more)


WHERE_HELP = SampleFilter.model_fields["where"].description
