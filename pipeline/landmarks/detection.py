"""Detection of the 68 landmarks of Multi-PIE on a scan without any, from its shape alone.

A first network looks at the scan from all sides and finds 13 stable points; the similarity of a mean face that most of
them agree with is the pose of the face. A second network looks at the face from the front and from both sides and finds
all landmarks; this is repeated with the better pose. The scan can have any pose, unit and up axis, but not be mirrored.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.landmarks.consensus import Candidates, Pose, ShapeModel, agree, find_pose, fit_pose
from smile_pipe.pipeline.landmarks.heatmap_network import HeatmapNetwork, find_peaks
from smile_pipe.pipeline.landmarks.length_units import LengthUnit, scale_limits
from smile_pipe.pipeline.landmarks.source import WEIGHTS
from smile_pipe.pipeline.landmarks.view_images import (
    bounds,
    directions_over_sphere,
    draw_views,
    ends,
    look_along,
    rotation_about,
)
from smile_pipe.pipeline.meshes.mesh import Mesh

Floats = NDArray[np.float64]
Cameras: TypeAlias = tuple[Floats, Floats, Floats]
"""Rotations, centres and half spans of views, see `Views`."""

NUM_LANDMARKS = 68
# Points of the first network: ends of the outline, chin, corners of the eyes, root, tip and wings of the nose, corners
# of the mouth.
COARSE = (0, 16, 8, 36, 39, 42, 45, 27, 30, 31, 35, 48, 54)
NUM_DIRECTIONS, COARSE_SIZE = 26, 64
# Half of the image relative to half of the extent of the scan.
MARGIN = 1.1
# Views of the second look of the first network: turns about the vertical and the horizontal axis, and half of the image
# in millimetres.
ZOOM_TURNS, ZOOM_HALF_SPAN = ((0, 0), (40, 0), (-40, 0), (0, 35), (0, -35)), 125.0
FINE_YAWS, FINE_SIZE, FINE_HALF_SPAN, NUM_FINE = (0.0, 35.0, -35.0), 96, 102.0, 2
# With less support, the face may be too small: the ends of the scan are looked at one by one, in these shares of half
# of its extent. The head of a standing person is a seventh of the height.
ENOUGH_SUPPORT, END_SIZES = 0.4, (0.25, 0.5)
# A surface of fewer faces has no eyes and no mouth.
MIN_FACES = 400
NUM_THREADS = 2


@dataclass(frozen=True, eq=False)
class Detection:
    """Landmarks that were found.

    Attributes:
        landmarks: float64 [68, 3] in the axes and the unit of the mesh, relative to its origin, in the order of
            Multi-PIE.
        confidences: float64 [68], from 0 to 1, of each landmark. A landmark of confidence 0 was not seen; it is placed
            by its neighbours.
        confidence: from 0 to 1, that this is a face.
        residual: root mean square distance of the landmarks from the fitted mean face, in its millimetres.
    """

    landmarks: Floats
    confidences: Floats
    confidence: float
    residual: float


@dataclass(frozen=True, eq=False)
class LandmarkDetector:
    """The networks and the mean face.

    Attributes:
        coarse, fine: the first and the second network.
        faces: the landmarks of faces, about the origin of the canonical frame.
    """

    coarse: HeatmapNetwork
    fine: HeatmapNetwork
    faces: ShapeModel

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read the weights from a file that `smile-pipe train-landmarks` wrote; by default the shipped ones.

        Raises:
            OSError: the file cannot be read.
            KeyError, ValueError: it is not a file of weights.
        """
        with np.load(path or str(files("smile_pipe.pipeline.landmarks") / WEIGHTS), allow_pickle=False) as arrays:
            coarse, fine = (HeatmapNetwork.from_arrays(arrays, name) for name in ("coarse", "fine"))
            return cls(coarse, fine, ShapeModel(*(arrays[name].astype(np.float64) for name in ("mean", "modes"))))

    def detect(self, mesh: Mesh, units: LengthUnit = "auto") -> Detection | None:
        """Find the landmarks of a scan; see `detect`."""
        scales = scale_limits(units)
        pose = self._find_face(mesh, scales)
        if pose is None:
            return None
        points, confidences = pose.to_scan(self.faces.mean), np.zeros(NUM_LANDMARKS)
        support = pose.support
        for _ in range(NUM_FINE):
            turns = [rotation_about((0, 1, 0), yaw) for yaw in FINE_YAWS]
            found = _look(self.fine, mesh, _around(pose, turns, FINE_HALF_SPAN), FINE_SIZE)
            points, confidences = agree(found, self.faces, pose)
            pose = fit_pose(self.faces.mean, points, confidences)
        if not scales[0] <= pose.scale <= scales[1]:
            return None
        squares = ((points - pose.to_scan(self.faces.mean)) ** 2).sum(axis=1)
        residual = float(np.sqrt((confidences * squares).sum() / (confidences.sum() + 1e-9))) / pose.scale
        confidence = float(np.sqrt(support * confidences.mean()))
        return Detection(points, np.round(confidences, 6), round(confidence, 6), round(residual, 4))

    def _find_face(self, mesh: Mesh, scales: tuple[float, float]) -> Pose | None:
        """Find the pose of the face with the first network, in the whole scan, or else at one of its ends."""
        if len(mesh.faces) < MIN_FACES:
            return None
        center, extent = bounds(mesh)
        if extent <= 0:
            return None
        best = self._search(mesh, center, MARGIN * extent, scales)
        if best is None or best.support < ENOUGH_SUPPORT:
            for end, half_span in ends(mesh, END_SIZES):
                pose = self._search(mesh, end, half_span, scales)
                if pose is not None and (best is None or pose.support > best.support):
                    best = pose
                if best is not None and best.support >= ENOUGH_SUPPORT:
                    break
        return best

    def _search(self, mesh: Mesh, center: Floats, half_span: float, scales: tuple[float, float]) -> Pose | None:
        """Look at a region from all sides, then from around the face that was found there."""
        mean = self.faces.mean[list(COARSE)]
        rotations = look_along(directions_over_sphere(NUM_DIRECTIONS))
        num = len(rotations)
        cameras = rotations, np.repeat(center[None], num, 0), np.full(num, half_span)
        pose = find_pose(_look(self.coarse, mesh, cameras, COARSE_SIZE), mean, scales)
        if pose is None:
            return None
        turns = [_turn(yaw, pitch) for yaw, pitch in ZOOM_TURNS]
        return find_pose(_look(self.coarse, mesh, _around(pose, turns, ZOOM_HALF_SPAN), COARSE_SIZE), mean, scales)


def detect(mesh: Mesh, units: LengthUnit = "auto") -> Detection | None:
    """Find the 68 landmarks of a scan with the shipped weights.

    Args:
        mesh: a scan in any pose, unit and with any up axis; texture and landmarks are not used.
        units: unit of the scan; a face of another size than in this unit is not found.

    Returns:
        The landmarks, or None if nothing looks like a face. A scan without a face can also give a detection of low
        confidence.
    """
    return shipped_detector().detect(mesh, units)


@lru_cache(maxsize=1)
def shipped_detector() -> LandmarkDetector:
    """Load the shipped weights once."""
    return LandmarkDetector.load()


def _around(pose: Pose, turns: list[Floats], half_span: float) -> Cameras:
    """Views of a face, turned from the front."""
    rotations = np.array([_product(pose.R.T, turn) for turn in turns])
    return rotations, np.repeat(pose.T[None], len(turns), 0), np.full(len(turns), half_span * pose.scale)


def _turn(yaw: float, pitch: float) -> Floats:
    return _product(rotation_about((0, 1, 0), yaw), rotation_about((1, 0, 0), pitch))


def _product(a: Floats, b: Floats) -> Floats:
    return (a[:, :, None] * b[None]).sum(axis=1)


def _look(network: HeatmapNetwork, mesh: Mesh, cameras: Cameras, size: int) -> Candidates:
    """Draw views, find the landmarks in each, and bring them onto the surface."""

    def look(numbers: NDArray[np.intp]) -> list[tuple[Floats, Floats]]:
        rotations, centers, half_spans = (values[numbers] for values in cameras)
        views, found = draw_views(mesh, rotations, centers, half_spans, size), []
        for view, image in enumerate(views.images):
            heatmaps = network.heatmaps(image)
            peaks = find_peaks(heatmaps)
            points = views.lift(view, peaks[:, :2] / heatmaps.shape[0])
            found.append((points, np.where(np.isnan(points[:, 0]), 0.0, peaks[:, 2])))
        return found

    parts = np.array_split(np.arange(len(cameras[0])), NUM_THREADS)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        points, heights = zip(*chain.from_iterable(threads.map(look, parts)), strict=True)
    return Candidates(np.array(points), np.array(heights))
