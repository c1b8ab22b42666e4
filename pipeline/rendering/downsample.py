"""Many samples a pixel: images drawn larger and made smaller, so that outlines are smooth."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import side_of


def downsample(images: ViewImages, num_samples: int) -> ViewImages:
    """Images of the size that was asked for, from those with `num_samples` pixels for each of theirs.

    Colours and normals are means, with the background where a sample shows that; so at an outline a normal is shorter
    than 1. Depth and flow are those of the nearest sample: a mean of near and far would lie where nothing is.
    """
    if num_samples == 1:
        return images
    num_views, height, width = images.depth.shape
    side = side_of(num_samples)
    shape = (num_views, height // side, width // side)
    flow = None if images.flow is None else np.empty((*shape, 3), np.float32)
    small = ViewImages(
        np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32), np.empty((*shape, 3), np.float32), flow
    )
    for v in range(num_views):
        _mean_colors(images.rgb[v], side, small.rgb[v])
        _mean_vectors(images.normal[v], side, small.normal[v])
        _nearest(images.depth[v], side, small.depth[v])
        if images.flow is not None and flow is not None:
            _of_nearest(images.flow[v], images.depth[v], side, flow[v])
    return small


@njit(cache=True, nogil=True)
def _mean_colors(large: NDArray[np.uint8], side: int, small: NDArray[np.uint8]) -> None:
    num = side * side
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            for m in range(3):
                total = num // 2
                for i in range(side):
                    for j in range(side):
                        total += large[y * side + i, x * side + j, m]
                small[y, x, m] = total // num


@njit(cache=True, nogil=True)
def _mean_vectors(large: NDArray[np.float32], side: int, small: NDArray[np.float32]) -> None:
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            for m in range(3):
                total = np.float32(0)
                for i in range(side):
                    for j in range(side):
                        total += large[y * side + i, x * side + j, m]
                small[y, x, m] = total / np.float32(side * side)


@njit(cache=True, nogil=True)
def _place(depth: NDArray[np.float32], side: int, y: int, x: int) -> tuple[int, int]:
    """The nearest sample of a pixel; its first where none shows a face."""
    row, column = y * side, x * side
    for i in range(y * side, y * side + side):
        for j in range(x * side, x * side + side):
            if depth[i, j] > 0 and not 0 < depth[row, column] <= depth[i, j]:
                row, column = i, j
    return row, column


@njit(cache=True, nogil=True)
def _nearest(depth: NDArray[np.float32], side: int, small: NDArray[np.float32]) -> None:
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            small[y, x] = depth[_place(depth, side, y, x)]


@njit(cache=True, nogil=True)
def _of_nearest(large: NDArray[np.float32], depth: NDArray[np.float32], side: int, small: NDArray[np.float32]) -> None:
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            row, column = _place(depth, side, y, x)
            for m in range(3):
                small[y, x, m] = large[row, column, m]
