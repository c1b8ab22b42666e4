"""A summary of the files that an adapter skipped, so that no file of a data directory is ignored silently."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.file_index import MESH_SUFFIXES, FileIndex, printable, suffix_of
from smile_pipe.shards.formatting import pluralize

MAX_LINES = 6
_MESH_OF = {".mtl": ".obj", ".bin": ".gltf"}  # sidecar files of meshes: a material, a buffer
_ENDING = re.compile(r".*[^/](_[A-Za-z][A-Za-z0-9]*\.\w+)", re.DOTALL)


def summarize_skipped(index: FileIndex, samples: Iterable[SampleSource]) -> tuple[str, ...]:
    """Summarise the files that no sample uses, in at most `MAX_LINES` lines for each of four groups.

    1. Folders with meshes of which none is used, with their content: their names may be wrong for the layout.
    2. Other files, counted by the end of their names.
    3. Names that are not UTF-8, escaped.
    4. Links to folders.

    Materials and buffers in the folder of a used mesh that may refer to them count as used.
    """
    used = {path for sample in samples for path in (*sample.paths, *sample.label_files)}
    unused = index.files - used
    unused -= _sidecars_of_used_meshes(used, unused)
    unrecognized = _unrecognized_folders(used, unused)
    inside: dict[str, list[str]] = defaultdict(list)
    endings: Counter[str] = Counter()
    for path in unused:
        folder = next((folder for folder in _folders(path) if folder in unrecognized), None)
        if folder is None:
            endings[_ending(path)] += 1
        else:
            inside[folder].append(path)
    folders = [f"{printable(folder)}/: {_describe_files(inside[folder])}" for folder in sorted(inside)]
    kinds = [
        f"{pluralize(count, 'file')} {ending}"
        for ending, count in sorted(endings.items(), key=lambda item: (-item[1], item))
    ]
    non_utf8_names = [f"{printable(path)}: name is not UTF-8; rename the file" for path in index.non_utf8_names]
    links = [f"{printable(path)}: a link to a folder, which is not followed; copy it" for path in index.linked_folders]
    return (
        *_truncate(folders, "folders with meshes"),
        *_truncate(kinds, "kinds of files"),
        *_truncate(non_utf8_names, "files whose names are not UTF-8"),
        *_truncate(links, "links to folders"),
    )


def _sidecars_of_used_meshes(used: set[str], unused: Iterable[str]) -> set[str]:
    """Materials and buffers in the folders of used meshes."""
    sidecars = {path for path in unused if suffix_of(path) in _MESH_OF}
    if not sidecars:  # as in most datasets; saves a pass over all used files
        return sidecars
    meshes = {(path.rpartition("/")[0], suffix_of(path)) for path in used}
    return {path for path in sidecars if (path.rpartition("/")[0], _MESH_OF[suffix_of(path)]) in meshes}


def _unrecognized_folders(used: set[str], unused: Iterable[str]) -> set[str]:
    """The topmost folders that hold meshes, at any depth, and no used file."""
    with_meshes = {path.rpartition("/")[0] for path in unused if suffix_of(path) in MESH_SUFFIXES}
    if not with_meshes:
        return with_meshes
    known = {folder for parent in {path.rpartition("/")[0] for path in used} for folder in _folders(f"{parent}/")}
    return {
        top
        for folder in with_meshes
        if (top := next((f for f in _folders(f"{folder}/") if f not in known), None)) is not None
    }


def _folders(path: str) -> Iterable[str]:
    """Yield the parent folders of a path, from the top, without the data directory itself."""
    end = path.find("/")
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)


def _ending(path: str) -> str:
    if match := _ENDING.fullmatch(path):
        return f"*{match[1]}"
    suffix = suffix_of(path)
    return f"*{suffix}" if suffix else "without a suffix"


def _describe_files(paths: list[str]) -> str:
    num_meshes = sum(suffix_of(path) in MESH_SUFFIXES for path in paths)
    meshes, others = pluralize(num_meshes, "mesh", "meshes"), len(paths) - num_meshes
    return f"{meshes}, {pluralize(others, 'other file')}" if others else meshes


def _truncate(lines: list[str], items: str) -> list[str]:
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1:,} more {items}"]
