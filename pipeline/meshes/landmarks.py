"""Landmark files: the points of a face that people or programs marked, in the units of the scan beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError
from pipeline.meshes.source import Source

_COLUMNS = {".bnd": 4, ".txt": 3}
_MAX_BYTES = 1 << 20
_LARGEST = float(np.finfo(np.float32).max)


def write_bnd(path: Path, indices: Sequence[int] | NDArray[np.integer], points: NDArray[np.floating]) -> None:
    """Write landmarks as BU-3DFE does: one row `vertexIndex x y z` a point, four decimals.

    Args:
        path: the file to write; an existing one is replaced.
        indices: [L], the vertex that each landmark lies on, from 0.
        points: [L, 3], in the units of the scan.

    Raises:
        ValueError: `indices` and `points` differ in length.
        OSError: the file cannot be written.
    """
    rows = zip(np.asarray(indices).tolist(), np.asarray(points).tolist(), strict=True)
    text = "".join(f"{index} {x:.4f} {y:.4f} {z:.4f}\n" for index, (x, y, z) in rows)
    path.write_text(text, encoding="ascii", newline="\n")


def read_landmarks(path: Path) -> NDArray[np.float32]:
    """Read landmarks, by suffix.

    `.bnd` (BU-3DFE) has rows `vertexIndex x y z`; `.txt` has rows `x y z`; `.lm3` (Bosphorus) has a line with a name
    and then a line `x y z` for each point, and lines beginning with `#`. All give the points in the file's order.

    Returns:
        float32 [L, 3], in the units of the scan; a point may be NaN, which means that it is missing.

    Raises:
        MeshError: the suffix is unknown, or the file cannot be read, is malformed (with its line) or has no points.
    """
    try:
        if path.suffix.lower() not in _COLUMNS and path.suffix.lower() != ".lm3":
            raise MeshError(f"has no suffix of landmarks; those are {', '.join(_COLUMNS)}, .lm3")
        source = Source.read(path)
        if source.size > _MAX_BYTES:
            raise MeshError(f"is {source.size} bytes; landmarks take at most {_MAX_BYTES}")
        lines = source.cut(0, source.size).decode("utf-8", "replace").splitlines()
        rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
        if path.suffix.lower() == ".lm3":
            points = _named_points(rows)
        else:
            points = [_numbers(number, row, _COLUMNS[path.suffix.lower()])[-3:] for number, row in rows]
        if not points:
            raise MeshError("has no landmarks")
        return np.array(points, np.float32)
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error


def _named_points(rows: list[tuple[int, list[str]]]) -> list[list[float]]:
    """The points of an `.lm3` file, without the names.

    The file's first line counts its landmarks (`22 landmarks:`), so a name is a line that has a letter in front.
    """
    points: list[list[float]] = []
    name = ""
    for number, row in rows:
        if row[0].startswith("#") or (not points and not name and row[0].isdecimal() and len(row) > 1):
            continue
        if name:
            points.append(_numbers(number, row, 3))
            name = ""
        elif row[0][0].isalpha():
            name = " ".join(row)
        else:
            raise MeshError(f"line {number}: a point has no name before it")
    if name:
        raise MeshError(f"the file ends after the name {name[:40]!r}, without its point")
    return points


def _numbers(number: int, row: list[str], count: int) -> list[float]:
    try:
        values = [float(word) for word in row]
    except ValueError:
        values = []
    if len(values) != count or any(abs(value) > _LARGEST for value in values):
        raise MeshError(f"line {number}: {' '.join(row)[:80]!r} is not {count} numbers")
    return values
