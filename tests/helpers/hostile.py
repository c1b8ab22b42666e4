"""Untrusted files for every supported format: damaged, inconsistent, oversized, or referring to other places.

`lay_out` writes them into one data directory with a labels table, among good scans, and next to it a folder of traps
that no reader may open. Each entry in `bad` must fail; entries in `odd` have unusable textures and are rendered
without one.
"""

import csv
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from helpers import hostile_images, hostile_meshes
from helpers.hostile_good import BND, GOOD, SUFFIX, naming, obj

SPARSE_BYTES = 3 << 30  # a sparse file
LONG = "n" * 300  # a name may have 255 bytes
PNG = hostile_images.image("PNG")


@dataclass(frozen=True)
class Entry:
    """A row of the labels table.

    Attributes:
        kind: format and kind of damage.
        mesh: the mesh file.
        texture: the texture file, or "".
        landmarks: the landmark file, or "".
        culprit: the file that the error must name, or "" if nothing is wrong.
    """

    kind: str
    mesh: str
    texture: str = ""
    landmarks: str = ""
    culprit: str = ""


@dataclass(frozen=True)
class HostileData:
    """The files that were written.

    Attributes:
        root: the data directory.
        outside: a folder next to it with usable meshes, textures and materials that must not be opened.
        bad: rows that must fail.
        odd: rows with unusable textures. They are rendered without a texture.
        good: rows without problems.
    """

    root: Path
    outside: Path
    bad: tuple[Entry, ...]
    odd: tuple[Entry, ...]
    good: tuple[Entry, ...]


def lay_out(folder: Path, num_good: int = 100) -> HostileData:
    """Write everything under `folder`."""
    root, outside = folder / "data", folder / "outside"
    root.mkdir()
    _write_traps(outside)
    data = HostileData(
        root,
        outside,
        tuple([*_bad_meshes(root), *_bad_textures(root), *_bad_landmarks(root), *_bad_places(root, outside)]),
        tuple(_odd_textures(root, outside)),
        tuple(_good(root, num_good)),
    )
    write_table(root, [*data.bad, *data.odd, *data.good])
    return data


def write_table(root: Path, entries: list[Entry]) -> None:
    """Write the labels table of some entries."""
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "subject", "expression", "texture", "landmarks"])
        rows.writerows([e.mesh, "anna", "happy", e.texture, e.landmarks] for e in entries)


def _write_traps(outside: Path) -> None:
    outside.mkdir()
    for name, content in {"trap.obj": GOOD["obj"], "trap.png": PNG, "trap.bnd": BND}.items():
        (outside / name).write_bytes(content)
    (outside / "trap.mtl").write_text("newmtl skin\nmap_Kd trap.png\n")


def _bad_meshes(root: Path) -> Iterator[Entry]:
    for number, (form, kind, content) in enumerate(hostile_meshes.bad_meshes()):
        path = f"mesh{number:03d}.{SUFFIX[form]}"
        (root / path).write_bytes(content)
        yield Entry(f"{form}: {kind}", path, culprit=path)


def _bad_textures(root: Path) -> Iterator[Entry]:
    for number, (suffix, kind, content) in enumerate(hostile_images.bad_textures()):
        mesh, texture = f"texture{number:03d}.obj", f"images/t{number:03d}.{suffix}"
        # Every second texture is referenced by the mesh itself.
        by_mesh = number % 2 == 1
        (root / "images").mkdir(exist_ok=True)
        (root / texture).write_bytes(content)
        (root / mesh).write_bytes(obj(f"t{number:03d}.mtl" if by_mesh else ""))
        if by_mesh:
            (root / f"t{number:03d}.mtl").write_text(f"newmtl skin\nmap_Kd {texture}\n")
        yield Entry(f"texture: {kind}", mesh, "" if by_mesh else texture, culprit=texture)


def _bad_landmarks(root: Path) -> Iterator[Entry]:
    for number, (suffix, kind, content) in enumerate(hostile_meshes.bad_landmarks()):
        mesh, landmarks = f"landmarks{number:03d}.obj", f"points{number:03d}.{suffix}"
        (root / mesh).write_bytes(obj())
        (root / landmarks).write_bytes(content)
        yield Entry(f"landmarks: {kind}", mesh, landmarks=landmarks, culprit=landmarks)


def _bad_places(root: Path, outside: Path) -> Iterator[Entry]:
    """Links, pipes, folders, and missing or too large files, in place of each kind of file."""
    (root / "folder").mkdir()
    (root / "away").symlink_to(outside)
    for suffix in ("obj", "png", "bnd"):
        places = {
            "link to itself": f"self.{suffix}",
            "link in a ring": f"ring-a.{suffix}",
            "link to nothing": f"nothing.{suffix}",
            "link out": f"out.{suffix}",
            "link out by an absolute path": f"absolute.{suffix}",
            "link to a device": f"zero.{suffix}",
            "pipe": f"pipe.{suffix}",
            "through a linked folder": f"away/trap.{suffix}",
            "missing": f"missing.{suffix}",
            "name too long": f"{LONG}.{suffix}",
            "larger than is read": f"sparse.{suffix}",
            "name with an escape sequence": f"red\x1b[31m.{suffix}",
            "name on two lines": f"two\nlines.{suffix}",
            "file as a folder": f"self-made.obj/x.{suffix}",
        }
        (root / f"self.{suffix}").symlink_to(f"self.{suffix}")
        (root / f"ring-a.{suffix}").symlink_to(f"ring-b.{suffix}")
        (root / f"ring-b.{suffix}").symlink_to(f"ring-a.{suffix}")
        (root / f"nothing.{suffix}").symlink_to("nowhere")
        (root / f"out.{suffix}").symlink_to(f"../outside/trap.{suffix}")
        (root / f"absolute.{suffix}").symlink_to(outside / f"trap.{suffix}")
        (root / f"zero.{suffix}").symlink_to("/dev/zero")
        os.mkfifo(root / f"pipe.{suffix}")
        # The content is valid; only the size is wrong.
        shutil.copy(outside / f"trap.{suffix}", root / f"sparse.{suffix}")
        os.truncate(root / f"sparse.{suffix}", SPARSE_BYTES)
        if suffix != "obj":
            places["folder"] = "folder"
        for kind, path in places.items():
            yield _placed(root, suffix, kind, path)
    (root / "self-made.obj").write_bytes(obj())


def _placed(root: Path, suffix: str, kind: str, path: str) -> Entry:
    if suffix == "obj":
        return Entry(f"mesh place: {kind}", path, culprit=path)
    mesh = f"{suffix}-{kind.replace(' ', '-')}.obj"
    (root / mesh).write_bytes(obj())
    if suffix == "png":
        return Entry(f"texture place: {kind}", mesh, texture=path, culprit=path)
    return Entry(f"landmarks place: {kind}", mesh, landmarks=path, culprit=path)


def _odd_textures(root: Path, outside: Path) -> Iterator[Entry]:
    """Meshes with textures or materials that must not be opened."""
    (root / "odd").mkdir()
    (root / "odd/out.png").symlink_to(outside / "trap.png")
    (root / "odd/self.png").symlink_to("self.png")
    (root / "odd/out.mtl").symlink_to(outside / "trap.mtl")
    (root / "odd/self.mtl").symlink_to("self.mtl")
    (root / "odd/away").symlink_to(outside)
    (root / "odd/folder.png").mkdir()
    os.mkfifo(root / "odd/pipe.png")
    os.mkfifo(root / "odd/pipe.mtl")
    textures = [
        *("../../outside/trap.png", "..\\..\\outside\\trap.png", f"{outside}/trap.png", f"file://{outside}/trap.png"),
        *("http://127.0.0.1:9/trap.png", "https://127.0.0.1:9/t.png", "C:\\trap.png", "\\\\127.0.0.1\\share\\t.png"),
        *("out.png", "self.png", "away/trap.png", "folder.png", "pipe.png", "missing.png", ".", "..", "/dev/zero"),
        *("./././../odd/../../outside/trap.png", "data:image/png;base64,AAAA", f"{LONG}.png", "a/" * 2000 + "t.png"),
    ]
    for number, texture in enumerate(textures):
        (root / f"odd/t{number}.mtl").write_text(f"newmtl skin\nmap_Kd {texture}\n")
        for form, content in naming(texture, f"t{number}.mtl").items():
            path = f"odd/{form}{number}.{SUFFIX[form]}"
            (root / path).write_bytes(content)
            yield Entry(f"odd texture: {texture[:40]}", path)
    libraries = ["../../outside/trap.mtl", f"{outside}/trap.mtl", "out.mtl", "self.mtl", "pipe.mtl", "away/trap.mtl"]
    for number, library in enumerate([*libraries, "folder.png", f"{LONG}.mtl", "http://127.0.0.1:9/t.mtl", "a\0b.mtl"]):
        (root / f"odd/library{number}.obj").write_bytes(obj(library))
        yield Entry(f"odd material: {library[:40]}", f"odd/library{number}.obj")


def _good(root: Path, count: int) -> Iterator[Entry]:
    (root / "good").mkdir()
    Image.new("RGB", (8, 8), "red").save(root / "good/red.png")
    forms = sorted(GOOD)
    for number in range(count):
        form = forms[number % len(forms)]
        path = f"good/{number:03d}.{SUFFIX[form]}"
        (root / path).write_bytes(GOOD[form])
        yield Entry("good", path, texture="good/red.png" if number % 2 else "")
