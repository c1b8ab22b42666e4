"""Which samples are meant: by subject, expression and level, and by a condition over all labels.

Goes in: rows with labels (sources on disk, or rows of an index). Comes out: those that fit, in their order.
"""

from collections.abc import Iterable
from typing import Annotated, TypeVar

from pydantic import Field, field_validator

from pipeline.conditions import Condition, Labelled
from pipeline.expressions import expression_code, expressions_of, order_expressions
from pipeline.options import CommaSeparated
from shards.errors import UsageError
from shards.manifest import Frozen

_MAX_SHOWN = 8


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
    more = [f"... ({len(shown)})"] if len(shown) > _MAX_SHOWN else []
    return ", ".join(shown[:_MAX_SHOWN] + more)
