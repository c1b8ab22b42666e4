"""How long reading a face scan takes, next to trimesh, for a folder of scans.

Make scans as OBJ, VRML or PLY, then: python tests/benchmarks/bench_readers.py FOLDER
Prints a Markdown table: the median over all reads of each format, one process, one thread. Files are in the page
cache, compiled code is in Numba's cache, and textures are not decoded.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import trimesh

from pipeline.meshes.reader import SUFFIXES, read_mesh


def _median_ms(read: Callable[[Path], object], paths: list[Path], repeats: int) -> float:
    """Median milliseconds of a read; every file is read once before."""
    for path in paths:
        read(path)
    times = []
    for _ in range(repeats):
        for path in paths:
            start = time.perf_counter()
            read(path)
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def _read_with_trimesh(path: Path) -> object:
    return trimesh.load(path, process=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="searched for meshes, folders below included")
    parser.add_argument("--files", type=int, default=8, help="how many files of each format to read")
    parser.add_argument("--repeats", type=int, default=10, help="how often to read each")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    found = defaultdict(list)
    for path in sorted(arguments.folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            found[path.suffix.lower()].append(path)
    print("| format | files | MB | vertices | triangles | ours, ms | MB/s | trimesh, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for suffix, all_paths in found.items():
        paths = all_paths[: arguments.files]
        size = statistics.mean(path.stat().st_size for path in paths) / 1e6
        mesh = read_mesh(paths[0])
        ours = _median_ms(read_mesh, paths, arguments.repeats)
        try:
            theirs = f"{_median_ms(_read_with_trimesh, paths, 3):.1f}"
        except (NotImplementedError, ValueError):  # it has no reader for the format
            theirs = "-"
        counts = f"{len(mesh.vertices):,} | {len(mesh.faces):,}"
        print(f"| {suffix} | {len(paths)} | {size:.2f} | {counts} | {ours:.2f} | {size / ours * 1e3:.0f} | {theirs} |")


if __name__ == "__main__":
    main()
