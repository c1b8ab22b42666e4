"""Time to read a face scan, compared with trimesh.

Create scans as OBJ, VRML or PLY, then:

    python tests/benchmarks/bench_readers.py FOLDER

Range images and small meshes are created in a temporary folder. Prints a Markdown table; one process, one thread.
Each file is read many times by our reader and trimesh in turn, so that other load affects both; the figure of a file is
its fastest read, and of a kind the median of its files. Files are in the page cache, compiled code is in Numba's cache,
and textures are not decoded.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh

from smile_pipe.pipeline.meshes.bnt import write_bnt
from smile_pipe.pipeline.meshes.reader import SUFFIXES, read_mesh

_SIDES = (200, 230)  # of a range image that is about as large as those of Bosphorus


def _write_range_image(path: Path) -> None:
    """Write a range image: a bump on an ellipse in front of background."""
    y, x = np.mgrid[1 : -1 : _SIDES[0] * 1j, -1 : 1 : _SIDES[1] * 1j]
    z = np.where(x**2 + y**2 < 1, 60 * np.exp(-2 * (x**2 + y**2)), np.nan)
    write_bnt(path, np.stack([80 * x, 100 * y, z], axis=2), np.stack([x + 1, 1 - y], axis=2) / 2, "face.png")


def _write_made(folder: Path) -> dict[str, list[Path]]:
    """Write files of the kinds that are not among the scans; returns files by kind."""
    for name, made in (("cube", trimesh.creation.box()), ("sphere", trimesh.creation.icosphere(subdivisions=3))):
        for suffix in ("obj", "ply", "stl", "off", "glb"):
            made.export(folder / f"{name}.{suffix}")
        made.export(folder / f"{name}_text.ply", encoding="ascii")
        made.export(folder / f"{name}_text.stl", file_type="stl_ascii")
    _write_range_image(folder / "range.bnt")
    small = [path for path in sorted(folder.iterdir()) if path.stem.startswith(("cube", "sphere"))]
    return {"range image .bnt": [folder / "range.bnt"]} | {path.name: [path] for path in small}


def _in_turn(readers: list[Callable[[Path], object]], path: Path, repeats: int) -> list[float]:
    """Milliseconds of the fastest read of a file by each reader; infinite if a reader cannot read it."""
    fastest = [float("inf")] * len(readers)
    for repeat in range(repeats + 1):  # the first one fills caches
        for i, read in enumerate(readers):
            start = time.perf_counter()
            try:
                read(path)
            except (NotImplementedError, ValueError, KeyError):  # trimesh has no reader for the format
                continue
            if repeat:
                fastest[i] = min(fastest[i], 1e3 * (time.perf_counter() - start))
    return fastest


def _read_with_trimesh(path: Path) -> object:
    return trimesh.load(path, process=False)


def _row(kind: str, paths: list[Path], repeats: int) -> str:
    """One row of the Markdown table."""
    size = statistics.mean(path.stat().st_size for path in paths) / 1e6
    mesh = read_mesh(paths[0])
    times = [_in_turn([read_mesh, _read_with_trimesh], path, repeats) for path in paths]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    compared = "no reader | -" if theirs == float("inf") else f"{theirs:.2f} | {theirs / ours:.1f}"
    counts = f"{len(mesh.vertices):,} | {len(mesh.faces):,}"
    return f"| {kind} | {len(paths)} | {size:.3f} | {counts} | {ours:.3f} | {size / ours * 1e3:.0f} | {compared} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to search for meshes, with its subfolders")
    parser.add_argument("--files", type=int, default=8, help="number of files of each format")
    parser.add_argument("--repeats", type=int, default=30, help="reads per file")
    return parser.parse_args()


def main() -> None:
    """Measure and print the table."""
    arguments = _arguments()
    found = defaultdict(list)
    for path in sorted(arguments.folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and len(found[path.suffix.lower()]) < arguments.files:
            found[path.suffix.lower()].append(path)
    print("| file | files | MB | vertices | triangles | ours, ms | MB/s | trimesh, ms | times as fast |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, paths in (found | _write_made(Path(folder))).items():
            print(_row(kind, paths, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
