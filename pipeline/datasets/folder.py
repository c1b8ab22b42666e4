"""Any tree of meshes with a labels table at its top. A row is a scan, a sequence, or a pattern that matches scans.

The README lists the columns. Unknown columns become labels.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles, count_from_zero, make_key, numbers_in_names
from smile_pipe.pipeline.datasets.file_index import FileIndex, natural_order, stem_of
from smile_pipe.pipeline.datasets.label_rows import LabelRow, read_label_row, unit_columns
from smile_pipe.pipeline.datasets.labels_table import find_tables, read_table
from smile_pipe.shards.errors import UsageError

_SEQUENCE_COLUMNS = ("subject", "expression", "level", "frame_rate", "axes")


class Folder:
    """Reads the labels table. Meshes outside the table are not samples."""

    name = "folder"

    def match_reason(self, index: FileIndex) -> str:
        """Name the labels tables at the top."""
        names = find_tables(index)
        return f"{' and '.join(names)} at its top" if names else ""

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return one sample per scan or sequence of the table."""
        names = find_tables(index)
        if len(names) > 1:
            raise UsageError(f"{index.root}: several labels tables: {' and '.join(names)}; remove one")
        path = index.root / names[0]
        table = read_table(path)
        if not table:
            raise UsageError(f"{path}: no rows; use one for each scan, below the names of the columns")
        columns = table[0].cells.keys()
        if not {"subject", "expression"} <= columns or not columns & {"path", "glob"}:
            raise UsageError(
                f"{path}: missing columns; path (or glob), subject and expression are required, separated by commas; "
                f"found: {', '.join(columns)}"
            )
        units = unit_columns(columns, str(path))
        rows = [row for table_row in table for row in read_label_row(table_row, index, units)]
        _check_scans_differ(row for row in rows if row.sequence is None)
        sequences: dict[str, list[LabelRow]] = defaultdict(list)
        for row in rows:
            if row.sequence is not None:
                sequences[row.sequence].append(row)
        return [
            *(_scan(row, names[0]) for row in rows if row.sequence is None),
            *(_sequence(name, parts, names[0]) for name, parts in sequences.items()),
        ]


def _check_scans_differ(rows: Iterable[LabelRow]) -> None:
    first: dict[str, LabelRow] = {}
    for row in rows:
        mesh = row.scans[0].mesh
        if (other := first.setdefault(mesh, row)) is not row:
            raise UsageError(f"{row.location}: {mesh!r} is also in {other.location.rpartition(', ')[2]}; remove one")


def _scan(row: LabelRow, table: str) -> SampleSource:
    return SampleSource(
        key=make_key(stem_of(row.scans[0].mesh)),
        subject=row.subject,
        expression=row.expression,
        level=row.level,
        frames=row.scans,
        action_units=row.action_units,
        labels=row.labels,
        label_files=(table,),
    )


def _sequence(name: str, rows: Sequence[LabelRow], table: str) -> SampleSource:
    first = rows[0]
    for row in rows:
        for column in _SEQUENCE_COLUMNS:
            if getattr(row, column) != getattr(first, column):
                raise UsageError(f"{row.location}: {column} differs from the first row of the sequence {name!r}")
    frames, numbers = _order_scans(name, rows)
    return SampleSource(
        key=make_key(name),
        subject=first.subject,
        expression=first.expression,
        level=first.level,
        frames=frames,
        numbers=numbers,
        frame_rate=first.frame_rate,
        action_units=_mean_units(rows),
        # A value that differs between frames is not a label of the sequence.
        labels={
            label: value if all(row.labels[label] == value for row in rows) else ""
            for label, value in first.labels.items()
        },
        label_files=(table,),
    )


def _mean_units(rows: Sequence[LabelRow]) -> dict[str, float] | None:
    """Mean of each action unit over the rows that code it; None if no row codes any."""
    coded: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for unit, value in (row.action_units or {}).items():
            coded[unit].append(value)
    return {unit: fmean(values) for unit, values in coded.items()} or None


def _order_scans(name: str, rows: Sequence[LabelRow]) -> tuple[tuple[ScanFiles, ...], tuple[int, ...]]:
    """Order scans by frame number if all rows have one, or by name if none has.

    Returns:
        The scans, and their numbers; see `SampleSource`.

    Raises:
        UsageError: only some rows have a number, a number occurs twice, or a scan is in two rows.
    """
    numbers = {row.frame: row for row in rows if row.frame is not None}
    if numbers and len(numbers) < len(rows):
        invalid = next(row for row in rows if row.frame is None or numbers[row.frame] is not row)
        problem = "missing frame number" if invalid.frame is None else f"duplicate frame {invalid.frame}"
        raise UsageError(f"{invalid.location}: {problem} in the sequence {name!r}; number all rows, or none")
    scans = [scan for row in rows for scan in row.scans]
    if len({scan.mesh for scan in scans}) < len(scans):
        raise UsageError(f"{rows[0].location}: duplicate mesh in the sequence {name!r}")
    if numbers:
        return tuple(numbers[number].scans[0] for number in sorted(numbers)), count_from_zero(numbers)
    scans.sort(key=lambda scan: natural_order(scan.mesh))
    return tuple(scans), numbers_in_names([scan.mesh for scan in scans])
