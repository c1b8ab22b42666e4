"""Vertex colours as bytes, whatever scale a file gives them in."""

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError


def bytes_of_colors(colors: NDArray, dtype: np.dtype | None = None) -> NDArray[np.uint8]:
    """Bring red, green and blue [V, 3] to uint8.

    16-bit unsigned integers are scaled from their full range; other integers are taken as they are. Other numbers
    are taken to run from 0 to 1, or from 0 to 255 if any is above 1. What is beyond is clipped.

    Args:
        colors: the numbers.
        dtype: the type that the file declares for them, if it is not that of `colors`.

    Raises:
        MeshError: a value is not finite.
    """
    dtype = dtype or colors.dtype
    if colors.dtype == np.uint8:
        return np.ascontiguousarray(colors)
    values = colors.astype(np.float64)
    if not np.isfinite(values).all():
        raise MeshError("has a vertex colour that is not finite")
    if dtype.kind == "u" and dtype.itemsize == 2:
        values /= 257.0
    elif dtype.kind == "f" and values.max(initial=0.0) <= 1.0:
        values *= 255.0
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)
