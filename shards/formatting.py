"""Text for counts and lists of names, used in messages, tables and reports."""

from collections.abc import Sequence

_MAX_NAMED = 5


def pluralize(count: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "2,500 files", "1 mesh". `plural` is for irregular nouns."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def describe_samples(num_scans: int, num_sequences: int) -> str:
    """The number of samples of each kind, without kinds of which there are none: "24 scans and 1 sequence"."""
    kinds = ((num_scans, "scan"), (num_sequences, "sequence"))
    return " and ".join(pluralize(count, kind) for count, kind in kinds if count) or "no samples"


def truncate_list(names: Sequence[str]) -> str:
    """The first five names, and dots if there are more: "F001, F002, F003, F004, F005, ..."."""
    ellipsis = ["..."] if len(names) > _MAX_NAMED else []
    return ", ".join([*names[:_MAX_NAMED], *ellipsis])
