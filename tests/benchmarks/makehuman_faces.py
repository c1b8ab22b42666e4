"""A labelled set of faces of a head model that no part of smile-pipe was made with: MakeHuman's base mesh.

    python tests/benchmarks/makehuman_faces.py CHECKOUT OUT --subjects 40

CHECKOUT is a checkout of github.com/makehumancommunity/makehuman, whose base mesh and targets are CC0. Each subject is
a random mix of its body types and of details of the face. Six expressions at four levels are our mixes of its
expression units, after EMFACS. OUT gets a PLY of each head and `labels.csv`.
"""

import argparse
import csv
from functools import cache
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Targets = dict[str, tuple[NDArray[np.int64], Floats]]
Rng = np.random.Generator

FOLDERS = ("expression", "macrodetails", "head", "nose", "mouth", "eyes", "cheek", "chin", "forehead", "eyebrows")
PARTS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
GROUPS = ("caucasian", "african", "asian")
# Height of the cut through the neck, in the decimetres of the base mesh.
NECK = 5.75
LEVELS = (1, 2, 3, 4)

BROWS, EYES, NOSE = "eyebrows-*-", "eye-*-", "nose-*-"
# For each expression some mixes of units; `*` stands for both sides.
PROTOTYPES: dict[str, list[dict[str, float]]] = {
    "HA": [
        {"mouth-corner-puller": 1.1, f"{EYES}slit": 0.5},
        {"mouth-corner-puller": 1, "mouth-open": 0.2, f"{EYES}slit": 0.4},
        {"mouth-corner-puller": 0.8, "mouth-part-later": 0.35},
    ],
    "SA": [
        {f"{BROWS}inner-up": 0.9, f"{BROWS}down": 0.35, "mouth-depression": 0.9},
        {f"{BROWS}inner-up": 0.8, "mouth-depression": 0.8, "neck-platysma": 0.2},
        {f"{BROWS}inner-up": 0.7, f"{BROWS}down": 0.4, "mouth-depression": 0.6, f"{EYES}slit": 0.3},
    ],
    "SU": [
        {f"{BROWS}inner-up": 0.9, f"{BROWS}extern-up": 0.9, f"{EYES}opened-up": 0.8, "mouth-open": 0.5},
        {f"{BROWS}up": 1, f"{EYES}opened-up": 0.6, "mouth-open": 0.35},
    ],
    "FE": [
        {f"{BROWS}inner-up": 0.8, f"{BROWS}extern-up": 0.5, f"{BROWS}down": 0.45, f"{EYES}opened-up": 1}
        | {"mouth-retraction": 0.9, "mouth-open": 0.15},
        {f"{BROWS}inner-up": 0.8, f"{BROWS}extern-up": 0.5, f"{BROWS}down": 0.4, f"{EYES}opened-up": 1}
        | {"mouth-retraction": 0.7, "mouth-open": 0.3},
    ],
    "AN": [
        {f"{BROWS}down": 1.1, f"{EYES}slit": 0.6, "mouth-compression": 0.9},
        {f"{BROWS}down": 1, f"{EYES}opened-up": 0.5, "mouth-compression": 0.7, f"{NOSE}dilatation": 0.5},
        {f"{BROWS}down": 1, f"{EYES}slit": 0.5, "mouth-eversion": 0.5, "mouth-part-later": 0.3},
    ],
    "DI": [
        {f"{NOSE}elevation": 0.9, "nose-compression": 0.7, f"{BROWS}down": 0.5, "mouth-elevation": 0.8}
        | {f"{EYES}slit": 0.5},
        {"mouth-elevation": 1, f"{NOSE}elevation": 0.5, f"{EYES}slit": 0.4},
        {f"{NOSE}elevation": 1, "nose-compression": 0.6, f"{BROWS}down": 0.6, "mouth-depression": 0.4}
        | {f"{EYES}slit": 0.5},
    ],
}
UNITS = sorted({unit for mixes in PROTOTYPES.values() for mix in mixes for unit in mix})


class MakeHuman:
    """The base mesh and its targets.

    Attributes:
        vertices: The base mesh, [V, 3], in decimetres.
        faces: Triangles of the parts that are written.
        target: Vertices that a target moves, [N], and their displacements, [N, 3], by name.
    """

    def __init__(self, checkout: Path) -> None:
        data = checkout / "makehuman" / "data"
        self.vertices, self.faces = _read_parts(data / "3dobjs" / "base.obj")
        self._targets = data / "targets"
        self.target = cache(self._read)

    def names(self, folder: str) -> list[str]:
        """Names of the targets in a folder."""
        return sorted(path.stem for path in (self._targets / folder).glob("*.target"))

    def _read(self, name: str) -> tuple[NDArray[np.int64], Floats]:
        lines = (self._targets / f"{name}.target").read_text().splitlines()
        rows = [line.split() for line in lines if line and not line.startswith("#")]
        return np.array([row[0] for row in rows], int), np.array([row[1:4] for row in rows], float).reshape(-1, 3)

    def add(self, vertices: Floats, name: str, weight: float) -> None:
        """Add a target to a shape, in place."""
        moved, displacements = self.target(name)
        vertices[moved] += weight * displacements


class Person:
    """A random person.

    Attributes:
        sex: female or male.
        vertices: the neutral body, [V, 3].
    """

    def __init__(self, model: MakeHuman, rng: Rng) -> None:
        self.model, self.vertices = model, model.vertices.copy()
        self.sex = "female" if rng.random() < 0.5 else "male"
        self.mix = dict(zip(GROUPS, rng.dirichlet([0.7] * 3), strict=True))
        old = rng.random() ** 2 if rng.random() < 0.6 else 0.0
        ages = {"young": 1 - old, "old": old}
        for group, share in self.mix.items():
            for age, part in ages.items():
                model.add(self.vertices, f"macrodetails/{group}-{self.sex}-{age}", share * part)
        weight = rng.random()
        weights = {"min": max(0, 1 - 2 * weight), "average": 1 - abs(2 * weight - 1), "max": max(0, 2 * weight - 1)}
        for age, part in ages.items():
            for name, share in weights.items():
                target = f"macrodetails/universal-{self.sex}-{age}-averagemuscle-{name}weight"
                model.add(self.vertices, target, part * share)
        self._add_details(rng)
        self.style, self.asymmetry = rng.normal(1, 0.15, len(UNITS)), rng.normal(0, 0.1)
        self.habits = {code: rng.dirichlet(np.ones(len(mixes))) for code, mixes in PROTOTYPES.items()}

    def _add_details(self, rng: Rng) -> None:
        """Add some details of the face; those of a pair are alike on both sides."""
        for folder in FOLDERS[2:]:
            for name in self.model.names(folder):
                if "trans" in name or name.startswith("r-") or rng.random() > (0.2 if name.startswith("l-") else 0.25):
                    continue
                weight = 0.5 * rng.random()
                for each in dict.fromkeys((name, name.replace("l-", "r-", 1) if name.startswith("l-") else name)):
                    self.model.add(self.vertices, f"{folder}/{each}", weight)

    def shape(self, code: str, level: int, rng: Rng) -> Floats:
        """The body with an expression, [V, 3]; level 0 is neutral."""
        vertices = self.vertices.copy()
        if level:
            mix = PROTOTYPES[code][rng.choice(len(PROTOTYPES[code]), p=self.habits[code])]
            gain = 0.25 * level * np.clip(rng.normal(1, 0.08), 0.7, 1.3)
            for unit, weight in mix.items():
                self._act(vertices, unit, weight * gain * self.style[UNITS.index(unit)])
        for unit in rng.choice(UNITS, 2, replace=False):  # activity that means nothing
            self._act(vertices, unit, abs(rng.normal(0, 0.06)))
        return vertices

    def _act(self, vertices: Floats, unit: str, strength: float) -> None:
        sides = {"left": 1 + self.asymmetry, "right": 1 - self.asymmetry} if "*" in unit else {"": 1.0}
        for side, share in sides.items():
            for group, part in self.mix.items():
                name = f"expression/units/{group}/{unit.replace('*', side)}"
                self.model.add(vertices, name, strength * share * part)


def write_faces(checkout: Path, out: Path, num_subjects: int, seed: int) -> None:
    """Write the faces of so many subjects, and `labels.csv`."""
    model = MakeHuman(checkout)
    faces = model.faces[(model.vertices[model.faces][..., 1] > NECK).all(axis=1)]
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    rows = []
    for number in range(num_subjects):
        person = Person(model, np.random.default_rng([seed, number]))
        subject = f"{person.sex[0].upper()}{number + 1:04d}"
        (out / subject).mkdir(parents=True, exist_ok=True)
        for code, level in [("NE", 0), *((code, level) for code in PROTOTYPES for level in LEVELS)]:
            rng = np.random.default_rng([seed, number, *code.encode(), level])
            millimetres = 100 * person.shape(code, level, rng)[used]
            points = (millimetres + rng.normal(0, 0.1, millimetres.shape)) @ _turn(rng.uniform(-4, 4, 3)).T
            path = f"{subject}/{subject}_{code}{level:02d}.ply"
            trimesh.Trimesh(points, faces, process=False).export(out / path)
            rows.append([path, subject, code, level or ""])
    with (out / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "subject", "expression", "level"], *rows])


def _turn(degrees: Floats) -> Floats:
    return trimesh.transformations.euler_matrix(*np.deg2rad(degrees))[:3, :3]


def _read_parts(path: Path) -> tuple[Floats, NDArray[np.int64]]:
    """All vertices of an OBJ, and the triangles of `PARTS`."""
    vertices, faces, group = [], [], ""
    for line in path.read_text().splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values[:3]])
        elif kind == "g":
            group = values[0]
        elif kind == "f" and group in PARTS:
            corners = [int(value.split("/")[0]) - 1 for value in values]
            faces += [(corners[0], *corners[n : n + 2]) for n in range(1, len(corners) - 1)]
    return np.array(vertices), np.array(faces)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_faces(given.checkout, given.out, given.subjects, given.seed)
