"""Splits: which subjects are learned from and which are tested on. No subject is ever on both sides.

Goes in: a spec and the subjects. Comes out: a `Split`.

    kfold:K:I      subjects in K folds, fold I (from 0) is tested on
    holdout:F      a fraction F of the subjects is tested on
    loso:SUBJECT   one subject is tested on, all others are learned from
    all            every subject is on the side that is asked for
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
    """A subject-disjoint division; both sides are sorted."""

    spec: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def split_subjects(spec: str, subjects: Iterable[str]) -> Split:
    """Divide `subjects` as `spec` says; the same for any order of them.

    Raises:
        UsageError: a spec that is not understood, or too few subjects for it.
    """
    everyone = sorted(set(subjects))
    if spec == "all":
        return Split(spec, tuple(everyone), tuple(everyone))
    if match := re.fullmatch(r"loso:(.+)", spec):
        test = [subject for subject in everyone if subject == match[1]]
        if not test:
            raise UsageError(f"no such subject; there are {truncate_list(everyone)}", field="split", value=spec)
    elif match := re.fullmatch(r"kfold:(\d+):(\d+)", spec):
        folds, fold = int(match[1]), int(match[2])
        if folds < 2 or fold >= folds:
            raise UsageError(
                f"needs at least 2 folds, and a fold from 0 to {max(folds - 1, 1)}", field="split", value=spec
            )
        if len(everyone) < folds:
            raise UsageError(
                f"{folds} folds need {folds} subjects, and there are {len(everyone)}", field="split", value=spec
            )
        test = _shuffled(everyone)[fold::folds]
    elif match := re.fullmatch(r"holdout:(0?\.\d+)", spec):
        test = _shuffled(everyone)[: round(float(match[1]) * len(everyone))]
        if not test:
            raise UsageError(
                f"of {pluralize(len(everyone), 'subject')} that leaves none to test on", field="split", value=spec
            )
    else:
        raise UsageError(f"not understood; give {HELP}", field="split", value=spec)
    train = sorted(set(everyone) - set(test))
    if not train:
        raise UsageError(
            f"leaves none of {pluralize(len(everyone), 'subject')} to learn from", field="split", value=spec
        )
    return Split(spec, tuple(train), tuple(sorted(test)))


def _shuffled(subjects: list[str]) -> list[str]:
    # By a hash of the name: drawn, not cut from the sorted names, and the same on every machine.
    return sorted(subjects, key=lambda subject: (blake3(subject.encode()).digest(), subject))
