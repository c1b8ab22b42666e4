"""Any tree of meshes with a labels table at its top: a row is a scan, a sequence, or a pattern that finds some of them.

The columns are in the README; those that are not known become labels.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles, key_of
from smile_pipe.pipeline.datasets.file_index import FileIndex, natural_order, stem_of
from smile_pipe.pipeline.datasets.label_rows import LabelRow, read_label_row, unit_columns
from smile_pipe.pipeline.datasets.labels_table import read_table, table_names
from smile_pipe.shards.errors import UsageError

_COMMON = ("subject", "expression", "level", "frame_rate")


class Folder:
    """Reads the labels table; a mesh that it does not name is not a sample."""

    name = "folder"

    def evidence(self, listing: FileIndex) -> str:
        """Whether there is a labels table at the top."""
        names = table_names(listing)
        return f"{' and '.join(names)} at its top" if names else ""

    def samples(self, listing: FileIndex) -> list[SampleSource]:
        """One sample a scan or a sequence of the table."""
        names = table_names(listing)
        if len(names) > 1:
            raise UsageError(f"{listing.root}: holds {' and '.join(names)}; move one of them away")
        path = listing.root / names[0]
        rows = read_table(path)
        columns = rows[0].cells.keys() if rows else set()
        if not {"subject", "expression"} <= columns or not columns & {"path", "glob"}:
            raise UsageError(f"{path}: needs rows with the columns path (or glob), subject, expression")
        units = unit_columns(columns, str(path))
        takes = [take for row in rows for take in read_label_row(row, listing, units)]
        sequences: dict[str, list[LabelRow]] = defaultdict(list)
        for take in takes:
            if take.sequence is not None:
                sequences[take.sequence].append(take)
        return [
            *(_scan(take, names[0]) for take in takes if take.sequence is None),
            *(_sequence(name, parts, names[0]) for name, parts in sequences.items()),
        ]


def _scan(take: LabelRow, table: str) -> SampleSource:
    return SampleSource(
        key=key_of(stem_of(take.scans[0].mesh)),
        subject=take.subject,
        expression=take.expression,
        level=take.level,
        frames=take.scans,
        action_units=take.action_units,
        labels=take.labels,
        label_files=(table,),
    )


def _sequence(name: str, takes: Sequence[LabelRow], table: str) -> SampleSource:
    first = takes[0]
    for take in takes:
        for column in _COMMON:
            if getattr(take, column) != getattr(first, column):
                raise UsageError(f"{take.where}: another {column} than in the first row of the sequence {name!r}")
    return SampleSource(
        key=key_of(name),
        subject=first.subject,
        expression=first.expression,
        level=first.level,
        frames=_in_time(name, takes),
        frame_rate=first.frame_rate,
        action_units=_mean_units(takes),
        # What differs from frame to frame is no label of the sequence.
        labels={
            label: value if all(take.labels[label] == value for take in takes) else ""
            for label, value in first.labels.items()
        },
        label_files=(table,),
    )


def _mean_units(takes: Sequence[LabelRow]) -> dict[str, float] | None:
    """The mean of each action unit over the rows that code it; None where no row codes any."""
    coded: dict[str, list[float]] = defaultdict(list)
    for take in takes:
        for unit, value in (take.action_units or {}).items():
            coded[unit].append(value)
    return {unit: fmean(values) for unit, values in coded.items()} or None


def _in_time(name: str, takes: Sequence[LabelRow]) -> tuple[ScanFiles, ...]:
    """The scans by their frame numbers where all rows have one, or by name where none has.

    Raises:
        UsageError: only some rows have a number, two have the same, or a scan stands in two rows.
    """
    numbers = {take.frame: take for take in takes if take.frame is not None}
    if numbers and len(numbers) < len(takes):
        odd = next(take for take in takes if take.frame is None or numbers[take.frame] is not take)
        problem = "no frame number" if odd.frame is None else f"frame {odd.frame:g} more than once"
        raise UsageError(f"{odd.where}: {problem} in the sequence {name!r}; give each row one, or none")
    scans = [scan for take in takes for scan in take.scans]
    if len({scan.mesh for scan in scans}) < len(scans):
        raise UsageError(f"{takes[0].where}: a mesh comes twice in the sequence {name!r}")
    if numbers:
        return tuple(numbers[number].scans[0] for number in sorted(numbers))
    return tuple(sorted(scans, key=lambda scan: natural_order(scan.mesh)))
