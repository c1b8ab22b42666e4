"""What is generated for each subject, and the file names: scans like BU-3DFE, sequences like BU-4DFE."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.face_model.actor import LEVELS, Subject, Timing, animate, sample_action_units
from smile_pipe.pipeline.face_model.interface import FaceModel
from smile_pipe.pipeline.face_model.scan_noise import add_pose_and_noise, sample_head_poses, simulate_scan
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.synth.files import NUM_BND_LANDMARKS, ScanPaths
from smile_pipe.shards.images import encode_image
from smile_pipe.shards.storage import StoragePath

# Nominal ancestry code in the names of scans.
ANCESTRY = "WH"
SEQUENCE_FOLDERS = {"AN": "Angry", "DI": "Disgust", "FE": "Fear", "HA": "Happy", "SA": "Sad", "SU": "Surprise"}
BND_FOLDER = "BU4DFE_BND_V1.1"
# Names of sequence files have three digits for the frame.
MAX_FRAMES = 1000
# Seeds of a sequence's timing and performance; scans use their level, from 0 to 4, in the same position.
_TIMING_SEED, _PERFORMANCE_SEED = 5, 6


@dataclass(frozen=True)
class ScanLayout:
    """The scans of each subject: one neutral scan, and each expression at each level.

    Attributes:
        seed: Random seed of the data set.
        levels: Intensity levels.
    """

    seed: int
    levels: tuple[int, ...]

    def paths(self, out: StoragePath, subject: Subject, num_landmarks: int) -> list[ScanPaths]:
        """Return the paths of the subject's scans."""
        name = f"{subject.sex}{subject.number:04d}"
        ending = "_F3D.bnd" if num_landmarks == NUM_BND_LANDMARKS else "_F3D_lmk68.txt"
        stems = [f"{name}_{code}{level:02d}{ANCESTRY}" for code, level in self._expression_levels()]
        folder = out / name
        return [ScanPaths(folder / f"{s}_F3D.wrl", folder / f"{s}_F2D.png", folder / f"{s}{ending}") for s in stems]

    def meshes(self, model: FaceModel, subject: Subject) -> Iterator[Mesh]:
        """Generate the subject's scans, in the order of `paths`."""
        for code, level in self._expression_levels():
            rng = _generator(self.seed, subject, code, level)
            units = sample_action_units(code, level, subject.style, rng)
            yield simulate_scan(model.mesh(subject.identity, units), rng)

    def encode_texture(self, texture: NDArray[np.uint8]) -> bytes:
        """Encode the texture as PNG."""
        buffer = io.BytesIO()
        Image.fromarray(texture).save(buffer, "png")
        return buffer.getvalue()

    def _expression_levels(self) -> list[tuple[str, int]]:
        return [("NE", 0), *product((code for code in EXPRESSIONS if code != "NE"), self.levels)]


@dataclass(frozen=True)
class SequenceLayout:
    """The sequences of each subject: one of each basic expression, from neutral to neutral.

    Attributes:
        seed: Random seed of the data set.
        num_frames: Length of each sequence.
    """

    seed: int
    num_frames: int

    def paths(self, out: StoragePath, subject: Subject, num_landmarks: int) -> list[ScanPaths]:
        """Return the paths of the frames of the subject's sequences, sequence by sequence."""
        paths = []
        for code in SEQUENCE_FOLDERS:
            name = self.sequence_name(subject, code)
            for stem in (f"{frame:03d}" for frame in range(self.num_frames)):
                if num_landmarks == NUM_BND_LANDMARKS:
                    landmarks = out / BND_FOLDER / name / f"{stem}.bnd"
                else:
                    landmarks = out / name / f"{stem}_lmk68.txt"
                paths.append(ScanPaths(out / name / f"{stem}.wrl", out / name / f"{stem}.jpg", landmarks))
        return paths

    def meshes(self, model: FaceModel, subject: Subject) -> Iterator[Mesh]:
        """Generate the frames in the order of `paths`; all have the same faces, so vertices correspond."""
        for code in SEQUENCE_FOLDERS:
            rng = _generator(self.seed, subject, code, _PERFORMANCE_SEED)
            apex = sample_action_units(code, max(LEVELS), subject.style, rng)
            frames = animate(apex, self.timing(subject, code), self.num_frames, rng)
            for units, pose in zip(frames, sample_head_poses(self.num_frames, rng), strict=True):
                yield add_pose_and_noise(model.mesh(subject.identity, units), pose, rng)

    def encode_texture(self, texture: NDArray[np.uint8]) -> bytes:
        """Encode the texture as JPEG."""
        return encode_image("rgb", texture)

    def sequence_name(self, subject: Subject, code: str) -> str:
        """Return the folder of a sequence, such as `F001/Happy`."""
        return f"{subject.sex}{subject.number:03d}/{SEQUENCE_FOLDERS[code]}"

    def timing(self, subject: Subject, code: str) -> Timing:
        """Return the timing of the subject's expression."""
        rng = _generator(self.seed, subject, code, _TIMING_SEED)
        return Timing.sample(code, self.num_frames, subject.style.tempo, rng)


Layout = ScanLayout | SequenceLayout


def _generator(seed: int, subject: Subject, code: str, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, subject.number, list(EXPRESSIONS).index(code), stream])
