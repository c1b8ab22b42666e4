"""From paths that a person names to samples: a mesh, a folder of meshes, a sequence, or a dataset.

Goes in: paths or URLs. Comes out: `Input`s, whose files lie below their root, in the order of asking. Promised:
no link below a folder leads out of it; keys are unique, so that views of two faces have two names.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from smile_pipe.pipeline.datasets import LAYOUTS, check_layout, recognised, samples_in
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles, checked, key_of
from smile_pipe.pipeline.datasets.file_index import MESH_SUFFIXES, FileIndex, natural_order, stem_of, suffix_of
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

UNKNOWN = "unknown"
"""The subject and the expression of whom nothing is known."""


@dataclass(frozen=True)
class Input:
    """One sample to name, with paths relative to `root`; `named` is what a person calls it."""

    root: StoragePath
    source: SampleSource
    named: str


def find_inputs(
    paths: Sequence[str], layout: str = "auto", sequence: bool = False, frame_rate: float = 25.0
) -> list[Input]:
    """What `paths` hold.

    A folder that is laid out as a dataset holds that one's samples, with their labels; of any other, each mesh below it
    is a scan. With `sequence`, each folder holds the frames of one sequence, in the order of their names.

    Raises:
        UsageError: a path is not there or no mesh, or a folder holds none.
    """
    check_layout(layout)
    found = [found for path in paths for found in _inputs(StoragePath(path), layout, sequence, frame_rate)]
    return list(_with_unique_keys(found))


def _inputs(path: StoragePath, layout: str, sequence: bool, frame_rate: float) -> list[Input]:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [_of_file(path)]
    if sequence:
        return [_of_frames(path, frame_rate)]
    listing = FileIndex.scan(path)
    if layout != "auto" or recognised(listing):
        samples: Iterable[SampleSource] = samples_in(listing, layout).samples
    else:
        shown = [mesh for mesh in listing.meshes if not any(part.startswith(".") for part in mesh.split("/"))]
        samples = checked((_scan(ScanFiles.beside(mesh, listing)) for mesh in shown), path)
    found = [Input(path, sample, f"{path / sample.frames[0].mesh}") for sample in samples]
    if not found:
        raise UsageError(f"{path}: holds no mesh; a mesh is a file {_suffixes()}, or {', '.join(LAYOUTS)} as a folder")
    return [replace(one, named=f"{path}: {one.source.key}") if one.source.frame_rate else one for one in found]


def _of_file(path: StoragePath) -> Input:
    if suffix_of(path.name) not in MESH_SUFFIXES:
        raise UsageError(f"{path}: is no mesh that can be read; a mesh is a file {_suffixes()}")
    return Input(path.parent, _scan(ScanFiles.beside(path.name, _folder(path.parent))), str(path))


def _of_frames(path: StoragePath, frame_rate: float) -> Input:
    listing = _folder(path)
    meshes = sorted(listing.meshes_in("."), key=natural_order)
    if not meshes:
        raise UsageError(f"{path}: holds no mesh itself; with `sequence`, name the folder that the frames lie in")
    frames = tuple(ScanFiles.beside(mesh, listing) for mesh in meshes)
    source = SampleSource(key_of(path.absolute().name), UNKNOWN, UNKNOWN, None, frames, frame_rate)
    return Input(path, source, str(path))


def _scan(files: ScanFiles) -> SampleSource:
    return SampleSource(key_of(stem_of(files.mesh).replace("/", "-")), UNKNOWN, UNKNOWN, None, (files,))


def _folder(folder: StoragePath) -> FileIndex:
    """The files of a folder itself: those below may be many, and are not meant."""
    return FileIndex(folder, frozenset(path.name for path in folder.iterdir() if path.is_file()))


def _suffixes() -> str:
    return ", ".join(sorted(MESH_SUFFIXES))


def _with_unique_keys(found: Iterable[Input]) -> Iterator[Input]:
    taken: set[str] = set()
    for one in found:
        key, number = one.source.key, 1
        while key in taken:
            number += 1
            key = f"{one.source.key[:70]}-{number}"
        taken.add(key)
        yield replace(one, source=replace(one.source, key=key))
