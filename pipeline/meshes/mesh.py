"""The Mesh: one 3D face as arrays, whatever file it came from.

Promised of every mesh that a reader returns: finite vertices, at least one face, all indices in range, contiguous
arrays of the types below.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray


class MeshError(ValueError):
    """A file that cannot be read as a face; the message names what is wrong and where (line or byte)."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in its file's own units and axes.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3], indices into `vertices`.
        uvs: float32 [U, 2], or None; (0, 0) is the lower left corner of the texture.
        face_uvs: int32 [F, 3], indices into `uvs`, or None; seams need no duplicated vertices.
        colors: uint8 [V, 3], or None.
        texture: uint8 [H, W, 3], row 0 at the top, or None.
        landmarks: float32 [L, 3] in the units of `vertices`, or None; NaN rows are missing points.
        flow: float32 [V, 3], how far each vertex is from where it was in the reference frame of its sequence, in the
            units and axes of `vertices`; None where that was not asked for.
        texture_name: the texture that the file names, unresolved and untrusted, or "".
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    uvs: NDArray[np.float32] | None = None
    face_uvs: NDArray[np.int32] | None = None
    colors: NDArray[np.uint8] | None = None
    texture: NDArray[np.uint8] | None = None
    landmarks: NDArray[np.float32] | None = None
    flow: NDArray[np.float32] | None = None
    texture_name: str = ""

    @classmethod
    def build(
        cls,
        vertices: NDArray[np.floating],
        faces: NDArray[np.integer],
        uvs: NDArray[np.floating] | None = None,
        face_uvs: NDArray[np.integer] | None = None,
        colors: NDArray[np.uint8] | None = None,
        texture_name: str = "",
    ) -> Self:
        """Check what a reader parsed and give it its final types.

        Raises:
            MeshError: no vertices, no faces, a coordinate that is not finite, or an index out of range.
        """
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is then refused by name
            vertices = np.ascontiguousarray(vertices, np.float32)
            uvs = None if uvs is None else np.ascontiguousarray(uvs, np.float32)
        if len(vertices) == 0 or len(faces) == 0:
            raise MeshError(f"has {len(vertices)} vertices and {len(faces)} faces; a face scan needs both")
        _check_finite("vertex", vertices)
        _check_range("faces", faces, len(vertices), "vertices")
        if uvs is not None and face_uvs is not None:
            _check_finite("texture coordinate", uvs)
            _check_range("texture indices", face_uvs, len(uvs), "texture coordinates")
            if len(face_uvs) != len(faces):
                raise MeshError(f"has {len(faces)} faces but texture indices for {len(face_uvs)}")
        else:
            uvs = face_uvs = None
        if colors is not None and len(colors) != len(vertices):
            raise MeshError(f"has {len(vertices)} vertices but {len(colors)} vertex colours")
        return cls(
            vertices,
            np.ascontiguousarray(faces, np.int32),
            uvs,
            None if face_uvs is None else np.ascontiguousarray(face_uvs, np.int32),
            None if colors is None else np.ascontiguousarray(colors, np.uint8),
            texture_name=texture_name,
        )

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return sum(a.nbytes for f in fields(self) if isinstance(a := getattr(self, f.name), np.ndarray))


def _check_finite(what: str, values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        row = int(np.nonzero(~np.isfinite(values).all(axis=1))[0][0])
        raise MeshError(f"{what} {row} is not finite: {values[row].tolist()}")


def _check_range(what: str, indices: NDArray[np.integer], count: int, of: str) -> None:
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        raise MeshError(f"{what} use index {low if low < 0 else high}, but there are {count} {of}")
