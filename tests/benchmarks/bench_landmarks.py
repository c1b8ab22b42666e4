"""Errors and time of the landmark detector on faces with known landmarks, in any pose.

    python tests/benchmarks/bench_landmarks.py [FOLDER ...] [--synth SUBJECTS] [--weights FILE] [--sheet FILE.png]

A FOLDER holds meshes with their 68 landmarks as `*_lmk68.txt` next to each. `--synth` generates faces as
`smile-pipe synth` does. Every scan is turned: by one of the 24 rotations that bring axes to axes, one after the other,
and then by a random rotation of up to `--tilt` degrees (0 by default), and is scaled by a random factor.

Prints Markdown tables: the error in millimetres (of the scan; `--unit` gives them for units other than mm) by part of
the face, the share of scans whose canonical frame from the found landmarks is more than 10 degrees or 10 mm from that
of the known ones, and the time of a scan. With `--negatives N`, also how well the confidence separates scenes without a
face from faces.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_pipe.pipeline.face_model.actor import Subject
from smile_pipe.pipeline.face_model.multi_pie import multi_pie_vertices
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmark_training.randomise import scene_without_face
from smile_pipe.pipeline.landmarks.alignment import canonical_frame
from smile_pipe.pipeline.landmarks.detection import Detection, LandmarkDetector
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM
from smile_pipe.pipeline.landmarks.view_images import draw_views
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.synth.layouts import ScanLayout

PARTS = {
    "eyes": range(36, 48),
    "brows": range(17, 27),
    "nose": range(27, 36),
    "mouth": range(48, 68),
    "jaw": range(17),
    "all but jaw": range(17, 68),
    "all": range(68),
}
MAX_TURN, MAX_SHIFT = 10.0, 10.0  # degrees, mm
SIZE = 256


@dataclass(frozen=True)
class Result:
    """One scan: errors [68] in mm, turn (degrees) and shift (mm) of the frame, confidences, seconds, and a picture."""

    name: str
    errors: NDArray[np.float64]
    turn: float
    shift: float
    confidences: NDArray[np.float64]
    confidence: float
    seconds: float
    picture: NDArray[np.uint8]


def _rotations() -> list[NDArray[np.float64]]:
    """The 24 rotations that bring axes to axes."""
    signed = [
        np.eye(3)[list(order)] * signs
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    return [matrix for matrix in signed if np.linalg.det(matrix) > 0]


def _random_rotation(rng: np.random.Generator, degrees: float) -> NDArray[np.float64]:
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(0, degrees))
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def _folder_scans(folder: Path, unit: float) -> Iterator[tuple[str, Mesh]]:
    for path in sorted(folder.glob("**/*_lmk68.txt")):
        mesh = next(p for p in path.parent.glob(path.name.removesuffix("_lmk68.txt") + ".*") if p.suffix != ".mtl")
        scan, points = read_mesh(mesh), np.loadtxt(path)
        yield (
            mesh.stem,
            Mesh(scan.vertices * np.float32(unit), scan.faces, landmarks=(points * unit).astype(np.float32)),
        )


def _synth_scans(num_subjects: int) -> Iterator[tuple[str, Mesh]]:
    model, layout = ParametricFace(), ScanLayout(seed=1, levels=(2, 4))
    vertices = multi_pie_vertices(model.chart)
    for number in range(1, num_subjects + 1):
        for index, mesh in enumerate(layout.meshes(model, Subject.create(model, 1, number))):
            yield f"synth {number} {index}", replace(mesh, landmarks=mesh.vertices[vertices])


def _measure(detector: LandmarkDetector, name: str, mesh: Mesh, number: int, tilt: float) -> Result:
    rng = np.random.default_rng(number)
    rotation = _rotations()[number % 24] @ _random_rotation(rng, tilt)
    scale, shift = float(np.exp(rng.uniform(np.log(0.001), np.log(10)))), rng.normal(0, 100, 3)
    assert mesh.landmarks is not None
    known = (mesh.landmarks.astype(np.float64) @ rotation + shift) * scale
    vertices = (mesh.vertices.astype(np.float64) @ rotation + shift) * scale
    scan = Mesh.build(vertices.astype(np.float32), mesh.faces)
    start = time.perf_counter()
    found = detector.detect(scan)
    seconds = time.perf_counter() - start
    if found is None:
        none = np.zeros((SIZE, SIZE, 3), np.uint8)
        return Result(name, np.full(68, np.inf), 180.0, np.inf, np.zeros(68), 0.0, seconds, none)
    errors = np.linalg.norm(found.landmarks - known, axis=1) / scale
    truth = canonical_frame(replace(scan, landmarks=known.astype(np.float32)))
    frame = canonical_frame(replace(scan, landmarks=found.landmarks.astype(np.float32)))
    relative = np.array(truth.R).T @ np.array(frame.R)
    turn = float(np.degrees(np.arccos(np.clip((np.trace(relative) - 1) / 2, -1, 1))))
    # Where the two frames place the middle of the landmarks.
    middle = known.mean(axis=0)
    moved = [f.scale * middle @ np.array(f.R) + np.array(f.T) for f in (truth, frame)]
    away = float(np.linalg.norm(moved[1] - moved[0])) * UNIT_MM
    if frame.method != "landmarks":
        turn = 180.0
    return Result(name, errors, turn, away, found.confidences, found.confidence, seconds, _draw(scan, known, found))


def _draw(scan: Mesh, known: NDArray[np.float64], found: Detection) -> NDArray[np.uint8]:
    """Draw a scan as its known landmarks frame it: known ones green, found ones red, yellow if they were not seen."""
    frame = canonical_frame(replace(scan, landmarks=known.astype(np.float32)))
    R, half = np.array(frame.R), 1.25 / frame.scale
    views = draw_views(scan, R[None], (-np.array(frame.T) @ R.T / frame.scale)[None], np.array([half]), SIZE)
    picture = np.uint8(60 + 180 * np.clip(views.images[0, ..., 2:3] - 0.3 * views.images[0, ..., 1:2], 0, 1))
    picture = np.repeat(picture, 3, axis=2)
    colors = [(0, 200, 0)] * 68 + [(255, 0, 0) if c > 0.15 else (255, 220, 0) for c in found.confidences]
    for point, color in zip(views.project(0, np.concatenate([known, found.landmarks])), colors, strict=True):
        x, y = (int(np.clip(v * SIZE, 1, SIZE - 2)) for v in point[:2])
        picture[y - 1 : y + 1, x - 1 : x + 1] = color
    return picture


def _print_table(name: str, results: list[Result]) -> None:
    errors = np.array([result.errors for result in results])
    failed = np.array([result.turn > MAX_TURN or result.shift > MAX_SHIFT for result in results])
    print(f"\n## {name}: {len(results)} scans\n\n| part | median mm | 95 % mm | mean mm |\n|---|---|---|---|")
    for part, numbers in PARTS.items():
        values = errors[:, list(numbers)].ravel()
        print(
            f"| {part} | {np.median(values):.2f} | {np.percentile(values, 95):.2f} | "
            f"{values[np.isfinite(values)].mean():.2f} |"
        )
    seconds, turns, shifts, confidences = (
        np.array([getattr(result, name) for result in results]) for name in ("seconds", "turn", "shift", "confidence")
    )
    print(
        f"\nframing fails: {failed.mean():.1%} ({failed.sum()}); median turn {np.median(turns):.1f} degrees, shift "
        f"{np.median(shifts):.1f} mm; confidence 1 % / median {np.percentile(confidences, 1):.2f} / "
        f"{np.median(confidences):.2f}; seconds least / median {seconds.min():.3f} / {np.median(seconds):.3f}"
    )
    for result in [r for r, is_failed in zip(results, failed, strict=True) if is_failed][:8]:
        print(f"- {result.name}: {result.turn:.0f} degrees, {result.shift:.0f} mm, confidence {result.confidence:.2f}")


def _print_negatives(detector: LandmarkDetector, num: int, positives: list[float]) -> None:
    confidences = []
    for number in range(num):
        shape = scene_without_face(np.random.default_rng([77, number]))
        found = detector.detect(Mesh.build(shape.vertices.astype(np.float32), shape.faces))
        confidences.append(0.0 if found is None else found.confidence)
    print(f"\n## {num} scenes without a face\n\n| threshold | faces accepted | scenes accepted |\n|---|---|---|")
    for threshold in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5):
        print(
            f"| {threshold} | {np.mean(np.array(positives) >= threshold):.1%} | "
            f"{np.mean(np.array(confidences) >= threshold):.1%} |"
        )


def main() -> None:
    """Measure the detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--unit", type=float, default=1.0, help="Millimetres in the unit of the folders' scans.")
    parser.add_argument("--synth", type=int, default=0, metavar="SUBJECTS")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--tilt", type=float, default=0.0, help="Largest additional rotation in degrees.")
    parser.add_argument("--every", type=int, default=1, help="Take every N-th scan.")
    parser.add_argument("--negatives", type=int, default=0, metavar="N")
    parser.add_argument("--sheet", type=Path, default=None)
    args = parser.parse_args()
    detector = LandmarkDetector.load(args.weights)
    sets = {str(folder): _folder_scans(folder, args.unit) for folder in args.folders}
    if args.synth:
        sets["synth"] = _synth_scans(args.synth)
    pictures, confidences = [], []
    for name, scans in sets.items():
        chosen = itertools.islice(scans, 0, None, args.every)
        results = [_measure(detector, scan, mesh, n, args.tilt) for n, (scan, mesh) in enumerate(chosen)]
        _print_table(name, results)
        confidences += [result.confidence for result in results]
        order = np.argsort([-np.median(result.errors) for result in results], kind="stable")
        worst_and_even = [*order[:8], *order[8 :: max(len(order) // 16, 1)][:16]]
        pictures += [results[n].picture for n in worst_and_even]
    if args.negatives:
        _print_negatives(detector, args.negatives, confidences)
    if args.sheet:
        pictures += [np.zeros((SIZE, SIZE, 3), np.uint8)] * (-len(pictures) % 8)
        rows = [np.concatenate(pictures[n : n + 8], axis=1) for n in range(0, len(pictures), 8)]
        Image.fromarray(np.concatenate(rows)).save(args.sheet)


if __name__ == "__main__":
    main()
