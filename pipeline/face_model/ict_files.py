"""Read ICT-FaceKit (light) by the USC Institute for Creative Technologies, from one `.npz` or a checkout.

The packed file has the arrays `neutral` [V, 3], `faces` and `faces_uv` [F, 3], `uv` [U, 2], `identity` [K, V, 3],
`expression` [E, V, 3] with `expression_names` [E], `landmarks68` [68], `face_material` [F] with `material_names`. The
checkout is the repository's folder, with `FaceXModel/generic_neutral_mesh.obj`, one OBJ file per shape, and
`vertex_indices.json`. Both are in centimetres, +x to the subject's left, +y up, +z out of the face.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.shards.errors import UsageError

# Vertex ranges from the README of ICT-FaceKit: the narrow face area (no ears, like a BU-3DFE scan), and everything
# behind its openings, from the mouth socket to the eyeballs.
NARROW_FACE = range(0, 6706)
BEHIND = range(11248, 24591)


@dataclass(frozen=True, eq=False)
class IctModel:
    """The model, whole or cropped to the narrow face and the parts behind it; centimetres.

    Attributes:
        neutral: float32 [V, 3], the mean face.
        identity: float32 [K, V, 3], displacements of the identity modes.
        expression: Displacements of the blend shapes by name, float32 [V, 3].
        faces: int32 [F, 3].
        uvs: float32 [U, 2], in the unit square of each face's material.
        face_uvs: int32 [F, 3].
        materials: str [F].
        landmarks: int [68], vertices.
    """

    neutral: NDArray[np.float32]
    identity: NDArray[np.float32]
    expression: dict[str, NDArray[np.float32]]
    faces: NDArray[np.int32]
    uvs: NDArray[np.float32]
    face_uvs: NDArray[np.int32]
    materials: NDArray[np.str_]
    landmarks: NDArray[np.intp]


def load_ict(path: Path, is_cropped: bool = True) -> IctModel:
    """Read the model from a packed file or a checkout.

    Args:
        path: The file or the folder.
        is_cropped: Whether to keep only the narrow face and the parts behind it; otherwise ears, head and neck stay.

    Raises:
        UsageError: `path` is neither, or a part of the model is missing.
    """
    try:
        model = _from_checkout(path) if path.is_dir() else _from_npz(path)
        return _reduced(model, (NARROW_FACE, BEHIND) if is_cropped else (range(len(model.neutral)),))
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename or path} does not exist", field="face_model", value=path) from None
    except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile, zlib.error) as error:
        raise UsageError(
            f"neither a packed ICT-FaceKit (.npz) nor a checkout of its repository ({error})",
            field="face_model",
            value=path,
        ) from None


def _from_npz(path: Path) -> IctModel:
    arrays = np.load(path, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError("one array instead of several")
    with arrays:
        names = [str(name) for name in arrays["expression_names"]]
        shapes = arrays["expression"].astype(np.float32)
        return IctModel(
            neutral=arrays["neutral"].astype(np.float32),
            identity=arrays["identity"].astype(np.float32),
            expression=dict(zip(names, shapes, strict=True)),
            faces=arrays["faces"].astype(np.int32),
            uvs=arrays["uv"].astype(np.float32),
            face_uvs=arrays["faces_uv"].astype(np.int32),
            materials=arrays["material_names"].astype(str)[arrays["face_material"]],
            landmarks=arrays["landmarks68"].astype(np.intp),
        )


def _from_checkout(path: Path) -> IctModel:
    folder = path / "FaceXModel" if (path / "FaceXModel").is_dir() else path
    indices = json.loads((folder / "vertex_indices.json").read_text(encoding="utf-8"))
    generic = folder / "generic_neutral_mesh.obj"
    mesh = read_mesh(generic)
    if mesh.uvs is None or mesh.face_uvs is None:
        raise ValueError(f"{generic.name} has no texture coordinates")
    identities = sorted(folder.glob("identity[0-9]*.obj"))
    if not identities:
        raise FileNotFoundError(None, None, str(folder / "identity000.obj"))
    return IctModel(
        neutral=mesh.vertices,
        identity=np.stack([read_mesh(file).vertices - mesh.vertices for file in identities]),
        expression={
            name: read_mesh(folder / f"{name}.obj").vertices - mesh.vertices for name in indices["expressions"]
        },
        faces=mesh.faces,
        uvs=mesh.uvs,
        face_uvs=mesh.face_uvs,
        materials=_face_materials(generic),
        landmarks=np.array(indices["idx_to_landmark_verts"], np.intp),
    )


def _face_materials(path: Path) -> NDArray[np.str_]:
    """Return the material of each triangle of an OBJ file."""
    names, material = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        match line.split():
            case ["usemtl", name]:
                material = name
            case ["f", *corners]:
                names += [material] * (len(corners) - 2)
    return np.array(names)


def _reduced(model: IctModel, parts: tuple[range, ...]) -> IctModel:
    if len(model.landmarks) != 68:
        raise ValueError(f"has {len(model.landmarks)} landmarks, not 68")
    faces = model.faces
    keep = np.zeros(len(faces), bool)
    for part in parts:
        keep |= ((faces >= part.start) & (faces < part.stop)).all(axis=1)
    used, numbered = np.unique(np.concatenate([faces[keep].ravel(), model.landmarks]), return_inverse=True)
    used_uvs, numbered_uvs = np.unique(model.face_uvs[keep], return_inverse=True)
    num_corners = int(keep.sum()) * 3
    # Coordinates can be outside the unit square (UDIM tiles); only the position within the tile is used.
    return IctModel(
        neutral=model.neutral[used],
        identity=np.ascontiguousarray(model.identity[:, used]),
        expression={name: shape[used] for name, shape in model.expression.items()},
        faces=numbered[:num_corners].reshape(-1, 3).astype(np.int32),
        uvs=np.mod(model.uvs[used_uvs], 1.0),
        face_uvs=numbered_uvs.reshape(-1, 3).astype(np.int32),
        materials=model.materials[keep],
        landmarks=numbered[num_corners:].astype(np.intp),
    )
