"""How much the canonical frame of a subject depends on the expression and on noise of the landmarks.

    python tests/benchmarks/bench_frame.py --ict ict_facekit.npz

For each face model: subjects with the six expressions at four levels, compared with the frame of their neutral face;
and neutral faces with noise of 1.5 mm on each landmark. Root mean squares of scale (percent), direction (degrees) and
position of the face's centre (mm); the change of scale in disgust alone; and mean and deviation of the pitch (degrees)
of neutral faces, which both models place upright.

Then the difference between the frame from a part of the landmarks, or with wrong ones (40-150 mm away), and that from
all of them: root mean squares of scale, direction and position, largest direction, and how many sets are rejected.

Then the same without landmarks, for the meshes as they are, with larger triangles, and with four times the vertices
below the nose: scale relative to that by landmarks (mean and standard deviation), change of scale and position with
the expression (root mean squares), and scale of the strongest surprise relative to the neutral face (mean, smallest).
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model.actor import ActorStyle, sample_action_units
from smile_pipe.pipeline.face_model.ict import IctFace
from smile_pipe.pipeline.face_model.interface import FaceModel
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks.alignment import UNIT_MM, canonical_frame
from smile_pipe.pipeline.landmarks.mean_face import SCHEMES
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.shards.sample import Frame

EXPRESSIONS, LEVELS, NOISE = ("AN", "DI", "FE", "HA", "SA", "SU"), (1, 2, 3, 4), 1.5
# Bosphorus' points among the 68: brows, eyes, nose, mouth, chin. Its points at the saddle of the nose are no anchors.
BOSPHORUS = [17, 19, 21, 22, 24, 26, 36, 39, 42, 45, 27, 27, 31, 30, 35, 48, 51, 54, 62, 66, 57, 8]
Landmarks = NDArray[np.float64]


def frame_of(landmarks: Landmarks) -> Frame:
    """The frame of a face with these landmarks."""
    mesh = Mesh.build(landmarks, np.array([[0, 1, 2]]))
    frame = canonical_frame(replace(mesh, landmarks=landmarks.astype(np.float32)))
    if frame.method != "landmarks":
        raise SystemExit("the landmarks give no frame")
    return frame


def difference(frame: Frame, other: Frame, landmarks: Landmarks) -> tuple[float, float, float]:
    """Difference of two frames: scale (percent), direction (degrees), position of the face's centre (mm)."""
    turn, centre = np.array(frame.R).T @ np.array(other.R), landmarks.mean(axis=0)
    places = [f.scale * centre @ np.array(f.R) + np.array(f.T) for f in (frame, other)]
    angle = np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    return 100 * (frame.scale / other.scale - 1), float(angle), float(np.linalg.norm(places[0] - places[1])) * UNIT_MM


def faces(model: FaceModel, num: int) -> Iterator[tuple[Landmarks, dict[str, list[Landmarks]]]]:
    """Landmarks of subjects: neutral, and by expression those of all levels."""
    for number in range(num):
        rng = np.random.default_rng(number)
        subject, style = model.identity(rng), ActorStyle.sample(rng)

        def place(units: dict[str, tuple[float, float]], subject=subject) -> Landmarks:
            return model.mesh(subject, units).vertices[model.landmarks].astype(np.float64)

        yield (
            place({}),
            {name: [place(sample_action_units(name, n, style, rng)) for n in LEVELS] for name in EXPRESSIONS},
        )


def measure(subjects: list[tuple[Landmarks, dict[str, list[Landmarks]]]]) -> str:
    """A row of the table."""
    changes, disgust, noisy, pitches = [], [], [], []
    rng = np.random.default_rng(0)
    for neutral, expressions in subjects:
        frame = frame_of(neutral)
        pitches.append(np.rad2deg(np.arctan2(frame.R[1][2], frame.R[2][2])))
        for name, levels in expressions.items():
            found = [difference(frame_of(landmarks), frame, neutral) for landmarks in levels]
            changes += found
            disgust += [row[0] for row in found if name == "DI"]
        shaken = (neutral + rng.normal(0, NOISE, neutral.shape) for _ in range(4))
        noisy += [difference(frame_of(landmarks), frame, neutral) for landmarks in shaken]
    cells = [*_rms(changes), *_rms(np.array(disgust)[:, None]), *_rms(noisy), np.mean(pitches), np.std(pitches)]
    return " | ".join(f"{value:.2f}" for value in cells)


def with_wrong(share: float) -> Callable[[Landmarks, Landmarks, np.random.Generator], Landmarks]:
    """Move a share of the landmarks away."""

    def change(points: Landmarks, _: Landmarks, rng: np.random.Generator) -> Landmarks:
        wrong = rng.permutation(len(points))[: int(share * len(points))]
        away = rng.normal(size=(len(wrong), 3))
        away *= rng.uniform(40, 150, (len(wrong), 1)) / np.linalg.norm(away, axis=1, keepdims=True)
        changed = points.copy()
        changed[wrong] += away
        return changed

    return change


# Changed landmarks from the landmarks, their places on the mean face, and a random generator.
CHANGES: dict[str, Callable[[Landmarks, Landmarks, np.random.Generator], Landmarks]] = {
    "right half": lambda points, places, _: np.where(places[:, :1] > 1, np.nan, points),
    "upper half": lambda points, places, _: np.where(places[:, 1:2] < -50, np.nan, points),
    "no ears, jaw, chin": lambda points, places, _: np.where(is_outline(places), np.nan, points),
    "5 % wrong": with_wrong(0.05),
    "15 % wrong": with_wrong(0.15),
    "permuted": lambda points, _, rng: rng.permutation(points),
    "one place on": lambda points, _, rng: np.roll(points, 1, axis=0),
    "other part first": lambda points, _, rng: np.roll(points, rng.integers(9, len(points) - 9), axis=0),
    "reversed": lambda points, _, rng: points[::-1],
}


def is_outline(places: Landmarks) -> NDArray[np.bool_]:
    """Which landmarks [L, 1] are those from ear to chin to ear."""
    return (places[:, 1:2] < -84) | (np.abs(places[:, :1]) > 60)


def measure_changes(name: str, subjects: list[tuple[Landmarks, dict[str, list[Landmarks]]]]) -> Iterator[str]:
    """Rows of the table of parts of sets and wrong landmarks."""
    faces = [
        points for neutral, expressions in subjects for points in (neutral, *(x[-1] for x in expressions.values()))
    ]
    places = SCHEMES[len(faces[0])].positions
    for kind, change in CHANGES.items():
        rng, found, num_rejected = np.random.default_rng(0), [], 0
        for points in faces:
            changed = change(points, places, rng).astype(np.float32)
            mesh = Mesh.build(points, np.array([[0, 1, 2]]))
            frame = canonical_frame(replace(mesh, landmarks=changed))
            if frame.method == "landmarks":
                found.append(difference(frame, frame_of(points), points))
            num_rejected += frame.method != "landmarks"
        cells = [f"{value:.1f}" for value in (*_rms(found), np.max(found, axis=0)[1])] if found else ["", "", "", ""]
        yield f"| {name}, {kind} | {' | '.join(cells)} | {num_rejected} of {len(faces)} |"


def coarse(mesh: Mesh, cell: float = 8.0) -> Mesh:
    """Merge the vertices in each cell of a grid, mm."""
    cells, number = np.unique(np.floor(mesh.vertices / cell), axis=0, return_inverse=True)
    sums = np.stack([np.bincount(number.ravel(), axis, len(cells)) for axis in mesh.vertices.T], axis=1)
    faces = number.ravel()[mesh.faces]
    is_face = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return Mesh.build(sums / np.bincount(number.ravel())[:, None], faces[is_face])


def dense_below(mesh: Mesh, height: float) -> Mesh:
    """Divide the faces below a height into nine, without moving the surface."""
    is_low = mesh.vertices[mesh.faces].mean(axis=1)[:, 1] < height
    shares = np.array([(i, j, 3 - i - j) for i in range(4) for j in range(4 - i)]) / 3
    points = (shares @ mesh.vertices[mesh.faces[is_low]]).reshape(-1, 3)
    index = {tuple(np.rint(3 * share)): number for number, share in enumerate(shares)}
    small = [
        [index[i + a[0], j + a[1], 3 - i - j - a[0] - a[1]] for a in corners]
        for i in range(3)
        for j in range(3 - i)
        for corners in (((0, 0), (1, 0), (0, 1)), ((1, 0), (1, 1), (0, 1)))
        if all(3 - i - j - a[0] - a[1] >= 0 for a in corners)
    ]
    starts = len(mesh.vertices) + len(shares) * np.arange(is_low.sum())
    faces = (starts[:, None, None] + np.array(small)).reshape(-1, 3)
    return Mesh.build(np.concatenate([mesh.vertices, points]), np.concatenate([mesh.faces[~is_low], faces]))


def measure_bounds(model: FaceModel, num: int, change: Callable[[Mesh], Mesh]) -> str:
    """A row of the table without landmarks."""
    relative, changes, surprises = [], [], []
    for number in range(num):
        rng = np.random.default_rng(number)
        subject, style = model.identity(rng), ActorStyle.sample(rng)

        def frames(units: dict[str, tuple[float, float]], subject=subject) -> tuple[Frame, Landmarks]:
            mesh = model.mesh(subject, units)
            points = mesh.vertices[model.landmarks].astype(np.float64)
            relative.append((frame := canonical_frame(change(mesh))).scale / frame_of(points).scale)
            return frame, points

        neutral, points = frames({})
        for name in EXPRESSIONS:
            frame, _ = frames(sample_action_units(name, 4, style, rng))
            changes.append(difference(frame, neutral, points))
            surprises += [frame.scale / neutral.scale] if name == "SU" else []
    scale, _, position = _rms(changes)
    return (
        f"{np.mean(relative):.3f} | {np.std(relative):.3f} | {scale:.1f} | {position:.1f} | "
        f"{np.mean(surprises):.3f} | {np.min(surprises):.3f}"
    )


def _rms(rows: list[tuple[float, ...]] | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.square(rows).mean(axis=0))


KINDS: dict[str, Callable[[Mesh], Mesh]] = {
    "": lambda mesh: mesh,
    ", coarse": coarse,
    ", dense below": lambda mesh: dense_below(mesh, float(np.median(mesh.vertices[:, 1]))),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ict", type=Path, help="ict_facekit.npz")
    parser.add_argument("--subjects", type=int, default=40)
    given = parser.parse_args()
    kinds = {"83 points": list(faces(ParametricFace(), given.subjects))}
    if given.ict:
        kinds["68 points"] = list(faces(IctFace(given.ict), given.subjects))
        kinds["22 points"] = [
            (neutral[BOSPHORUS], {name: [x[BOSPHORUS] for x in levels] for name, levels in expressions.items()})
            for neutral, expressions in kinds["68 points"]
        ]
    print("| landmarks | scale | direction | position | disgust | noise: scale | direction | position | pitch | dev. |")
    print(f"|{'---|' * 10}")
    for name, subjects in kinds.items():
        print(f"| {name} | {measure(subjects)} |", flush=True)
    print("\n| landmarks | scale | direction | position | largest direction | rejected |")
    print(f"|{'---|' * 6}")
    for name, subjects in kinds.items():
        for row in measure_changes(name, subjects):
            print(row, flush=True)
    print("\n| without landmarks | scale | dev. | change of scale | position | surprise: mean | smallest |")
    print(f"|{'---|' * 7}")
    models = {"parametric": ParametricFace()} | ({"ICT-FaceKit": IctFace(given.ict)} if given.ict else {})
    for name, model in models.items():
        for kind, change in KINDS.items():
            print(f"| {name}{kind} | {measure_bounds(model, given.subjects // 4, change)} |", flush=True)


if __name__ == "__main__":
    main()
