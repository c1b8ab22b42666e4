"""Supersampling: reduce images that were drawn larger, so that outlines are smooth."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import samples_per_side


def downsample(images: ViewImages, samples_per_pixel: int) -> ViewImages:
    """Reduce images with `samples_per_pixel` samples for each output pixel to the output size.

    Colours and normals are the means of all samples, background included, so a normal at an outline is shorter than 1.
    Depth and flow are those of the sample nearest to the camera: the mean of a near and a far surface would be a point
    where there is no surface.

    Args:
        images: Images of a rig from `Rig.supersampled`.
        samples_per_pixel: A square number; 1 returns `images` unchanged.

    Returns:
        Images with 1 / sqrt(`samples_per_pixel`) of the height and width.
    """
    if samples_per_pixel == 1:
        return images
    num_views, height, width = images.depth.shape
    side = samples_per_side(samples_per_pixel)
    shape = (num_views, height // side, width // side)
    flow = None if images.flow is None else np.empty((*shape, 3), np.float32)
    small = ViewImages(
        np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32), np.empty((*shape, 3), np.float32), flow
    )
    for v in range(num_views):
        _downsample_colors(images.rgb[v], side, small.rgb[v])
        _downsample_normals(images.normal[v], side, small.normal[v])
        _downsample_depth(images.depth[v], side, small.depth[v])
        if images.flow is not None and flow is not None:
            _downsample_flow(images.flow[v], images.depth[v], side, flow[v])
    return small


@njit(cache=True, nogil=True)
def _downsample_colors(large: NDArray[np.uint8], side: int, small: NDArray[np.uint8]) -> None:
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
def _downsample_normals(large: NDArray[np.float32], side: int, small: NDArray[np.float32]) -> None:
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            for m in range(3):
                total = np.float32(0)
                for i in range(side):
                    for j in range(side):
                        total += large[y * side + i, x * side + j, m]
                small[y, x, m] = total / np.float32(side * side)


@njit(cache=True, nogil=True)
def _nearest_sample(depth: NDArray[np.float32], side: int, y: int, x: int) -> tuple[int, int]:
    """Return row and column of the sample nearest to the camera; the first sample if none shows a face."""
    row, column = y * side, x * side
    for i in range(y * side, y * side + side):
        for j in range(x * side, x * side + side):
            if depth[i, j] > 0 and not 0 < depth[row, column] <= depth[i, j]:
                row, column = i, j
    return row, column


@njit(cache=True, nogil=True)
def _downsample_depth(depth: NDArray[np.float32], side: int, small: NDArray[np.float32]) -> None:
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            small[y, x] = depth[_nearest_sample(depth, side, y, x)]


@njit(cache=True, nogil=True)
def _downsample_flow(
    large: NDArray[np.float32], depth: NDArray[np.float32], side: int, small: NDArray[np.float32]
) -> None:
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            row, column = _nearest_sample(depth, side, y, x)
            for m in range(3):
                small[y, x, m] = large[row, column, m]
