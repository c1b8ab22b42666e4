"""Synthetic sequences as BU-4DFE lays out its own: six expressions a subject, each from neutral to neutral."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.face_model.actor import LEVELS, Subject, Timing, act, play
from smile_pipe.pipeline.face_model.interface import FaceModel
from smile_pipe.pipeline.face_model.scan_noise import hold, sway
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.synth.files import NUM_BND_LANDMARKS, ScanPaths
from smile_pipe.shards.images import encode_image
from smile_pipe.shards.storage import StoragePath

FOLDERS = {"AN": "Angry", "DI": "Disgust", "FE": "Fear", "HA": "Happy", "SA": "Sad", "SU": "Surprise"}
LANDMARKS_FOLDER = "BU4DFE_BND_V1.1"
# Names have three digits for the subject and for the frame.
MAX_SUBJECTS, MAX_FRAMES = 999, 1000
# Where the random numbers of scans have a level, from 0 to 4.
_COURSE, _PERFORMANCE = 5, 6


@dataclass(frozen=True)
class Sequences:
    """What is made of each subject: a sequence of each expression."""

    seed: int
    num_frames: int

    def paths(self, out: StoragePath, subject: Subject, num_landmarks: int) -> list[ScanPaths]:
        """Where the frames of the subject's sequences belong, sequence by sequence."""
        paths = []
        for code in FOLDERS:
            inside = self.name(subject, code)
            for stem in (f"{frame:03d}" for frame in range(self.num_frames)):
                beside = out / inside / f"{stem}_lmk68.txt"
                apart = out / LANDMARKS_FOLDER / inside / f"{stem}.bnd"
                landmarks = apart if num_landmarks == NUM_BND_LANDMARKS else beside
                paths.append(ScanPaths(out / inside / f"{stem}.wrl", out / inside / f"{stem}.jpg", landmarks))
        return paths

    def meshes(self, model: FaceModel, subject: Subject) -> Iterator[Mesh]:
        """The frames, in the order of `paths`; all frames have the same faces, so vertices correspond."""
        for code in FOLDERS:
            rng = self._rng(subject, code, _PERFORMANCE)
            apex = act(code, max(LEVELS), subject.manner, rng)
            frames = play(apex, self.timing(subject, code), self.num_frames, rng)
            for units, pose in zip(frames, sway(self.num_frames, rng), strict=True):
                yield hold(model.mesh(subject.identity, units), pose, rng)

    def encode(self, texture: NDArray[np.uint8]) -> bytes:
        """The texture as JPEG."""
        return encode_image("rgb", texture)

    def name(self, subject: Subject, code: str) -> str:
        """The folder of a sequence, such as `F001/Happy`."""
        return f"{subject.sex}{subject.number:03d}/{FOLDERS[code]}"

    def timing(self, subject: Subject, code: str) -> Timing:
        """When the subject's expression comes and goes."""
        return Timing.sample(code, self.num_frames, subject.manner.tempo, self._rng(subject, code, _COURSE))

    def _rng(self, subject: Subject, code: str, what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, subject.number, list(EXPRESSIONS).index(code), what])
