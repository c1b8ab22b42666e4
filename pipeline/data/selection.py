"""Which samples a training reads: its training subjects, minus those held out for validation."""

from collections.abc import Sequence

from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.splits import split_subjects


def split_validation(subjects: Sequence[str], fraction: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The subjects to learn from and those that are held back, drawn as `holdout` of `smile_pipe.shards.splits` does.

    Raises:
        UsageError: one of the two would be none.
    """
    if not fraction:
        return tuple(subjects), ()
    try:
        split = split_subjects(f"holdout:{fraction:.9f}", subjects)
    except UsageError:
        left = "none to learn from" if round(fraction * len(subjects)) else "none to hold back"
        raise UsageError(
            f"of {len(subjects)} training subjects that leaves {left}", field="validation", value=f"{fraction:g}"
        ) from None
    return split.train, split.test


def select_training_rows(shards: ShardSet, subjects: Sequence[str], where: str | None) -> list[IndexRow]:
    """The samples to learn from.

    Raises:
        UsageError: `where` is no condition over their labels, or holds for none of them.
    """
    return SampleFilter.model_validate({"where": where}).apply(shards.of_subjects(subjects))
