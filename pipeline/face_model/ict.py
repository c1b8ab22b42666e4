"""ICT-FaceKit as a face model: scanned identities and ARKit-style blend shapes, driven by action units."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model.ict_files import IctModel, load_ict
from smile_pipe.pipeline.face_model.ict_texture import build_atlas, paint
from smile_pipe.pipeline.face_model.interface import ActionUnits, Appearance, Identity
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.shards.errors import UsageError

MM_PER_CM = 10.0
# The modes are principal components of scans; slightly less than their full variance keeps all faces plausible.
IDENTITY_SCALE = 0.85

# Blend shapes of each action unit, with weights; a name without a side stands for `name_L` and `name_R` if they exist.
SHAPES: dict[str, dict[str, float]] = {
    "AU1": {"browInnerUp": 1.0},
    "AU2": {"browOuterUp": 1.0},
    "AU4": {"browDown": 1.0},
    "AU5": {"eyeWide": 1.0},
    "AU6": {"cheekSquint": 1.0, "eyeSquint": 0.35},
    "AU7": {"eyeSquint": 0.9},
    "AU9": {"noseSneer": 1.0, "browDown": 0.2},
    "AU10": {"mouthUpperUp": 0.9},
    "AU12": {"mouthSmile": 1.0},
    "AU14": {"mouthDimple": 1.0},
    "AU15": {"mouthFrown": 1.0},
    "AU16": {"mouthLowerDown": 0.9},
    "AU17": {"mouthShrugLower": 0.8},
    "AU18": {"mouthPucker": 0.8},
    "AU20": {"mouthStretch": 1.0},
    "AU23": {"mouthRollLower": 0.4, "mouthRollUpper": 0.35},
    "AU24": {"mouthPress": 0.9},
    "AU25": {"mouthUpperUp": 0.25, "mouthLowerDown": 0.4},
    "AU26": {"jawOpen": 0.6},
    "AU43": {"eyeBlink": 1.0},
    "AU64": {"eyeLookDown": 0.9},
}


class IctFace:
    """ICT-FaceKit; see `smile_pipe.pipeline.face_model.interface.FaceModel`.

    Args:
        path: The model as a packed `.npz` file, or a checkout of its repository.
        is_cropped: Whether it is cropped to the narrow face, like a scan of BU-3DFE, or has ears, head and neck.

    Raises:
        UsageError: `path` is not the model, or the model lacks a blend shape that an action unit needs.
    """

    name = "ict-facekit"

    def __init__(self, path: Path, is_cropped: bool = True) -> None:
        self._model = load_ict(path, is_cropped)
        self.landmarks = self._model.landmarks
        missing = sorted(
            {name for parts in SHAPES.values() for name in parts if not _shapes_by_side(self._model, name)}
        )
        if missing:
            raise UsageError(f"the model lacks the blend shape {missing[0]}", field="face_model", value=path)
        self._uvs, self._face_uvs = build_atlas(self._model)

    def identity(self, rng: np.random.Generator) -> Identity:
        """Draw a subject; mode weights are normally distributed, clipped at 2.5 standard deviations."""
        shape = np.clip(rng.normal(size=len(self._model.identity)), -2.5, 2.5) * IDENTITY_SCALE
        return Identity(shape, Appearance.sample(rng))

    def mesh(self, identity: Identity, action_units: ActionUnits) -> Mesh:
        """Build the mesh of a subject with action units; see `FaceModel.mesh`."""
        model = self._model
        vertices = model.neutral + np.tensordot(identity.shape.astype(np.float32), model.identity, 1)
        for unit, (left, right) in action_units.items():
            for name, share in SHAPES[unit].items():
                for shape, side in _shapes_by_side(model, name):
                    strength = {"L": left, "R": right, "": (left + right) / 2}[side]
                    vertices += np.float32(share * strength) * model.expression[shape]
        return Mesh.build(vertices * MM_PER_CM, model.faces, self._uvs, self._face_uvs)

    def texture(self, identity: Identity, size: int) -> NDArray[np.uint8]:
        """Paint the texture of a subject; see `FaceModel.texture`."""
        return paint(self._model, identity.appearance, size)


def _shapes_by_side(model: IctModel, name: str) -> list[tuple[str, str]]:
    """Return the blend shapes that `name` stands for, each with its side; empty if the model has none."""
    names = ((name, ""), (f"{name}_L", "L"), (f"{name}_R", "R"))
    return [(shape, side) for shape, side in names if shape in model.expression]
