"""Numbers and names of things within a sentence, the same in every message, table and page."""

from collections.abc import Sequence

_MAX_NAMED = 5


def pluralize(count: int, noun: str, plural: str = "") -> str:
    """A number with what it counts: "2,500 files", "1 mesh"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def describe_samples(num_scans: int, num_sequences: int) -> str:
    """Samples by their kind, of which only those are named that there are: "24 scans and 1 sequence"."""
    kinds = ((num_scans, "scan"), (num_sequences, "sequence"))
    return " and ".join(pluralize(count, kind) for count, kind in kinds if count) or "no samples"


def truncate_list(names: Sequence[str]) -> str:
    """The first few of some names, with dots where others are left out: "F001, F002, F003, F004, F005, ..."."""
    dots = ["..."] if len(names) > _MAX_NAMED else []
    return ", ".join([*names[:_MAX_NAMED], *dots])
