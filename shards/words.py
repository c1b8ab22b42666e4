"""Numbers of things within a sentence, the same in every message, table and page."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with what it counts: "2,500 files", "1 mesh"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def samples_in_words(num_scans: int, num_sequences: int) -> str:
    """Samples by their kind, of which only those are named that there are: "24 scans and 1 sequence"."""
    kinds = ((num_scans, "scan"), (num_sequences, "sequence"))
    return " and ".join(counted(count, kind) for count, kind in kinds if count) or "no samples"
