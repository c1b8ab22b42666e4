"""The `Mesh` type: one 3D face as arrays, independent of the file format.

Every mesh from a reader has finite vertices, at least one face, indices in range, and contiguous arrays of the types
below.
"""

from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray


class MeshError(ValueError):
    """A file that cannot be read as a face scan. The message says what is wrong and where (line or byte)."""


NO_ORIGIN = (0.0, 0.0, 0.0)
# At this distance from 0, relative to the extent, float32 has steps of 1/250,000 of the extent.
_FAR = 64.0
_NUM_SAMPLES = 64  # faces whose corners are looked at

# Notes that several readers write.
EXTRA_VALUES = "rows have more values than they declare; these are left out"
FEW_CORNERS = "faces of fewer than three corners are left out"
BAD_UVS = "texture coordinates of some corners do not exist or are not finite; these corners show one pixel"
NO_UVS = "faces refer to texture coordinates, and there are none"

Wrap = Literal["repeat", "mirror", "clamp"]
"""What a texture shows beyond its edges."""


@dataclass(frozen=True, eq=False)
class Material:
    """What colours the faces that use it: an image, or without one a colour.

    Attributes:
        names: names of the image as the file gives them, unresolved and untrusted; the first that exists is used.
        image: uint8 [H, W, 3], row 0 at the top, or None if it is not read yet or there is none.
        color: red, green and blue, 0-255 (sRGB), of faces whose material names no image, or None.
        wrap: modes along u and v.
        uv_scale: factors of u and v, applied before `uv_offset`.
        uv_offset: added to u and v.
        has_uvs: False if its faces have no texture coordinates. They never show an image.
    """

    names: tuple[str, ...] = ()
    image: NDArray[np.uint8] | None = None
    color: tuple[int, int, int] | None = None
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    uv_scale: tuple[float, float] = (1.0, 1.0)
    uv_offset: tuple[float, float] = (0.0, 0.0)
    has_uvs: bool = True


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in the units and axes of its file.

    Attributes:
        vertices: float32 [V, 3], relative to `origin`.
        faces: int32 [F, 3], indices into `vertices`.
        uvs: float32 [U, 2], or None. (0, 0) is the lower left corner of the texture.
        face_uvs: int32 [F, 3], indices into `uvs`, or None. Vertices on a texture seam are not duplicated.
        colors: uint8 [V, 3], or None.
        texture: uint8 [H, W, 3], row 0 at the top, or None.
        landmarks: float32 [L, 3] in the units of `vertices`, or None. A missing point is a row of NaN.
        flow: float32 [V, 3], displacement of each vertex from the reference frame of its sequence, in the units and
            axes of `vertices`. None if it was not computed.
        materials: materials whose images are not read yet; `apply_materials` converts them to `texture` and `uvs`.
        face_materials: int32 [F], indices into `materials`, or None if all faces use the first.
        origin: point of the file's coordinates that `vertices` and `landmarks` are relative to. It is 0 unless the mesh
            is so far from 0 that float32 would be too coarse, as in survey coordinates.
        notes: what was left out or read in another way than the file says, in a few words each.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    uvs: NDArray[np.float32] | None = None
    face_uvs: NDArray[np.int32] | None = None
    colors: NDArray[np.uint8] | None = None
    texture: NDArray[np.uint8] | None = None
    landmarks: NDArray[np.float32] | None = None
    flow: NDArray[np.float32] | None = None
    materials: tuple[Material, ...] = ()
    face_materials: NDArray[np.int32] | None = None
    origin: tuple[float, float, float] = NO_ORIGIN
    notes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        vertices: NDArray[np.floating],
        faces: NDArray[np.integer],
        uvs: NDArray[np.floating] | None = None,
        face_uvs: NDArray[np.integer] | None = None,
        colors: NDArray[np.uint8] | None = None,
        materials: tuple[Material, ...] = (),
        face_materials: NDArray[np.int32] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Self:
        """Validate parsed arrays and convert them to their final types.

        Vertices that are not finite and that no face uses, as some tools leave them, become 0. So do texture
        coordinates that are not finite or do not exist, with a note.

        Args:
            vertices: [V, 3]. If they are float64 and far from 0, an origin is subtracted.
            faces: [F, 3].
            uvs: [U, 2], or None.
            face_uvs: [F, 3], or None.
            colors: [V, 3], or None.
            materials: see the class.
            face_materials: [F], in range, or None.
            notes: see the class.

        Returns:
            The mesh. It has no texture coordinates unless both `uvs` and `face_uvs` are given.

        Raises:
            MeshError: no vertices, no faces, a non-finite coordinate, an index out of range, or arrays that do not
                match.
        """
        if len(vertices) == 0 or len(faces) == 0:
            raise MeshError(f"empty mesh: {len(vertices)} vertices, {len(faces)} faces; a face scan needs both")
        _check_range("faces", faces, len(vertices), "vertices")
        origin = NO_ORIGIN if vertices.dtype == np.float32 else _far_origin(vertices, faces)
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are rejected below
            vertices = np.ascontiguousarray(vertices if origin == NO_ORIGIN else vertices - origin, np.float32)
            uvs = None if uvs is None else np.ascontiguousarray(uvs, np.float32)
        if not np.isfinite(vertices).all():
            unused = ~_used(faces, len(vertices))
            vertices = np.where(unused[:, None] & ~np.isfinite(vertices), np.float32(0), vertices)
            _check_finite("vertex", vertices)
        if uvs is not None and face_uvs is not None:
            if len(face_uvs) != len(faces):
                raise MeshError(f"texture indices do not match the faces: {len(face_uvs)} for {len(faces)} faces")
            if len(uvs) == 0:
                uvs, face_uvs, notes = None, None, (*notes, NO_UVS)
            elif not np.isfinite(uvs).all() or not 0 <= int(face_uvs.min()) <= int(face_uvs.max()) < len(uvs):
                valid = (face_uvs >= 0) & (face_uvs < len(uvs))
                face_uvs, notes = np.where(valid, face_uvs, len(uvs)), (*notes, BAD_UVS)
                uvs = np.append(np.where(np.isfinite(uvs).all(axis=1, keepdims=True), uvs, 0), [[0, 0]], axis=0)
        else:
            uvs = face_uvs = None
        if colors is not None and len(colors) != len(vertices):
            raise MeshError(f"colours do not match the vertices: {len(colors)} for {len(vertices)} vertices")
        return cls(
            vertices,
            np.ascontiguousarray(faces, np.int32),
            uvs,
            None if face_uvs is None else np.ascontiguousarray(face_uvs, np.int32),
            None if colors is None else np.ascontiguousarray(colors, np.uint8),
            materials=materials,
            face_materials=face_materials,
            origin=origin,
            notes=notes,
        )

    @property
    def texture_name(self) -> str:
        """The first name of an image that the file gives, unresolved and untrusted, or ""."""
        return next((name for material in self.materials for name in material.names), "")

    @property
    def is_coarse(self) -> bool:
        """Whether the mesh is so far from 0 that float32 is too coarse for its coordinates."""
        return _far_origin(self.vertices, self.faces) != NO_ORIGIN

    @property
    def is_used(self) -> NDArray[np.bool_]:
        """For each vertex, whether a face uses it, [V]."""
        return _used(self.faces, len(self.vertices))

    @property
    def nbytes(self) -> int:
        """Total size of all arrays in bytes."""
        return sum(a.nbytes for f in fields(self) if isinstance(a := getattr(self, f.name), np.ndarray))


def _far_origin(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> tuple[float, float, float]:
    """Return the median of the vertices if it is far from 0 relative to their extent, else 0."""
    corners = vertices[faces[:: -(-len(faces) // _NUM_SAMPLES)].ravel()].astype(np.float64)
    corners = np.sort(corners[np.isfinite(corners).all(axis=1)], axis=0)
    if len(corners) == 0:
        return NO_ORIGIN
    low, middle, high = (corners[len(corners) * tenths // 10] for tenths in (1, 5, 9))
    return NO_ORIGIN if np.abs(middle).max() <= _FAR * (high - low).max() else tuple(middle.tolist())


def _used(faces: NDArray[np.integer], num_vertices: int) -> NDArray[np.bool_]:
    return np.bincount(faces.ravel(), minlength=num_vertices) > 0


def _check_finite(name: str, values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        row = int(np.nonzero(~np.isfinite(values).all(axis=1))[0][0])
        raise MeshError(f"{name} {row} is not finite: {values[row].tolist()}")


def _check_range(name: str, indices: NDArray[np.integer], count: int, target: str) -> None:
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        raise MeshError(
            f"index out of range: {name} use index {low if low < 0 else high}, but there are {count} {target}"
        )
