"""Landmark files of BU-3DFE (`.bnd`, `.txt`) and Bosphorus (`.lm3`, `.lm2`), and meshes with their landmarks."""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.source import Source, explaining

LM3_NAMES = (
    "Outer left eye brow",
    "Middle of the left eye brow",
    "Inner left eye brow",
    "Inner right eye brow",
    "Middle of the right eye brow",
    "Outer right eye brow",
    "Outer left eye corner",
    "Inner left eye corner",
    "Inner right eye corner",
    "Outer right eye corner",
    "Nose saddle left",
    "Nose saddle right",
    "Left nose peak",
    "Nose tip",
    "Right nose peak",
    "Left mouth corner",
    "Upper lip outer middle",
    "Right mouth corner",
    "Upper lip inner middle",
    "Lower lip inner middle",
    "Lower lip outer middle",
    "Chin middle",
)
"""The 22 landmarks of Bosphorus. A scan lacks those that are not visible."""

_COUNT = re.compile(r"\d+ landmarks?:?", re.IGNORECASE)
_FILLERS = re.compile(r"\b(of|the)\b|\s")  # missing in some files


def pair_names_with_points(rows: list[tuple[int, list[str]]]) -> Iterator[tuple[int, str, list[str]]]:
    """Pair names with points: each name with the point on the next line, or all names first and then all points.

    Comments (`#`), titles that end with a colon, and everything before a line `22 landmarks:` are skipped. A name is a
    line that starts with a letter.

    Args:
        rows: line number and words of each line that is not blank.

    Yields:
        The line number of a point, its name, and the words of the point.

    Raises:
        MeshError: there are more points than names (with the line), or more names than points.
    """
    start = next((i + 1 for i, (_, row) in enumerate(rows) if _COUNT.fullmatch(" ".join(row))), 0)
    names: deque[str] = deque()
    for number, row in rows[start:]:
        if row[0].startswith("#") or row[-1].endswith(":"):
            continue
        if row[0][0].isalpha() and row[0].lower() not in ("nan", "inf"):
            names.append(" ".join(row))
        elif names:
            yield number, names.popleft(), row
        else:
            raise MeshError(f"line {number}: missing name before the point")
    if names:
        raise MeshError(f"truncated file: no point for the name {names[0][:40]!r}")


def order_by_name(names: list[tuple[int, str]], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring points into the order of `LM3_NAMES` if all names are known. Ear lobes are dropped.

    Args:
        names: [L], line number and name of each point.
        points: [L, K].

    Returns:
        [22, K], NaN for missing points; or `points` unchanged if there is another name.

    Raises:
        MeshError: a name occurs twice (with its line).
    """
    order = {_normalize_name(name): i for i, name in enumerate(LM3_NAMES)}
    known = [(number, name, row) for row, (number, name) in enumerate(names) if "ear lobe" not in name.lower()]
    if not known or any(_normalize_name(name) not in order for _, name, _ in known):
        return points
    ordered = np.full((len(LM3_NAMES), points.shape[1]), np.nan)
    seen: set[str] = set()
    for number, name, row in known:
        if _normalize_name(name) in seen:
            raise MeshError(f"line {number}: duplicate name {name!r}")
        seen.add(_normalize_name(name))
        ordered[order[_normalize_name(name)]] = points[row]
    return ordered


def _normalize_name(name: str) -> str:
    return _FILLERS.sub("", name.lower())


_COLUMNS = {".bnd": 4, ".txt": 3}
_MAX_BYTES = 1 << 20
_MAX_COORDINATE = float(np.finfo(np.float32).max)


def write_bnd(path: Path, indices: Sequence[int] | NDArray[np.integer], points: NDArray[np.floating]) -> None:
    """Write landmarks in the format of BU-3DFE: one row `vertexIndex x y z` per point, with four decimals.

    Args:
        path: output file; an existing file is replaced.
        indices: [L], vertex of each landmark, from 0.
        points: [L, 3], in the units of the scan.

    Raises:
        ValueError: `indices` and `points` differ in length.
        OSError: the file cannot be written.
    """
    rows = zip(np.asarray(indices).tolist(), np.asarray(points).tolist(), strict=True)
    text = "".join(f"{index} {x:.4f} {y:.4f} {z:.4f}\n" for index, (x, y, z) in rows)
    path.write_text(text, encoding="ascii", newline="\n")


def write_lm3(path: Path, points: NDArray[np.floating], names: Sequence[str] = LM3_NAMES) -> None:
    """Write landmarks in the format of Bosphorus: a name, then its point. Points with NaN are missing and not written.

    Args:
        path: output file, `.lm3`, or `.lm2` for two columns; an existing file is replaced.
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
    """Read landmarks. The suffix selects the format.

    `.bnd` (BU-3DFE) has rows `vertexIndex x y z`, `.txt` has rows `x y z`; points keep the order of the file. `.lm3`
    (Bosphorus) has names too (see `pair_names_with_points`); its points are in the order of `LM3_NAMES`, NaN where
    missing, if all names are among those, else in the order of the file.

    Returns:
        float32 [L, 3], in the units of the scan. A missing point is NaN.

    Raises:
        MeshError: the suffix is unknown, or the file cannot be read, is malformed (with its line) or has no points.
    """
    return _read_points(path).astype(np.float32)


def _read_points(path: Path) -> NDArray[np.float64]:
    """Read landmarks as float64; see `read_landmarks`."""
    try:
        suffix = path.suffix.lower()
        if suffix == ".lm2":
            raise MeshError("not landmarks of a scan: .lm2 has points in an image; use read_landmarks_2d")
        if suffix not in _COLUMNS and suffix != ".lm3":
            raise MeshError(f"unknown landmark format; supported suffixes are {', '.join(_COLUMNS)}, .lm3")
        source = _read(path)
        with explaining(source, suffix):
            if suffix == ".lm3":
                return _by_name(_rows(source), 3)
            return _array([_numbers(number, row, _COLUMNS[suffix])[-3:] for number, row in _rows(source)])
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error


def read_landmarks_2d(path: Path) -> NDArray[np.float32]:
    """Read landmarks in an image, `.lm2` (Bosphorus): names and points `x y`, in the order of `read_landmarks`.

    Returns:
        float32 [L, 2], in pixels of the image, as in the file. A missing point is NaN.

    Raises:
        MeshError: the suffix is unknown, or the file cannot be read, is malformed (with its line) or has no points.
    """
    try:
        if path.suffix.lower() != ".lm2":
            raise MeshError("unknown format of landmarks in an image; the supported suffix is .lm2")
        source = _read(path)
        with explaining(source, ".lm2"):
            return _by_name(_rows(source), 2).astype(np.float32)
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error


def _read(path: Path) -> Source:
    source = Source.read(path)
    if source.size > _MAX_BYTES:
        raise MeshError(f"file too large: {source.size} bytes; the limit for landmarks is {_MAX_BYTES}")
    return source


def _rows(source: Source) -> list[tuple[int, list[str]]]:
    """Line number and words of each line that is not blank."""
    text = source.as_text()
    lines = text.slice(0, text.size).decode("utf-8", "replace").splitlines()
    return [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def _by_name(rows: list[tuple[int, list[str]]], columns: int) -> NDArray[np.float64]:
    names, points = [], []
    for number, name, row in pair_names_with_points(rows):
        names.append((number, name))
        points.append(_numbers(number, row, columns))
    return order_by_name(names, _array(points))


def _array(points: list[list[float]]) -> NDArray[np.float64]:
    if not points:
        raise MeshError("no landmarks")
    return np.array(points)


def _numbers(number: int, row: list[str], count: int) -> list[float]:
    try:
        values = [float(word) for word in row]
    except ValueError:
        values = []
    if len(values) != count or any(abs(value) > _MAX_COORDINATE for value in values):
        raise MeshError(f"line {number}: {' '.join(row)[:20]!r} is not {count} numbers")
    return values


def read_scan(mesh_path: Path, landmarks_path: Path | None, sidecars: SidecarFiles | None = None) -> Mesh:
    """Read a mesh with its landmarks and its embedded texture (as in a GLB).

    Other textures are read separately, since scans share them.

    Args:
        mesh_path: the mesh file.
        landmarks_path: the landmark file, or None.
        sidecars: files that the mesh may refer to; by default those in its own folder.

    Raises:
        MeshError: a file cannot be read. The message starts with its path.
    """
    mesh = read_mesh(mesh_path, sidecars)
    if landmarks_path is not None:
        mesh = replace(mesh, landmarks=(_read_points(landmarks_path) - mesh.origin).astype(np.float32))
    return mesh
