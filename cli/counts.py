"""How many samples there are of what, as tables."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from pipeline.conditions import Labelled
from pipeline.expressions import order_expressions
from shards.words import counted

MAX_GROUPS = 12


def expression_table(samples: Sequence[Labelled]) -> Table:
    """Samples by expression, down, and level, across."""
    levels = sorted({sample.level or 0 for sample in samples})
    counts = Counter((sample.expression, sample.level or 0) for sample in samples)
    names = [f"level {level}" if level else "no level" for level in levels]
    table = Table("expression", *names, "all", title="samples")
    for expression in order_expressions({sample.expression for sample in samples}):
        cells = [counts[expression, level] for level in levels]
        table.add_row(expression, *(str(cell or "") for cell in cells), str(sum(cells)))
    return table


def subject_lines(samples: Iterable[Labelled]) -> list[str]:
    """Subjects in groups that have as many samples each: "98 subjects have 25", "F003, F007 have 24"."""
    groups: dict[int, list[str]] = {}
    for subject, count in sorted(Counter(sample.subject for sample in samples).items()):
        groups.setdefault(count, []).append(subject)
    largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    lines = [
        f"{_named(subjects)} {'have' if len(subjects) > 1 else 'has'} {counted(count, 'sample')}"
        for count, subjects in largest
    ]
    return lines[:MAX_GROUPS] + [f"... and {len(lines) - MAX_GROUPS} more numbers of samples"] * (
        len(lines) > MAX_GROUPS
    )


def counts(samples: Sequence[Labelled]) -> Mapping[str, Mapping[str, int]]:
    """The same in numbers, by name."""
    return {
        "subjects": Counter(sample.subject for sample in samples),
        "expressions": Counter(sample.expression for sample in samples),
        "levels": Counter(str(sample.level or 0) for sample in samples),
    }


def _named(subjects: Sequence[str]) -> str:
    return ", ".join(subjects) if len(subjects) < 5 else f"{len(subjects)} subjects ({subjects[0]} to {subjects[-1]})"
