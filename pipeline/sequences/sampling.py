"""Frame sampling: which frames of a sequence are rendered, and how they are stored."""

from collections.abc import Mapping, Sequence
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
        raise ValueError("not a window; write START:END, two frame numbers")
    return int(start or 0), int(end) if end.strip() else None


def _format_window(window: tuple[int, int | None] | None) -> str | None:
    return None if window is None else f"{window[0]}:{'' if window[1] is None else window[1]}"


Window = Annotated[tuple[int, int | None] | None, BeforeValidator(_parse_window), PlainSerializer(_format_window)]
"""START:END, frames numbered from 0, END exclusive; either may be omitted."""


class SequenceSettings(Frozen):
    """How sequences are rendered; scans do not depend on these settings.

    Attributes:
        frames: Number of frames to render.
        sampling: Which frames are rendered: evenly spaced, around the apex, or all.
        temporal: What is stored: frames, one dynamic image, or both.
        window: Part of the recording to use; None for all of it.
        magnify: Factor of the displacements from the onset.
    """

    frames: Annotated[int, Field(ge=1)] = 8
    sampling: Sampling = "uniform"
    temporal: Temporal = "frames"
    window: Window = None
    magnify: Annotated[float, Field(gt=0)] = 1.0

    def in_window(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return those of the frames `numbers` that are in the window, the onset first; empty if there is none."""
        start, end = self.window or (0, None)
        return [number for number in numbers if start <= number and (end is None or number < end)]

    def num_selected(self, numbers: Sequence[int]) -> int:
        """Return how many of the frames `numbers` are rendered, at least 1."""
        length = len(self.in_window(numbers))
        return max(1, length if self.sampling == "all" else min(self.frames, length))

    def frames_to_read(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return which of the frames `numbers` to read: all that can be selected, and the onset.

        The result can replace `numbers` in the other methods: they give the same frames.
        """
        window = self.in_window(numbers)
        if self.sampling == "uniform" and window:
            return tuple(sorted({window[0], *evenly_spaced(window, self.num_selected(numbers))}))
        return tuple(window) or tuple(numbers[:1])

    def select_frames(
        self, numbers: Sequence[int], displacements: Mapping[int, float]
    ) -> tuple[tuple[int, ...], int | None]:
        """Select the frames to render.

        Args:
            numbers: Numbers of the frames of the sequence in ascending order; frames of the recording may be missing.
            displacements: For `sampling=apex`, displacement of each frame of the window from the onset.

        Returns:
            Frame numbers in temporal order, and the number of the apex (None unless `sampling=apex`).

        Raises:
            ValueError: The window contains no frame of the sequence.
        """
        window, count = self.in_window(numbers), self.num_selected(numbers)
        if not window:
            raise ValueError(f"`window={_format_window(self.window)}` holds none of the frames of the sequence")
        if self.sampling != "apex":
            return evenly_spaced(window, count), None
        apex = max(window, key=lambda number: (displacements[number], -number))
        return _frames_around_apex(window, apex, count, displacements), apex


def evenly_spaced(window: Sequence[int], count: int) -> tuple[int, ...]:
    """Return `count` of the numbers, evenly spaced from the first to the last; the middle one if `count` is 1."""
    if count == 1:
        return (window[len(window) // 2],)
    return tuple(window[int(i)] for i in np.round(np.linspace(0, len(window) - 1, count)))


def _frames_around_apex(
    window: Sequence[int], apex: int, count: int, displacements: Mapping[int, float]
) -> tuple[int, ...]:
    """Select `count` frames, evenly over the interval around the apex with at least half of the apex's displacement.

    An interval with fewer frames is extended by the neighbouring frame with the larger displacement. A window has at
    least `count` frames.
    """
    moved = [-1.0, *(displacements[number] for number in window), -1.0]  # of the frame before each position
    first = last = window.index(apex)
    while last - first + 1 < count or max(moved[first], moved[last + 2]) >= displacements[apex] / 2:
        if moved[first] >= moved[last + 2]:
            first -= 1
        else:
            last += 1
    return (apex,) if count == 1 else evenly_spaced(window[first : last + 1], count)
