"""What a layout leaves out, told in a few lines: nothing that lies in a data directory is passed over in silence."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.file_index import MESH_SUFFIXES, FileIndex, printable, suffix_of
from smile_pipe.shards.formatting import pluralize

MAX_LINES = 6
_MESH_OF = {".mtl": ".obj", ".bin": ".gltf"}  # files that meshes name: a material, a buffer
_ENDING = re.compile(r".*[^/](_[A-Za-z][A-Za-z0-9]*\.\w+)", re.DOTALL)


def summarize_skipped(index: FileIndex, samples: Iterable[SampleSource]) -> tuple[str, ...]:
    """The files that no sample uses, at most `MAX_LINES` lines of each of three sorts.

    A folder that holds meshes and nothing that is used is named with what it holds: its name may be foreign to the
    layout. Other files are counted by how their names end. Names that are not UTF-8 are given escaped. Materials and
    buffers in the folder of a mesh that may name them count as used.
    """
    used = {path for sample in samples for path in (*sample.paths, *sample.label_files)}
    unused = index.files - used
    unused -= _sidecars_of_used_meshes(used, unused)
    strange = _unrecognized_folders(used, unused)
    inside: dict[str, list[str]] = defaultdict(list)
    endings: Counter[str] = Counter()
    for path in unused:
        folder = next((folder for folder in _folders(path) if folder in strange), None)
        if folder is None:
            endings[_ending(path)] += 1
        else:
            inside[folder].append(path)
    folders = [f"{printable(folder)}/: {_describe_files(inside[folder])}" for folder in sorted(inside)]
    kinds = [
        f"{pluralize(count, 'file')} {ending}"
        for ending, count in sorted(endings.items(), key=lambda item: (-item[1], item))
    ]
    non_utf8_names = [f"{printable(path)}: its name is not UTF-8; rename it" for path in index.non_utf8_names]
    return (
        *_truncate(folders, "folders with meshes"),
        *_truncate(kinds, "kinds of files"),
        *_truncate(non_utf8_names, "files whose names are not UTF-8"),
    )


def _sidecars_of_used_meshes(used: set[str], unused: Iterable[str]) -> set[str]:
    """The materials and buffers that lie beside meshes that are used."""
    found = {path for path in unused if suffix_of(path) in _MESH_OF}
    if not found:  # as in most datasets, which then need no look at each file that is used
        return found
    meshes = {(path.rpartition("/")[0], suffix_of(path)) for path in used}
    return {path for path in found if (path.rpartition("/")[0], _MESH_OF[suffix_of(path)]) in meshes}


def _unrecognized_folders(used: set[str], unused: Iterable[str]) -> set[str]:
    """The topmost folders that hold meshes, at any depth, and no file that is used."""
    holding = {path.rpartition("/")[0] for path in unused if suffix_of(path) in MESH_SUFFIXES}
    if not holding:
        return holding
    known = {folder for parent in {path.rpartition("/")[0] for path in used} for folder in _folders(f"{parent}/")}
    return {
        top
        for folder in holding
        if (top := next((f for f in _folders(f"{folder}/") if f not in known), None)) is not None
    }


def _folders(path: str) -> Iterable[str]:
    """The folders that a path lies in, from the top; the data directory itself is none."""
    at = path.find("/")
    while at > 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _ending(path: str) -> str:
    if match := _ENDING.fullmatch(path):
        return f"*{match[1]}"
    suffix = suffix_of(path)
    return f"*{suffix}" if suffix else "without a suffix"


def _describe_files(paths: list[str]) -> str:
    num_meshes = sum(suffix_of(path) in MESH_SUFFIXES for path in paths)
    meshes, others = pluralize(num_meshes, "mesh", "meshes"), len(paths) - num_meshes
    return f"{meshes}, {pluralize(others, 'other file')}" if others else meshes


def _truncate(lines: list[str], what: str) -> list[str]:
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1:,} more {what}"]
