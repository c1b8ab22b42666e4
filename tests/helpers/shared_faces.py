"""The face scans that are shared by several projects: ICT-FaceKit in one file, which may be missing."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from helpers.paths import REPOSITORY
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.meshes.mesh import Mesh

ICT_FILE = Path(os.environ.get("SMILE_PIPE_FACES", REPOSITORY.parent / "shared" / "faces")) / "ict_facekit.npz"
MISSING = f"no face scans in {ICT_FILE.parent}; set SMILE_PIPE_FACES"


def load_smiling_face() -> Mesh:
    """A smiling face with open mouth, a texture and 68 landmarks, in the canonical frame."""
    data = np.load(ICT_FILE, allow_pickle=False)
    names = data["expression_names"].tolist()
    shapes = [names.index(name) for name in ("jawOpen", "mouthSmile_L", "mouthSmile_R")]
    vertices = data["neutral"] + np.tensordot([0.5, 0.6, 0.6], data["expression"][shapes].astype(np.float32), axes=1)
    front = data["face_part"] != data["part_names"].tolist().index("head_neck")
    coarse = np.random.default_rng(3).integers(60, 230, (16, 16, 3)).astype(np.uint8)
    mesh = Mesh.build(vertices, data["faces"][front], data["uv"], data["faces_uv"][front])
    mesh = replace(mesh, texture=coarse.repeat(8, axis=0).repeat(8, axis=1), landmarks=vertices[data["landmarks68"]])
    return apply_frame(mesh, canonical_frame(mesh))
