"""Selection of samples by subject, expression, level, and a condition over all labels."""

from collections.abc import Iterable
from typing import Annotated, TypeVar

from pydantic import Field, field_validator

from smile_pipe.pipeline.common.conditions import Condition, Labelled
from smile_pipe.pipeline.common.expressions import expression_code, expressions_of, order_expressions
from smile_pipe.pipeline.common.option_types import CommaSeparated
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen

_MAX_VALUES_SHOWN = 8

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
        selected = [row for row in rows if self._matches(row)]
        if self.where is not None and rows:
            condition = Condition(self.where, {label for row in rows for label in row.labels})
            selected = [row for row in selected if condition.holds(row)]
        if not selected and str(self):
            raise UsageError(f"no sample matches {self}; the values are {_describe_values(rows)}")
        return selected

    def _matches(self, row: Labelled) -> bool:
        expressions = {row.expression, *expressions_of(row.expression)}
        return (
            (not self.subjects or row.subject in self.subjects)
            and (not self.levels or (row.level or 0) in self.levels)
            and (not self.expressions or not expressions.isdisjoint(self.expressions))
        )


def _describe_values(rows: list[Row]) -> str:
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
