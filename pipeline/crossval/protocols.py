"""Split protocols of the field: which samples count, and how their subjects are divided into folds.

    kfold:K      K folds by subject, all samples
    loso         leave one subject out
    bu3dfe       10 folds, six expressions; subset I: levels 3 and 4, subset II: all levels
    bu4dfe       10 folds, six expressions
    bosphorus    10 folds, six expressions, of the subjects with all six

The last three are common in publications on these datasets. Details differ between publications: some draw 60 subjects,
some leave one subject out.

A fold is described by options of `smile-pipe train` (a split and a condition), so that it can be trained by hand. Each
subject is a test subject of exactly one fold.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from smile_pipe.pipeline.common.expressions import EXPRESSIONS, expressions_of
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import SampleRow

HELP = "Samples that count, and folds by subject: kfold:K, loso, bu3dfe, bu4dfe or bosphorus."
SIX_EXPRESSIONS = tuple(code for code in EXPRESSIONS if code != "NE")
_SUBSET_LEVELS = {"I": (3, 4), "II": (1, 2, 3, 4)}


@dataclass(frozen=True)
class DatasetProtocol:
    """The split protocol of a dataset, over the six expressions.

    Attributes:
        has_subsets: whether its samples have levels, of which a subset may be selected.
        needs_all_expressions: whether only subjects with all six expressions count.
        num_folds: number of folds.
    """

    has_subsets: bool = False
    needs_all_expressions: bool = False
    num_folds: int = 10


DATASETS = {
    "bu3dfe": DatasetProtocol(has_subsets=True),
    "bu4dfe": DatasetProtocol(),
    "bosphorus": DatasetProtocol(needs_all_expressions=True),
}


@dataclass(frozen=True)
class FoldPlan:
    """The split of each fold, and the condition on the samples of all folds."""

    splits: tuple[str, ...]
    where: str | None


def is_split_protocol(value: object) -> bool:
    """Whether a value names a split protocol, with any number of folds."""
    return isinstance(value, str) and (value in (*DATASETS, "loso") or value.startswith("kfold:"))


def check_split_protocol(split_protocol: str) -> str:
    """Return a valid split protocol unchanged.

    Raises:
        UsageError: it is not known.
    """
    is_kfold = re.fullmatch(r"kfold:([2-9]|[1-9]\d{1,3})", split_protocol)
    if split_protocol not in (*DATASETS, "loso") and not is_kfold:
        raise UsageError(f"{split_protocol}: no such protocol; give kfold:K, loso, bu3dfe, bu4dfe or bosphorus")
    return split_protocol


def plan_folds(
    split_protocol: str,
    rows: Sequence[SampleRow],
    *,
    subset: str | None = None,
    where: str | None = None,
    num_subjects: int | None = None,
    seed: int = 0,
) -> FoldPlan:
    """Plan the folds of a split protocol.

    Args:
        split_protocol: a valid name.
        rows: rows of the shards' index.
        subset: levels of bu3dfe, "I" or "II"; None for "II".
        where: further condition on samples.
        num_subjects: number of subjects to draw; None for all.
        seed: seed of the draw.

    Raises:
        UsageError: the samples do not fit the protocol, or there are too few subjects.
    """
    dataset = DATASETS.get(split_protocol)
    if subset and not (dataset and dataset.has_subsets):
        raise UsageError("only `split_protocol=bu3dfe` has subsets; leave it out", field="subset", value=subset)
    conditions = [f"({where})"] if where else []
    if dataset:
        conditions.append(f"expression in {SIX_EXPRESSIONS}")
        if dataset.has_subsets:
            conditions.append(f"level in {_SUBSET_LEVELS[subset or 'II']}")
    selected = SampleFilter.model_validate({"where": " and ".join(conditions) or None}).apply(rows)
    all_subjects = {row.subject for row in selected}
    needs_all = dataset is not None and dataset.needs_all_expressions
    subjects = _subjects_with_all_expressions(selected) if needs_all else all_subjects
    if num_subjects is not None:
        subjects = draw_subjects(subjects, num_subjects, seed)
    if subjects != all_subjects:
        conditions.append(f"subject in {_tuple_literal(subjects)}")
    return FoldPlan(_splits(split_protocol, dataset, subjects), " and ".join(conditions) or None)


def draw_subjects(subjects: Iterable[str], number: int, seed: int) -> set[str]:
    """Draw a number of the subjects by a seed, the same on every machine.

    Raises:
        UsageError: there are fewer subjects.
    """
    available = sorted(set(subjects))
    if number > len(available):
        raise UsageError(f"there are {len(available)} subjects; give fewer", field="num_subjects", value=number)
    return set(sorted(available, key=lambda subject: blake3(f"{seed} {subject}".encode()).digest())[:number])


def _subjects_with_all_expressions(rows: Iterable[SampleRow]) -> set[str]:
    by_subject: dict[str, set[str]] = {}
    for row in rows:
        by_subject.setdefault(row.subject, set()).update(expressions_of(row.expression))
    complete = {subject for subject, expressions in by_subject.items() if expressions >= set(SIX_EXPRESSIONS)}
    if not complete:
        raise UsageError(
            "no subject has all six expressions; use another protocol", field="split_protocol", value="bosphorus"
        )
    return complete


def _splits(split_protocol: str, dataset: DatasetProtocol | None, subjects: set[str]) -> tuple[str, ...]:
    if split_protocol == "loso":
        if len(subjects) < 2:
            raise UsageError("at least two subjects are needed; there is one", field="split_protocol", value="loso")
        return tuple(f"loso:{subject}" for subject in sorted(subjects))
    num_folds = dataset.num_folds if dataset else int(split_protocol.removeprefix("kfold:"))
    if len(subjects) < num_folds:
        raise UsageError(
            f"{num_folds} folds need as many subjects, and there are {len(subjects)}",
            field="split_protocol",
            value=split_protocol,
        )
    return tuple(f"kfold:{num_folds}:{fold}" for fold in range(num_folds))


def _tuple_literal(subjects: Iterable[str]) -> str:
    return "(" + ", ".join(repr(subject) for subject in sorted(subjects)) + ",)"
