"""Selection of the samples that a training reads: its training subjects, minus those held out for validation."""

from collections.abc import Sequence

from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.splits import split_subjects


def split_validation(subjects: Sequence[str], fraction: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split training subjects into those to learn from and those held out for validation.

    The subjects are drawn by a hash of their names (`holdout` of `smile_pipe.shards.splits`), so the result is the same
    on every machine.

    Args:
        subjects: Names of the training subjects.
        fraction: Fraction to hold out; 0 holds out none.

    Raises:
        UsageError: One side would be empty.
    """
    if not fraction:
        return tuple(subjects), ()
    try:
        split = split_subjects(f"holdout:{fraction:.9f}", subjects)
    except UsageError:
        empty_side = "training" if round(fraction * len(subjects)) else "validation"
        raise UsageError(
            f"leaves none of {len(subjects)} subjects for {empty_side}; choose another fraction",
            field="val_fraction",
            value=f"{fraction:g}",
        ) from None
    return split.train, split.test


def select_training_rows(shards: ShardSet, subjects: Sequence[str], where: str | None) -> SampleTable:
    """Select the samples of some subjects for which a condition holds.

    Raises:
        UsageError: `where` is not a valid condition on labels, or holds for no sample.
    """
    return SampleFilter.model_validate({"where": where}).apply_to_table(shards.of_subjects(subjects))
