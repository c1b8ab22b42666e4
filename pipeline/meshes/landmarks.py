"""Landmark files: the points of a face that people or programs marked, in the units of the scan beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.landmark_names import LM3_NAMES, named_points, place_by_name
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


def write_lm3(path: Path, points: NDArray[np.floating], names: Sequence[str] = LM3_NAMES) -> None:
    """Write landmarks as Bosphorus does, a name and then its point; a NaN point is missing and left out with its name.

    Args:
        path: the file to write, `.lm3`, or `.lm2` for two columns; an existing one is replaced.
        points: [L, 3], in the units of the scan, or [L, 2], in pixels.
        names: [L].

    Raises:
        ValueError: `points` and `names` differ in length.
        OSError: the file cannot be written.
    """
    rows = [row for row in zip(names, np.asarray(points).tolist(), strict=True) if not np.isnan(row[1]).any()]
    blocks = [f"{name}\n{' '.join(f'{value:.4f}' for value in point)}\n" for name, point in rows]
    path.write_text(f"{len(rows)} landmarks:\n\n" + "".join(blocks), encoding="utf-8", newline="\n")


def read_landmarks(path: Path) -> NDArray[np.float32]:
    """Read landmarks, by suffix.

    `.bnd` (BU-3DFE) has rows `vertexIndex x y z` and `.txt` has rows `x y z`; the points come in the file's order.
    `.lm3` (Bosphorus) has names too (see `named_points`), and its points come in the order of `LM3_NAMES` if all names
    are among those, with NaN for those that the file lacks; otherwise in the file's order.

    Returns:
        float32 [L, 3], in the units of the scan; a point may be NaN, which means that it is missing.

    Raises:
        MeshError: the suffix is unknown, or the file cannot be read, is malformed (with its line) or has no points.
    """
    try:
        suffix = path.suffix.lower()
        if suffix == ".lm2":
            raise MeshError("has points in an image, not on the scan; read_landmarks_2d reads them")
        if suffix not in _COLUMNS and suffix != ".lm3":
            raise MeshError(f"has no suffix of landmarks; those are {', '.join(_COLUMNS)}, .lm3")
        rows = _rows(path)
        if suffix == ".lm3":
            return _by_name(rows, 3)
        return _array([_numbers(number, row, _COLUMNS[suffix])[-3:] for number, row in rows])
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error


def read_landmarks_2d(path: Path) -> NDArray[np.float32]:
    """Read the landmarks of an image, `.lm2` (Bosphorus): names and points `x y`, in the order of `read_landmarks`.

    Returns:
        float32 [L, 2], in pixels of the image, as the file has them; NaN for a point that is missing.

    Raises:
        MeshError: the suffix is another, or the file cannot be read, is malformed (with its line) or has no points.
    """
    try:
        if path.suffix.lower() != ".lm2":
            raise MeshError("has no suffix of landmarks in an image; that is .lm2")
        return _by_name(_rows(path), 2)
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The words of each line that is not blank, with its number."""
    source = Source.read(path)
    if source.size > _MAX_BYTES:
        raise MeshError(f"is {source.size} bytes; landmarks take at most {_MAX_BYTES}")
    lines = source.cut(0, source.size).decode("utf-8-sig", "replace").splitlines()
    return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _by_name(rows: list[tuple[int, list[str]]], columns: int) -> NDArray[np.float32]:
    names, points = [], []
    for number, name, row in named_points(rows):
        names.append((number, name))
        points.append(_numbers(number, row, columns))
    return place_by_name(names, _array(points))


def _array(points: list[list[float]]) -> NDArray[np.float32]:
    if not points:
        raise MeshError("has no landmarks")
    return np.array(points, np.float32)


def _numbers(number: int, row: list[str], count: int) -> list[float]:
    try:
        values = [float(word) for word in row]
    except ValueError:
        values = []
    if len(values) != count or any(abs(value) > _LARGEST for value in values):
        raise MeshError(f"line {number}: {' '.join(row)[:20]!r} is not {count} numbers")
    return values
