"""Unit of length of a scan's file. It is known or not; where it is known, a face has about the size of a real one."""

import math
from collections.abc import Mapping
from typing import Literal

from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM

LengthUnit = Literal["auto", "mm", "cm", "m", "in"]
UNITS_HELP = (
    "Unit of length of the scans' files: mm, cm, m or in; auto needs none. With a unit, faces are searched in their "
    "real size only, and a scan of another size fails."
)
MILLIMETRES: Mapping[LengthUnit, float] = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4}
# Sizes of a face relative to the mean face: from a small child to an enlarged model. Two units differ by 2.5 or more.
MIN_SIZE, MAX_SIZE = 0.5, 2.0


def scale_limits(units: LengthUnit) -> tuple[float, float]:
    """Return the least and the largest number of scan units in a millimetre of the mean face; (0, inf) with auto."""
    if units == "auto":
        return 0.0, math.inf
    return MIN_SIZE / MILLIMETRES[units], MAX_SIZE / MILLIMETRES[units]


def size_problem(scale: float, units: LengthUnit) -> str:
    """Find out whether a face has the size of a face.

    Args:
        scale: of the similarity to the canonical frame, frame units in a unit of the scan.
        units: the unit of the scan.

    Returns:
        What is wrong, and the units with which it would be right; or "".
    """
    per_millimetre = 1 / (scale * UNIT_MM)

    def fits(unit: LengthUnit) -> bool:
        low, high = scale_limits(unit)
        return low <= per_millimetre <= high

    if fits(units):
        return ""
    others = " or ".join(f"`units={unit}`" for unit in MILLIMETRES if fits(unit))
    size = per_millimetre * MILLIMETRES[units]
    return (
        f"with `units={units}` its face would be {size:.3g} times as large as a mean one; "
        f"use {others or 'another unit, or `units=auto`'}"
    )
