"""Which frames of a sequence are rendered, and what of them is stored."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer

from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.sample import Sampling, Temporal


def _parse_window(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    start, colon, end = value.partition(":")
    if not colon or not all(part.strip().isdecimal() or not part.strip() for part in (start, end)):
        raise ValueError("a window is START:END, two numbers of frames")
    return int(start or 0), int(end) if end.strip() else None


def _show_window(window: tuple[int, int | None] | None) -> str | None:
    return None if window is None else f"{window[0]}:{'' if window[1] is None else window[1]}"


Window = Annotated[tuple[int, int | None] | None, BeforeValidator(_parse_window), PlainSerializer(_show_window)]
"""START:END, frames numbered from 0, END not included; either may be left out."""


class SequenceSettings(Frozen):
    """How sequences are rendered; scans do not depend on it."""

    frames: Annotated[int, Field(ge=1)] = 8
    sampling: Sampling = "uniform"
    temporal: Temporal = "frames"
    window: Window = None
    magnify: Annotated[float, Field(gt=0)] = 1.0

    def window_of(self, num_recorded: int) -> range:
        """Numbers of the frames that may be rendered, the onset first; none where the sequence is too short."""
        start, end = self.window or (0, None)
        return range(num_recorded)[start:end]

    def num_chosen(self, num_recorded: int) -> int:
        """How many frames of a sequence are rendered; at least one is tried."""
        length = len(self.window_of(num_recorded))
        return max(1, length if self.sampling == "all" else min(self.frames, length))

    def needed(self, num_recorded: int) -> tuple[int, ...]:
        """Numbers of the frames that have to be read: all that may be chosen, and the onset."""
        window = self.window_of(num_recorded)
        if self.sampling == "uniform" and window:
            return tuple(sorted({window[0], *evenly_spaced(window, self.num_chosen(num_recorded))}))
        return tuple(window) or (0,)

    def chosen(self, num_recorded: int, displacements: Mapping[int, float]) -> tuple[tuple[int, ...], int | None]:
        """Numbers of the frames that are rendered, in the order of time, and of the apex where it was looked for.

        Args:
            num_recorded: length of the sequence.
            displacements: for `apex`, how far each frame of the window is from the onset.

        Raises:
            ValueError: the window holds no frame of a sequence of that length.
        """
        window, count = self.window_of(num_recorded), self.num_chosen(num_recorded)
        if not window:
            raise ValueError(f"`window={_show_window(self.window)}` holds none of the {num_recorded} frames")
        if self.sampling != "apex":
            return evenly_spaced(window, count), None
        apex = max(window, key=lambda number: (displacements[number], -number))
        return _around(window, apex, count, displacements), apex


def evenly_spaced(window: range, count: int) -> tuple[int, ...]:
    """`count` numbers of a window, evenly from its first to its last; the middle one where only one is asked for."""
    if count == 1:
        return (window[len(window) // 2],)
    return tuple(window[int(i)] for i in np.round(np.linspace(0, len(window) - 1, count)))


def _around(window: range, apex: int, count: int, displacements: Mapping[int, float]) -> tuple[int, ...]:
    """`count` frames, evenly over the stretch about the apex in which the face is at least half as far from the onset.

    A stretch that is too short grows by the frame next to it that moved more; a window has at least `count` frames.
    """

    def moved(number: int) -> float:
        return displacements[number] if number in window else -1.0

    first = last = apex
    while last - first + 1 < count or max(moved(first - 1), moved(last + 1)) >= displacements[apex] / 2:
        if moved(first - 1) >= moved(last + 1):
            first -= 1
        else:
            last += 1
    return (apex,) if count == 1 else evenly_spaced(range(first, last + 1), count)
