"""Outlines of brows, eyes, nose and lips, drawn through the landmarks of a face: the channel `landmarks`.

These images show where the parts of a face are, and nothing of its skin or of the mesh. So a model of them depends less
on who made the head. Sets of 22, 68 and 83 landmarks give similar lines. The red component has the brows, green the
eyes and nose, blue the lips. A line is 1 in its middle and fades to 0 over `HALF_WIDTH`. Hidden parts are drawn, too.
"""

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.regions import PARTS, Parts
from smile_pipe.pipeline.rendering.cameras import Rig, project

HALF_WIDTH = 2 / 96
"""Half the width of a line, as a part of the width of the image. At the usual input size of 96 pixels it is 2 pixels,
so that a landmark has a position between pixels."""
_BROWS, _EYES_AND_NOSE, _LIPS = range(3)


def has_outlines(landmarks: NDArray[np.float32] | None) -> bool:
    """Whether there are landmarks [L, 3] of a set whose lines are known."""
    return landmarks is not None and len(landmarks) in PARTS and bool(np.isfinite(landmarks).all(axis=1).any())


def draw_outlines(landmarks: NDArray[np.float32] | None, rig: Rig) -> NDArray[np.uint8]:
    """Draw the outlines of a face from all views of a rig.

    Args:
        landmarks: float32 [22 | 68 | 83, 3] in the canonical frame. Lines to a missing point (NaN) are not drawn.
        rig: the cameras.

    Returns:
        uint8 [V, H, W, 3]; all 0 without landmarks of a known set.
    """
    images = np.zeros((len(rig.cameras), rig.size, rig.size, 3), np.uint8)
    if landmarks is not None and has_outlines(landmarks):
        starts, ends, components = _segments(len(landmarks))
        for image, camera in zip(images, rig.cameras, strict=True):
            # Of float32, so that the last bit of a matrix product decides nothing.
            points = project(camera, landmarks)[:, :2].astype(np.float32)
            _draw(points[starts], points[ends], components, np.float32(HALF_WIDTH * rig.size), image)
    return images


@cache
def _segments(num_landmarks: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of the first and the last landmark of each line segment, and the component that it is drawn in."""
    segments = [
        (start, end, component)
        for component, line in _lines(PARTS[num_landmarks], num_landmarks)
        for start, end in itertools.pairwise(line)
    ]
    starts, ends, components = np.array(segments, np.intp).T
    return starts, ends, components


def _lines(parts: Parts, num_landmarks: int) -> list[tuple[int, Sequence[int]]]:
    """All lines of a landmark set, as the component and the numbers of the landmarks along the line."""

    def ring(numbers: Sequence[int]) -> Sequence[int]:
        return (*numbers, numbers[0])

    lines: list[tuple[int, Sequence[int]]] = []
    # The 83 landmarks have both edges of a brow.
    lines += [(_BROWS, ring(brow) if num_landmarks == 83 else brow) for brow in parts.brows]
    lines += [(_EYES_AND_NOSE, ring(eye)) for eye in parts.eyes]
    wings = sorted(parts.nose_wings)
    lines.append((_EYES_AND_NOSE, (wings[0], *parts.nose_middle, wings[-1])))
    if num_landmarks == 22:  # corners, upper lip, lower lip: a ring in another order
        left, right, upper, lower = parts.outer_lips
        lines += [(_LIPS, ring((left, upper, right, lower))), (_LIPS, ring((left, 18, right, 19)))]
        return lines
    inner = range(60, 68)
    return [*lines, (_LIPS, ring(parts.outer_lips)), (_LIPS, ring(inner))]


@njit(cache=True, nogil=True)
def _draw(
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
    components: NDArray[np.intp],
    half_width: np.float32,
    image: NDArray[np.uint8],
) -> None:
    """Draw segments [S, 2] (column, row in pixels, centres at .5) to [H, W, 3]; where they cross, the brighter one."""
    height, width = image.shape[:2]
    for n in range(len(components)):
        x, y = starts[n]
        along_x, along_y = ends[n, 0] - x, ends[n, 1] - y
        length2 = along_x * along_x + along_y * along_y
        if not np.isfinite(x + y + length2):
            continue
        left, right = min(x, ends[n, 0]) - half_width, max(x, ends[n, 0]) + half_width
        top, bottom = min(y, ends[n, 1]) - half_width, max(y, ends[n, 1]) + half_width
        for row in range(int(min(max(top, 0), height)), int(min(max(bottom + 1, 0), height))):
            for column in range(int(min(max(left, 0), width)), int(min(max(right + 1, 0), width))):
                dx, dy = column + np.float32(0.5) - x, row + np.float32(0.5) - y
                share = (dx * along_x + dy * along_y) / length2 if length2 > 0 else np.float32(0)
                share = min(max(share, np.float32(0)), np.float32(1))
                dx, dy = dx - share * along_x, dy - share * along_y
                nearness = 1 - (dx * dx + dy * dy) / (half_width * half_width)
                if nearness > 0:
                    level = np.uint8(np.float32(255) * nearness * nearness + np.float32(0.5))
                    image[row, column, components[n]] = max(image[row, column, components[n]], level)
