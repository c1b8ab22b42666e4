"""Rows of a labels table as scans and labels. Paths that leave the data directory are rejected."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from smile_pipe.pipeline.common.expressions import expression_code
from smile_pipe.pipeline.datasets.adapter import ScanFiles
from smile_pipe.pipeline.datasets.file_index import LANDMARKS, TEXTURES, FileIndex, stem_of
from smile_pipe.pipeline.datasets.labels_table import KNOWN_COLUMNS, TableRow
from smile_pipe.pipeline.landmarks.axes import parse_axes
from smile_pipe.shards.errors import UsageError

DEFAULT_FRAME_RATE = 25.0
_MAX_FRAME_RATE = 100_000.0
_UNIT = re.compile(r"AU[ _]?0*(\d{1,3})", re.IGNORECASE)


@dataclass(frozen=True)
class LabelRow:
    """One scan, or scans of one sequence, with the labels of a row.

    Attributes:
        location: table and line, for messages.
        scans: at least one, sorted by name.
        sequence: name of the sequence, or None.
        frame: frame number in the sequence, or None.
        frame_rate: frames per second.
        subject: name of the subject.
        expression: see `SampleSource`.
        level: intensity level of the expression, or None.
        action_units: "AU12" -> intensity from 0 to 1, or None.
        labels: all other columns.
    """

    location: str
    scans: tuple[ScanFiles, ...]
    sequence: str | None
    frame: int | None
    frame_rate: float
    subject: str
    expression: str
    level: int | None
    action_units: Mapping[str, float] | None
    labels: Mapping[str, str]

    @property
    def axes(self) -> str:
        """Axes of the files of the scans; see `ScanFiles`."""
        return self.scans[0].axes


def unit_columns(columns: Iterable[str], location: str) -> dict[str, str]:
    """Find the columns of action units: "au_12" -> "AU12".

    Raises:
        UsageError: two columns are the same action unit.
    """
    units: dict[str, str] = {}
    for column in columns:
        if match := _UNIT.fullmatch(column):
            unit = f"AU{match[1]}"
            if unit in units.values():
                raise UsageError(f"{location}: two columns for {unit}, one is {column}; rename or remove one")
            units[column] = unit
    return units


def read_label_row(row: TableRow, index: FileIndex, units: Mapping[str, str]) -> list[LabelRow]:
    """Convert a table row into one `LabelRow`, or into one for each scan that its pattern matches.

    Raises:
        UsageError: a cell is invalid, a path leaves the data directory, or no mesh is found.
    """
    expression = expression_code(row["expression"])
    if not row["subject"] or not expression or not (row["path"] or row["glob"]):
        raise UsageError(f"{row.location}: missing value; path (or glob), subject and expression are required")
    scans, sequence = _scans(row, index)
    frame = _number(row, "frame", 0, 1e15)
    if frame is not None and not frame.is_integer():
        raise UsageError(f"{row.location}: invalid frame {row['frame'][:40]!r}; use a whole number")
    if frame is not None and len(scans) > 1:
        raise UsageError(f"{row.location}: one frame number for {len(scans)} meshes; leave it empty or use one mesh")
    return [
        LabelRow(
            location=row.location,
            scans=scans_of_row,
            sequence=sequence,
            frame=None if frame is None else int(frame),
            frame_rate=_number(row, "frame_rate", 0.001, _MAX_FRAME_RATE) or DEFAULT_FRAME_RATE,
            subject=row["subject"],
            expression=expression,
            level=_level(row),
            action_units=_action_units(row, units),
            labels={
                name: value for name, value in row.cells.items() if name not in KNOWN_COLUMNS and name not in units
            },
        )
        for scans_of_row in ([scans] if sequence is not None else [(scan,) for scan in scans])
    ]


def _scans(row: TableRow, index: FileIndex) -> tuple[tuple[ScanFiles, ...], str | None]:
    """Return the scans of a row and the name of their sequence."""
    sequence = row["sequence"] or None
    if row["path"] and row["glob"]:
        raise UsageError(f"{row.location}: both path and glob are set; use one of them")
    cell = _relative_path(row["path"] or row["glob"], row.location)
    if row["glob"]:
        meshes = index.glob_meshes(cell)
        if not meshes:
            raise UsageError(
                f"{row.location}: no mesh matches the glob {cell!r}; patterns are relative to the data directory"
            )
    elif cell not in index.files and (meshes := index.meshes_in(cell)):
        sequence = sequence or cell
    elif index.has_folder(cell):
        raise UsageError(f"{row.location}: the folder {cell!r} holds no mesh itself; links to folders are not followed")
    else:
        # A missing file becomes a failed sample of the render, like a damaged one.
        meshes = [cell]
    return tuple(_scan_files(mesh, row, index) for mesh in meshes), sequence


def _scan_files(mesh: str, row: TableRow, index: FileIndex) -> ScanFiles:
    def file_of(column: str, suffixes: Iterable[str]) -> str | None:
        if column not in row.cells:
            return index.first_existing(stem_of(mesh), suffixes)
        return _relative_path(row[column], row.location) if row[column] else None

    return ScanFiles(mesh, file_of("texture", TEXTURES), file_of("landmarks", LANDMARKS), _axes(row))


def _axes(row: TableRow) -> str:
    if row["up"] and row["axes"]:
        raise UsageError(f"{row.location}: both up and axes are set; use one of them")
    if not (cell := row["up"] or row["axes"]):
        return ""
    try:
        return parse_axes(cell)
    except ValueError as error:
        raise UsageError(f"{row.location}: {cell[:40]!r} is {error}") from None


def _level(row: TableRow) -> int | None:
    level = row["level"]
    if level and not re.fullmatch(r"[0-9]{1,9}", level):
        raise UsageError(f"{row.location}: invalid level {level[:40]!r}; use a whole number")
    return int(level or 0) or None


def _action_units(row: TableRow, units: Mapping[str, str]) -> dict[str, float] | None:
    coded = {unit: _number(row, column, 0, 1) for column, unit in units.items()}
    return {unit: value for unit, value in coded.items() if value is not None} or None


def _number(row: TableRow, column: str, minimum: float, maximum: float) -> float | None:
    cell = row[column]
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not minimum <= value <= maximum:
        hint = "; leave an action unit empty if it is not coded" if _UNIT.fullmatch(column) else ""
        raise UsageError(
            f"{row.location}: invalid {column} {cell[:40]!r}; use a number from {minimum:g} to {maximum:g}{hint}"
        )
    return value


def _relative_path(path: str, location: str) -> str:
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise UsageError(f"{location}: {path!r} is outside the data directory; use paths relative to it")
    return pure.as_posix()
