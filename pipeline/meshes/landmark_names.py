"""Landmarks that have names, as Bosphorus has them: which points a file gives, and in which order they are wanted."""

import re
from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError

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
"""The 22 landmarks of Bosphorus. A scan lacks those that cannot be seen."""

_COUNT = re.compile(r"\d+ landmarks?:?", re.IGNORECASE)
_FILLERS = re.compile(r"\b(of|the)\b|\s")  # some files leave them out


def named_points(rows: list[tuple[int, list[str]]]) -> Iterator[tuple[int, str, list[str]]]:
    """Pair names with points: each name with its point in the line after it, or all names and then all points.

    Comments (`#`), titles that end in a colon, and what comes before a line `22 landmarks:` are stepped over. A name is
    a line that begins with a letter.

    Args:
        rows: the number and the words of each line that is not blank.

    Yields:
        the number of the point's line, the name, the words of the point.

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
            raise MeshError(f"line {number}: a point has no name before it")
    if names:
        raise MeshError(f"the file ends after the name {names[0][:40]!r}, without its point")


def place_by_name(names: list[tuple[int, str]], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring points into the order of `LM3_NAMES`, if all names but those of ear lobes are among those.

    Args:
        names: [L], the line and the name of each point.
        points: [L, K].

    Returns:
        float32 [22, K], NaN where there is no such point, without ear lobes; or `points` as they are.

    Raises:
        MeshError: a name comes twice (with its line).
    """
    order = {_plain(name): i for i, name in enumerate(LM3_NAMES)}
    wanted = [(number, name, row) for row, (number, name) in enumerate(names) if "ear lobe" not in name.lower()]
    if not wanted or any(_plain(name) not in order for _, name, _ in wanted):
        return points
    placed = np.full((len(LM3_NAMES), points.shape[1]), np.nan, np.float32)
    seen: set[str] = set()
    for number, name, row in wanted:
        if _plain(name) in seen:
            raise MeshError(f"line {number}: {name!r} comes twice")
        seen.add(_plain(name))
        placed[order[_plain(name)]] = points[row]
    return placed


def _plain(name: str) -> str:
    return _FILLERS.sub("", name.lower())
