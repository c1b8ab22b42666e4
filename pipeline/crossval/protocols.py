"""Protocols of the field: which samples count, and how their subjects are divided into folds.

Goes in: a protocol's name, and the rows of an index. Comes out: a condition that says which samples count, and the
split of each fold; both are options of `smile-pipe train`, so that a fold can be trained by hand. Promised: each
subject is tested on in one fold, and in no other.

    kfold:K      K folds by subject, all samples
    loso         leave one subject out
    bu3dfe       10 folds, six expressions; subset I: levels 3 and 4, subset II: all levels
    bu4dfe       10 folds, six expressions
    bosphorus    10 folds, six expressions, of the subjects who have all six

The last three are what is common in publications on these datasets (facts differ from one to the next: some draw 60
subjects, some leave one subject out).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from smile_pipe.pipeline.common.expressions import EXPRESSIONS, expressions_of
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow

HELP = "kfold:K, loso, bu3dfe, bu4dfe or bosphorus: which samples count, and the folds by subject."
SIX = tuple(code for code in EXPRESSIONS if code != "NE")
_LEVELS = {"I": (3, 4), "II": (1, 2, 3, 4)}


@dataclass(frozen=True)
class Datum:
    """How a dataset is cross-validated.

    Attributes:
        has_subsets: whether its samples have levels, of which a subset may be taken.
        is_complete: whether a subject counts only with all six expressions.
    """

    has_subsets: bool = False
    is_complete: bool = False
    num_folds: int = 10


DATASETS = {"bu3dfe": Datum(has_subsets=True), "bu4dfe": Datum(), "bosphorus": Datum(is_complete=True)}


@dataclass(frozen=True)
class Folds:
    """The split of each fold, and the condition for the samples of all of them."""

    splits: tuple[str, ...]
    where: str | None


def check_protocol(protocol: str) -> str:
    """The protocol, if it is one.

    Raises:
        UsageError: it is not.
    """
    if protocol not in (*DATASETS, "loso") and not re.fullmatch(r"kfold:([2-9]|[1-9]\d{1,3})", protocol):
        raise UsageError(f"{protocol}: not understood; give {HELP}")
    return protocol


def plan_folds(
    protocol: str,
    rows: Sequence[IndexRow],
    *,
    subset: str | None = None,
    where: str | None = None,
    num_subjects: int | None = None,
    seed: int = 0,
) -> Folds:
    """The folds of a protocol over the samples for which `where` holds.

    Raises:
        UsageError: the samples are not such as the protocol needs, or there are too few subjects.
    """
    dataset = DATASETS.get(protocol)
    if subset and not (dataset and dataset.has_subsets):
        raise UsageError("is one of levels, which only `protocol=bu3dfe` takes", field="subset", value=subset)
    conditions = [f"({where})"] if where else []
    if dataset:
        conditions.append(f"expression in {SIX}")
        if dataset.has_subsets:
            conditions.append(f"level in {_LEVELS[subset or 'II']}")
    left = _apply(conditions, rows)
    everyone = {row.subject for row in left}
    chosen = _complete(left) if dataset and dataset.is_complete else everyone
    if num_subjects is not None:
        chosen = draw_subjects(chosen, num_subjects, seed)
    if chosen != everyone:
        conditions.append(f"subject in {_listed(chosen)}")
    return Folds(_splits(protocol, dataset, chosen), " and ".join(conditions) or None)


def draw_subjects(subjects: Iterable[str], number: int, seed: int) -> set[str]:
    """So many of the subjects, the same on every machine.

    Raises:
        UsageError: there are fewer.
    """
    everyone = sorted(set(subjects))
    if number > len(everyone):
        raise UsageError(f"there are {len(everyone)}", field="num_subjects", value=number)
    return set(sorted(everyone, key=lambda subject: blake3(f"{seed} {subject}".encode()).digest())[:number])


def _apply(conditions: Sequence[str], rows: Sequence[IndexRow]) -> list[IndexRow]:
    return SampleFilter.model_validate({"where": " and ".join(conditions) or None}).apply(rows)


def _complete(rows: Iterable[IndexRow]) -> set[str]:
    """The subjects who have all six expressions."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.subject, set()).update(expressions_of(row.expression))
    complete = {subject for subject, expressions in found.items() if expressions >= set(SIX)}
    if not complete:
        raise UsageError("no subject has all six expressions", field="protocol", value="bosphorus")
    return complete


def _splits(protocol: str, dataset: Datum | None, subjects: set[str]) -> tuple[str, ...]:
    if protocol == "loso":
        if len(subjects) < 2:
            raise UsageError("there is one subject, and nobody else to learn from", field="protocol", value="loso")
        return tuple(f"loso:{subject}" for subject in sorted(subjects))
    num_folds = dataset.num_folds if dataset else int(protocol.removeprefix("kfold:"))
    if len(subjects) < num_folds:
        raise UsageError(
            f"{num_folds} folds need as many subjects, and there are {len(subjects)}", field="protocol", value=protocol
        )
    return tuple(f"kfold:{num_folds}:{fold}" for fold in range(num_folds))


def _listed(subjects: Iterable[str]) -> str:
    return "(" + ", ".join(repr(subject) for subject in sorted(subjects)) + ",)"
