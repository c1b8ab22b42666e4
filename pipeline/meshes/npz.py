"""Meshes as NumPy archives, with arrays named like the fields of `Mesh`; `vertices` and `faces` are required.

Objects are never unpickled, and memory is allocated only for what the archive holds.
"""

import io
import zipfile
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Material, Mesh, MeshError
from smile_pipe.pipeline.meshes.shapes import colors_to_uint8
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.texture import MAX_PIXELS, downscale_texture

# name -> NumPy kinds, number of columns; a texture is [H, W, 3]
_ARRAYS = {"vertices": ("f", 3), "faces": ("iu", 3), "uvs": ("f", 2), "face_uvs": ("iu", 3), "landmarks": ("f", 3)}
_ARRAYS |= {"colors": ("u", 3), "texture": ("u", 3)}
_MAX_INFLATED = 256 << 20  # of all arrays together, or the size of the archive if that is larger


def parse_npz(source: Source) -> Mesh:
    """Read an `.npz` file.

    Raises:
        MeshError: the file is not an archive of arrays, an array has the wrong type or shape, or the mesh is
            inconsistent.
    """
    arrays = _arrays(source)
    if "vertices" not in arrays or "faces" not in arrays:
        raise MeshError("missing arrays: `vertices` and `faces` are required")
    colors = arrays.get("colors")
    mesh = Mesh.build(
        arrays["vertices"],
        arrays["faces"],
        arrays.get("uvs"),
        arrays.get("face_uvs"),
        None if colors is None else colors_to_uint8(colors),
    )
    landmarks, texture = arrays.get("landmarks"), arrays.get("texture")
    if landmarks is not None and np.isinf(landmarks).any():
        raise MeshError("infinite landmark; use NaN for a missing one")
    if texture is not None and not 0 < texture.shape[0] * texture.shape[1] <= MAX_PIXELS:
        raise MeshError(
            f"invalid texture size: {texture.shape[1]} x {texture.shape[0]}; from 1 to {MAX_PIXELS} pixels are read"
        )
    return replace(
        mesh,
        landmarks=None if landmarks is None else np.ascontiguousarray(landmarks - mesh.origin, np.float32),
        materials=() if texture is None else (Material(image=_as_image(texture)),),
    )


def _as_image(texture: NDArray) -> NDArray[np.uint8]:
    return downscale_texture(np.ascontiguousarray(texture, np.uint8))


def _arrays(source: Source) -> dict[str, NDArray]:
    """Read the arrays of the archive, by name."""
    problem, arrays = "not an npz archive, or truncated or damaged", dict[str, NDArray]()
    left = max(source.size, _MAX_INFLATED)
    try:
        with zipfile.ZipFile(io.BytesIO(source.data)) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            for name in _ARRAYS if source.sidecars.with_materials else _ARRAYS.keys() - {"texture"}:
                size = sizes.get(f"{name}.npy", 0)
                if size > left:
                    raise MeshError(f"array {name} too large: {size} bytes; the limit is {left}")
                if f"{name}.npy" in sizes:
                    problem, left = f"unreadable array {name}: encrypted, damaged or not numeric", left - size
                    arrays[name] = _read(archive, name, size)
    except (MeshError, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy raise many types for damaged archives
        raise MeshError(problem) from error
    return arrays


def _read(archive: zipfile.ZipFile, name: str, size: int) -> NDArray:
    """Read one array of `size` bytes, including its header."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
    kinds, columns = _ARRAYS[name]
    dimensions = 3 if name == "texture" else 2
    if dtype.kind not in kinds or len(shape) != dimensions or shape[-1] != columns:
        raise MeshError(f"unsupported array {name}: type {dtype}, shape {shape}")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > size:
        raise MeshError(f"truncated array {name}: shape {shape} declared in {size} bytes")
    # NumPy reads it in parts, which need less memory than the whole file.
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
