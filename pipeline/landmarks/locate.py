"""Which landmarks a scan is aligned by: those of its file, those that are found on its surface, or none."""

from dataclasses import replace

import numpy as np

from smile_pipe.pipeline.landmarks.alignment import drop_wrong_landmarks
from smile_pipe.pipeline.landmarks.axes import matrix_of_axes
from smile_pipe.pipeline.landmarks.detection import detect
from smile_pipe.pipeline.landmarks.landmark_fit import to_known_size
from smile_pipe.pipeline.landmarks.length_units import LengthUnit
from smile_pipe.pipeline.landmarks.source import LOW_CONFIDENCE, MIN_CONFIDENCE, LandmarkSource
from smile_pipe.pipeline.meshes.mesh import NO_ORIGIN, Mesh


def locate_landmarks(
    mesh: Mesh, axes: str, source: LandmarkSource, units: LengthUnit = "auto"
) -> tuple[Mesh, float | None, str]:
    """Give a scan the landmarks that it is aligned by.

    Args:
        mesh: the scan with the landmarks of its file, if they are usable.
        axes: see `parse_axes`; only a mirrored scan needs them.
        source: see `smile_pipe.pipeline.landmarks.source`.
        units: unit of the scan.

    Returns:
        The scan with its landmarks or without, the confidence of the detection from 0 to 1 (None if these are not
        detected), and why a detection is not used or not certain, or "".
    """
    if source in ("detect", "none"):
        mesh = replace(mesh, landmarks=None)
    has_known = mesh.landmarks is not None and to_known_size(mesh.landmarks) is not None
    if has_known or source in ("file", "none"):
        return mesh, None, ""
    matrix = matrix_of_axes(axes)
    if np.linalg.det(matrix) > 0:
        found = detect(mesh, units)
        points = None if found is None else found.landmarks
    else:
        # A mirrored face is seen in a mirror: its left side would be taken for its right side.
        vertices = (mesh.vertices @ matrix).astype(np.float32)
        found = detect(replace(mesh, vertices=vertices, origin=NO_ORIGIN), units)
        points = None if found is None else found.landmarks @ matrix.T
    confidence = 0.0 if found is None else found.confidence
    if found is None or points is None or confidence < MIN_CONFIDENCE:
        return mesh, None, f"no face found (confidence {confidence:.2f}); aligned by its outer shape"
    seen = np.where(found.confidences[:, None] > 0, points, np.nan).astype(np.float32)
    located, _ = drop_wrong_landmarks(replace(mesh, landmarks=seen))
    if located.landmarks is None:
        return mesh, None, "no face found (the points that were found do not form one); aligned by its outer shape"
    doubt = f"landmarks were found with a low confidence ({confidence:.2f})" if confidence < LOW_CONFIDENCE else ""
    return located, confidence, doubt
