"""Shapes of a scene with several parts: moved to their places and joined into one mesh; vertex colours as bytes."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError


def colors_to_uint8(colors: NDArray, dtype: np.dtype | None = None) -> NDArray[np.uint8]:
    """Convert vertex colours [V, 3] to uint8.

    16-bit unsigned integers are scaled from their full range; other integers are taken as they are. Floats have the
    range 0 to 1, or 0 to 255 if any is above 1. Values outside the range are clipped.

    Args:
        colors: [V, 3], red, green and blue.
        dtype: type declared in the file, if it differs from that of `colors`.

    Raises:
        MeshError: a value is not finite.
    """
    dtype = dtype or colors.dtype
    if colors.dtype == np.uint8:
        return np.ascontiguousarray(colors)
    values = colors.astype(np.float64)
    if not np.isfinite(values).all():
        raise MeshError("vertex colour is not finite")
    if dtype.kind == "u" and dtype.itemsize == 2:
        values /= 257.0
    elif dtype.kind == "f" and values.max(initial=0.0) <= 1.0:
        values *= 255.0
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Shape:
    """One part of a scene.

    Attributes:
        points: float32 or float64 [V, 3].
        faces: int32 [F, 3].
        uvs: float32 [U, 2]. With U = 0 the shape has no texture coordinates and `face_uvs` is 0.
        face_uvs: int32 [F, 3].
        colors: float32 [V, 3], or [0, 3].
    """

    points: NDArray[np.floating]
    faces: NDArray[np.int32]
    uvs: NDArray[np.floating]
    face_uvs: NDArray[np.int32]
    colors: NDArray[np.floating]

    @property
    def nbytes(self) -> int:
        """Total size of all arrays in bytes, including arrays shared with other shapes."""
        return sum(array.nbytes for array in (self.points, self.faces, self.uvs, self.face_uvs, self.colors))


def transform_shape(shape: Shape, matrix: NDArray[np.float64]) -> Shape:
    """Transform a shape by a matrix [4, 4] to float64. The identity leaves every coordinate unchanged."""
    if np.array_equal(matrix, np.eye(4)):
        return shape
    with np.errstate(over="ignore", invalid="ignore"):  # `Mesh.build` rejects values that overflow
        return replace(shape, points=shape.points @ matrix[:3, :3].T + matrix[:3, 3])


def join_shapes(shapes: list[Shape], texture_name: str = "", notes: tuple[str, ...] = ()) -> Mesh:
    """Join shapes into one mesh.

    Texture coordinates are kept if any shape has them; corners of other shapes get a coordinate at (0, 0). Colours are
    kept if every shape has them.

    Args:
        shapes: at least one.
        texture_name: texture name of the mesh.
        notes: notes of the mesh.

    Raises:
        MeshError: the mesh is empty or inconsistent (see `Mesh.build`).
    """
    uv_lists = [shape.uvs if len(shape.uvs) else np.zeros((1, 2), np.float32) for shape in shapes]
    textured = any(len(shape.uvs) for shape in shapes)
    points = _concatenated([shape.points for shape in shapes])
    colors = _concatenated([shape.colors for shape in shapes])
    return Mesh.build(
        points,
        _joined([shape.faces for shape in shapes], [len(shape.points) for shape in shapes]),
        _concatenated(uv_lists) if textured else None,
        _joined([shape.face_uvs for shape in shapes], [len(uvs) for uvs in uv_lists]) if textured else None,
        colors_to_uint8(colors) if 0 < len(colors) == len(points) else None,
        texture_name,
        notes,
    )


def _concatenated(arrays: list[NDArray[np.floating]]) -> NDArray[np.floating]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _joined(indices: list[NDArray[np.int32]], counts: list[int]) -> NDArray[np.int32]:
    """Concatenate index arrays, each shifted by the number of elements of the arrays before it."""
    if len(indices) == 1:
        return indices[0]
    firsts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([part + np.int32(first) for part, first in zip(indices, firsts, strict=True)])
