"""BP4D-Spontaneous: `F001/T1/0000.obj`, one sequence per subject and task, with tables of action units.

Sequences have 25 frames per second. Source: Zhang et al., "BP4D-Spontaneous: a high-resolution spontaneous 3D dynamic
facial expression database", Image and Vision Computing 32(10), 2014. All mesh formats are accepted.
"""

import csv
import re
from collections.abc import Iterable

from smile_pipe.pipeline.datasets.adapter import FrameSequence, SampleSource, count_sequences, find_sequences
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.pipeline.datasets.labels_table import open_csv
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.storage import StoragePath

FRAME_RATE = 25.0
# The expression that each task is designed to elicit. The faces themselves are not annotated with it.
TASKS = {
    "T1": "HA",
    "T2": "SA",
    "T3": "SU",
    "T4": "embarrassment",
    "T5": "FE",
    "T6": "pain",
    "T7": "AN",
    "T8": "DI",
}
_FRAME = re.compile(r"(?:.*/)?(?P<subject>[FM]\d{3})/(?P<task>T[1-8])/(?P<frame>\d{3,4})\.\w+")
_CODING = re.compile(r"(?:.*/)?AU_OCC/([FM]\d{3}_T[1-8])\.csv")
_UNIT = re.compile(r"(?:AU)?0*(\d{1,3})", re.IGNORECASE)
_NOT_CODED = "9"
_MAX_BYTES = 16 << 20


class Bp4d:
    """Finds tasks at any depth, and tables of action units in any folder `AU_OCC`."""

    name = "bp4d"

    def match_reason(self, index: FileIndex) -> str:
        """Count the folders named as in the database that hold numbered meshes."""
        count = count_sequences(index, _FRAME)
        return f"{pluralize(count, 'folder')} named like F001/T1 with numbered meshes" if count else ""

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return one sample per folder: the expression that its task elicits, and how often action units occur."""
        tables = {match[1]: path for path in sorted(index.files) if (match := _CODING.fullmatch(path))}
        return [_source(index.root, sequence, tables) for sequence in find_sequences(index, _FRAME)]


def read_occurrence(path: StoragePath) -> dict[str, float]:
    """Compute the share of the coded frames in which each action unit occurs: "AU12" -> 0 to 1.

    The first row of the table names the action units; its first column is the frame number. The other rows hold 0, 1,
    or 9 for not coded. A unit that is not coded in any frame is omitted.

    Raises:
        UsageError: the table cannot be read or is malformed; the message has its line.
    """
    path = StoragePath(path)
    try:
        if path.size() > _MAX_BYTES:
            raise UsageError(f"{path}: file too large: over {_MAX_BYTES >> 20} MB for a table of action units")
        with open_csv(path) as file:
            rows = csv.reader(file)
            return _shares(rows, [_unit(cell, path) for cell in next(rows, [])[1:]], path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a CSV table ({error})") from None


def _shares(rows: Iterable[list[str]], units: list[str], path: StoragePath) -> dict[str, float]:
    seen, coded = [0] * len(units), [0] * len(units)
    for line, row in enumerate(rows, start=2):
        cells = [cell.strip() for cell in row[1:]]
        if len(cells) > len(units) or any(cell not in ("", "0", "1", _NOT_CODED) for cell in cells):
            raise UsageError(f"{path}, line {line}: invalid code of an action unit; use 0, 1, or 9 for not coded")
        for column, cell in enumerate(cells):
            seen[column] += cell == "1"
            coded[column] += cell in ("0", "1")
    return {unit: seen[i] / coded[i] for i, unit in enumerate(units) if coded[i]}


def _unit(cell: str, path: StoragePath) -> str:
    match = _UNIT.fullmatch(cell.strip())
    if match is None:
        raise UsageError(f"{path}: invalid first row: {cell[:40]!r} is not an action unit")
    return f"AU{match[1]}"


def _source(root: StoragePath, sequence: FrameSequence, tables: dict[str, str]) -> SampleSource:
    subject, task = sequence.match["subject"], sequence.match["task"]
    key = f"{subject}_{task}"
    table = tables.get(key)
    return SampleSource(
        key=key,
        subject=subject,
        expression=TASKS[task],
        level=None,
        frames=sequence.frames,
        numbers=sequence.numbers,
        frame_rate=FRAME_RATE,
        action_units=(read_occurrence(root / table) or None) if table else None,
        labels={"sex": subject[0], "task": task},
        label_files=(table,) if table else (),
    )
