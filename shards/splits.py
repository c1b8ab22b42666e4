"""Splits of subjects into a training and a test set. No subject is in both, except with `all`.

kfold:K:I      test on fold I (from 0) of K folds of subjects
holdout:F      test on a fraction F of the subjects
loso:SUBJECT   test on one subject (leave one subject out)
all            every subject is in both sets
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize, truncate_list

HELP = "kfold:K:I (fold I of K, by subject), holdout:FRACTION, loso:SUBJECT or all"


@dataclass(frozen=True)
class Split:
    """A division of subjects; both sides are sorted."""

    spec: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def split_subjects(spec: str, subjects: Iterable[str]) -> Split:
    """Divide subjects by a spec.

    Args:
        spec: See the module docstring.
        subjects: Names in any order; the order and duplicates do not matter.

    Raises:
        UsageError: The spec is invalid, or there are too few subjects for it.
    """
    names = sorted(set(subjects))
    if spec == "all":
        return Split(spec, tuple(names), tuple(names))
    if match := re.fullmatch(r"loso:(.+)", spec):
        test = [subject for subject in names if subject == match[1]]
        if not test:
            raise UsageError(f"no such subject; choose one of {truncate_list(names)}", field="split", value=spec)
    elif match := re.fullmatch(r"kfold:(\d+):(\d+)", spec):
        folds, fold = int(match[1]), int(match[2])
        if folds < 2 or fold >= folds:
            raise UsageError(
                f"invalid fold: use at least 2 folds, and a fold from 0 to {max(folds - 1, 1)}",
                field="split",
                value=spec,
            )
        if len(names) < folds:
            raise UsageError(
                f"too few subjects: {folds} folds need {folds} subjects, and there are {len(names)}",
                field="split",
                value=spec,
            )
        test = _shuffle(names)[fold::folds]
    elif match := re.fullmatch(r"holdout:(0?\.\d+)", spec):
        test = _shuffle(names)[: round(float(match[1]) * len(names))]
        if not test:
            raise UsageError(
                f"no test subject is left of {pluralize(len(names), 'subject')}; use a larger fraction",
                field="split",
                value=spec,
            )
    else:
        raise UsageError(f"invalid split; use {HELP}", field="split", value=spec)
    train = sorted(set(names) - set(test))
    if not train:
        raise UsageError(
            f"no training subject is left of {pluralize(len(names), 'subject')}; use a smaller fraction",
            field="split",
            value=spec,
        )
    return Split(spec, tuple(train), tuple(sorted(test)))


def _shuffle(subjects: list[str]) -> list[str]:
    # A hash of the name gives a random order that is the same on every machine.
    return sorted(subjects, key=lambda subject: (blake3(subject.encode()).digest(), subject))
