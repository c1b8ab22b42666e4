"""Landmark files: the points of a face that people or programs marked, in the units of the scan beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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
