"""The choice of the landmarks that scans are aligned by, as options and manifests name it."""

from functools import cache
from importlib.resources import files
from typing import Literal

from blake3 import blake3

LandmarkSource = Literal["auto", "file", "detect", "none"]
LANDMARKS_HELP = (
    "Landmarks that scans are aligned by: file takes those of their files, detect finds 68 on the surface, auto finds "
    "them where the files have none that fit, none aligns by the outer shape."
)
# A detection of less confidence is not used: it is no face, or not its place. Thresholds from 0.3 to 0.5 separate 312
# generated faces from 200 scenes without one (README.md). Below the second limit the detection is used, with a note.
MIN_CONFIDENCE, LOW_CONFIDENCE = 0.35, 0.5
WEIGHTS = "detector.npz"
"""The shipped weights of the detector, a file of this package."""


@cache
def detector_version() -> str:
    """Digest of the weights of the detector, on which the images of scans without landmarks depend."""
    return blake3((files("smile_pipe.pipeline.landmarks") / WEIGHTS).read_bytes()).hexdigest(length=8)
