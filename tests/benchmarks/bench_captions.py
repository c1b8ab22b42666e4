"""Agreement of captions from geometry with the action units that deformed the faces.

Create faces with known action units: a folder with static/labels.csv, whose column `aus` is a JSON object of weights,
and next to each mesh its 68 landmarks as `*_lmk68.txt`. Then:

    python tests/benchmarks/bench_captions.py FOLDER

Prints Markdown tables: for each phrase and each reference, how well the phrase and its score agree with the action
units that it describes. Thresholds were chosen on subjects 1-10, so only later subjects are used, unless --first
changes it.
"""

import argparse
import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from smile_pipe.pipeline.captions.action_units import PHRASES, RELAXED
from smile_pipe.pipeline.captions.geometry import FEATURES, Description, Feature, describe, measure
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.files import read_landmarks
from smile_pipe.pipeline.meshes.mesh import Mesh

# Action units that move the same points in the same direction; the phrase is that of the first one that has a phrase.
FOLLOWS = {
    PHRASES[1]: ("1",),
    PHRASES[2]: ("2",),
    PHRASES[4]: ("4",),
    PHRASES[5]: ("5",),
    PHRASES[7]: ("7", "6"),
    PHRASES[43]: ("43", "64"),
    PHRASES[9]: ("9",),
    PHRASES[10]: ("10",),
    PHRASES[12]: ("12",),
    PHRASES[15]: ("15",),
    PHRASES[20]: ("20",),
    "lips {}pushed forward": ("22", "18"),
    "{}thinned lips": ("23",),
    PHRASES[25]: ("26", "16", "10", "22"),
    PHRASES[26]: ("26",),
    PHRASES[17]: ("17",),
}


@dataclass(frozen=True)
class FaceSample:
    """Measures of a face, and the action units that deformed it."""

    subject: str
    expression: str
    measures: dict[str, float]
    units: dict[str, float]


def _read_faces(folder: Path) -> list[FaceSample]:
    faces = []
    with (folder / "static" / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            mesh_path = folder / row["path"]
            points = read_landmarks(mesh_path.with_name(f"{mesh_path.stem}_lmk68.txt"))
            mesh = replace(Mesh.build(points, np.array([[0, 1, 2]])), landmarks=points)
            framed = apply_frame(mesh, canonical_frame(mesh)).landmarks
            faces.append(FaceSample(row["subject"], row["code"], measure(framed), json.loads(row["aus"])))
    return faces


def _says(description: Description, phrase: str) -> bool:
    """Whether the caption contains the phrase, with any adverb."""
    return any(phrase.format(adverb) in description.text.split(", ") for adverb in ("slightly ", "", "strongly "))


def _row(feature: Feature, faces: list[FaceSample], descriptions: list[Description], least: float, none: float) -> str:
    followed = FOLLOWS[feature.phrase]
    weights = np.array([max(face.units.get(unit, 0.0) for unit in followed) for face in faces])
    scores = np.array([feature.score(description.numbers) for description in descriptions])
    said = np.array([_says(description, feature.phrase) for description in descriptions])
    there, clear = weights >= least, (weights >= least) | (weights < none)
    hits = (said & there).sum()
    precision = f"{hits / (said & clear).sum():.2f}" if (said & clear).any() else "-"
    auc = roc_auc_score(there[clear], scores[clear]) if 0 < there.sum() < clear.sum() else float("nan")
    words = feature.phrase.replace("{}", "")
    return (
        f"| {words} | {', '.join(followed)} | {there.sum()} | {precision} | {hits / max(1, there.sum()):.2f} "
        f"| {auc:.3f} | {np.corrcoef(weights, scores)[0, 1]:.2f} |"
    )


def _reference_of(face: FaceSample, faces: list[FaceSample]) -> Mapping[str, float]:
    return next(other.measures for other in faces if other.subject == face.subject and other.expression == "NE")


def _print_table(
    title: str, faces: list[FaceSample], descriptions: list[Description], least: float, none: float
) -> None:
    texts = [description.text for description in descriptions]
    resting = [text for face, text in zip(faces, texts, strict=True) if face.expression == "NE"]
    print(f"\nAgainst {title}: {len(faces)} faces, {len(set(texts))} captions that differ.")
    if title == "people in general":
        print(f"Of {len(resting)} resting faces, {resting.count(RELAXED)} are called relaxed.")
    print("\n| words | AU | faces | precision | recall | AUC | correlation |\n|---|---|---|---|---|---|---|")
    for feature in FEATURES:
        print(_row(feature, faces, descriptions, least, none))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=11, help="number of the first subject to use")
    parser.add_argument("--last", type=int, default=10**6, help="number of the last subject to use")
    parser.add_argument(
        "--least", type=float, default=0.3, help="weight from which an action unit should be in the caption"
    )
    parser.add_argument(
        "--none", type=float, default=0.15, help="weight below which it should not be; in between both are correct"
    )
    return parser.parse_args()


def main() -> None:
    """Read the faces, caption them and print the tables."""
    arguments = _arguments()
    numbered = [(int(face.subject.lstrip("FM")), face) for face in _read_faces(arguments.folder)]
    faces = [face for number, face in numbered if arguments.first <= number <= arguments.last]
    moved = [face for face in faces if face.expression != "NE"]
    own = [describe(face.measures, _reference_of(face, faces)) for face in moved]
    people = [describe(face.measures, None) for face in faces]
    _print_table("the subject's own resting face", moved, own, arguments.least, arguments.none)
    _print_table("people in general", faces, people, arguments.least, arguments.none)


if __name__ == "__main__":
    main()
