"""Axes of a scan's file: which of them point to the subject's left, up, and out of the face."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from smile_pipe.shards.errors import UsageError

UPRIGHT = "x,y,z"
UpAxis = Literal["x", "-x", "y", "-y", "z", "-z"]
# The axes after the smallest turn that brings the axis up; -y up is half a turn about x, as in images.
_BY_UP = {
    "y": UPRIGHT,
    "-y": "x,-y,-z",
    "z": "x,z,-y",
    "-z": "x,-z,y",
    "x": "-y,x,z",
    "-x": "y,-x,z",
}
_AXIS = re.compile(r"[+-]?[xyz]")
MAX_TURN = 60.0
"""Degrees between a face and the axes of its file; a face that is turned more is not as the axes state."""


def parse_axes(text: str) -> str:
    """Return axes in the form `x,z,-y`: the axes of the file that point to the subject's left, up and to the front.

    Args:
        text: three different axes, each with or without a sign; or only the axis that points up.

    Raises:
        ValueError: the text is something else.
    """
    words = _AXIS.findall(text.lower())
    axes = [word.removeprefix("+") for word in words]
    letters = {axis[-1] for axis in axes}
    if re.sub(r"[\s,;]", "", text.lower()) != "".join(words) or len(axes) not in (1, 3) or len(letters) != len(axes):
        raise ValueError("not axes; write those that point to the subject's left, up and to the front, as in x,z,-y")
    return ",".join(axes) if len(axes) == 3 else _BY_UP[axes[0]]


Axes = Annotated[str, AfterValidator(parse_axes)]


UP_HELP = (
    "Axis of the scans' files that points up; -y is half a turn about x, z and -z are a quarter. Scans with landmarks, "
    "or whose landmarks are found, do not need it."
)
AXES_HELP = (
    "Axes of the scans' files that point to the subject's left, up and to the front, such as x,-y,z; instead of `up`."
)


def resolve_axes(up: UpAxis, axes: str | None) -> str:
    """Return the axes that two options give.

    Raises:
        UsageError: both are given.
    """
    if axes is None:
        return parse_axes(up)
    if up != "y":
        raise UsageError(f"use either `up={up}` or this", field="axes", value=axes)
    return axes


def matrix_of_axes(axes: str) -> NDArray[np.float64]:
    """Return the matrix [3, 3] from the axes of the file to left, up and front, for row vectors.

    It mirrors if the axes are left-handed.
    """
    matrix = np.zeros((3, 3))
    for column, axis in enumerate(axes.split(",")):
        matrix["xyz".index(axis[-1]), column] = -1.0 if axis[0] == "-" else 1.0
    return matrix


def turn_problem(axes: str, R: Sequence[Sequence[float]]) -> str:
    """Compare given axes with the pose of the face that was found.

    Args:
        axes: see `parse_axes`.
        R: [3, 3], rotation from the axes of the file to the canonical frame, for row vectors; see `Frame`.

    Returns:
        By how much the face is turned, if it is more than `MAX_TURN`; or "".
    """
    cosine = (np.trace(matrix_of_axes(axes).T @ np.array(R)) - 1) / 2
    degrees = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if degrees <= MAX_TURN:
        return ""
    return f"its face is turned by {degrees:.0f} degrees against the given axes {axes}; check `up` and `axes`"
