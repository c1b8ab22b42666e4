"""Find the samples at paths that a user gives: a mesh, a folder of meshes, a sequence, or a dataset.

No link below a folder is followed out of it. Keys are unique, so that the views of two faces have different names.
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from smile_pipe.pipeline.datasets import LAYOUTS, check_layout, detect_adapter, find_samples_in_index
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles, make_key, numbers_in_names, sort_by_key
from smile_pipe.pipeline.datasets.file_index import MESH_SUFFIXES, FileIndex, natural_order, stem_of, suffix_of
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

UNKNOWN = "unknown"
"""The subject and expression of samples without labels."""


@dataclass(frozen=True)
class ScanInput:
    """A scan or a sequence to predict.

    Attributes:
        root: the folder that the sample's paths are relative to.
        source: files and labels of the sample.
        name: its file, folder, or folder and key, for people.
    """

    root: StoragePath
    source: SampleSource
    name: str


def find_inputs(
    paths: Sequence[str], layout: str = "auto", sequence: bool = False, frame_rate: float = 25.0
) -> list[ScanInput]:
    """Find the scans and sequences at paths or URLs.

    A folder with the layout of a dataset gives the samples of the dataset, with their labels. In any other folder each
    mesh is a scan, and one named `neutral` next to others is the neutral scan of their subject as well.

    Args:
        paths: meshes and folders.
        layout: the layout of folders; `auto` detects it.
        sequence: read each folder as the frames of one sequence, in the order of their names.
        frame_rate: frames per second of these sequences.

    Raises:
        UsageError: a path does not exist or is not a mesh, or a folder has no mesh.
    """
    check_layout(layout)
    inputs = [scan for path in paths for scan in _inputs_at(StoragePath(path), layout, sequence, frame_rate)]
    return list(_with_unique_keys(inputs))


def find_inputs_by_folder(root: StoragePath) -> dict[str, list[ScanInput]]:
    """Find the meshes in each folder of a folder, at any depth; each mesh is a scan.

    A mesh named `neutral` is no scan if others are next to it, but the neutral scan of their subject.

    Returns:
        The scans by the name of the folder, in the natural order of names.

    Raises:
        UsageError: the folder does not exist, or no folder in it has a mesh.
    """
    files = FileIndex.scan(root)
    found: dict[str, list[ScanInput]] = {}
    visible = [mesh for mesh in files.meshes if not any(part.startswith(".") for part in mesh.split("/"))]
    neutrals = _named_neutrals(visible)
    for mesh in sorted(visible, key=natural_order):
        folder, _, rest = mesh.partition("/")
        if rest and mesh not in neutrals.values():
            found.setdefault(folder, []).append(ScanInput(root, _scan(mesh, files, neutrals), f"{root / mesh}"))
    if not found:
        raise UsageError(f"{root}: has no folder with meshes; give one folder for each class")
    return found


def _inputs_at(path: StoragePath, layout: str, sequence: bool, frame_rate: float) -> list[ScanInput]:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [_mesh_input(path)]
    if sequence:
        return [_sequence_input(path, frame_rate)]
    files = FileIndex.scan(path)
    if layout != "auto" or detect_adapter(files):
        samples: Iterable[SampleSource] = find_samples_in_index(files, layout).samples
    else:
        visible = [mesh for mesh in files.meshes if not any(part.startswith(".") for part in mesh.split("/"))]
        neutrals = _named_neutrals(visible)
        samples = sort_by_key((_scan(mesh, files, neutrals) for mesh in visible), path)
    inputs = [
        ScanInput(path, sample, f"{path}: {sample.key}" if sample.frame_rate else f"{path / sample.frames[0].mesh}")
        for sample in samples
    ]
    if not inputs:
        raise UsageError(f"{path}: has no mesh; give mesh files ({_suffixes()}) or a dataset ({', '.join(LAYOUTS)})")
    return inputs


def _mesh_input(path: StoragePath) -> ScanInput:
    if suffix_of(path.name) not in MESH_SUFFIXES:
        raise UsageError(f"{path}: is not a mesh that can be read; give a file of type {_suffixes()}")
    files = _folder_files(path.parent)
    return ScanInput(path.parent, _scan(path.name, files, _named_neutrals(files.meshes_in("."))), str(path))


def _sequence_input(path: StoragePath, frame_rate: float) -> ScanInput:
    files = _folder_files(path)
    meshes = sorted(files.meshes_in("."), key=natural_order)
    if not meshes:
        raise UsageError(f"{path}: has no mesh itself; with `sequence`, give the folder that contains the frames")
    frames = tuple(ScanFiles.with_sidecars(mesh, files) for mesh in meshes)
    key, numbers = make_key(path.absolute().name), numbers_in_names(meshes)
    source = SampleSource(key, UNKNOWN, UNKNOWN, None, frames, frame_rate, numbers=numbers)
    return ScanInput(path, source, str(path))


def _scan(mesh: str, files: FileIndex, neutrals: Mapping[str, str]) -> SampleSource:
    neutral = neutrals.get(posixpath.dirname(mesh), mesh)
    return SampleSource(
        make_key(stem_of(mesh).replace("/", "-")),
        UNKNOWN,
        UNKNOWN,
        None,
        (ScanFiles.with_sidecars(mesh, files),),
        neutral=None if neutral == mesh else ScanFiles.with_sidecars(neutral, files),
    )


def _named_neutrals(meshes: Iterable[str]) -> dict[str, str]:
    """Return the mesh named `neutral` of each folder that has other meshes too."""
    by_folder: dict[str, list[str]] = {}
    for mesh in sorted(meshes):
        by_folder.setdefault(posixpath.dirname(mesh), []).append(mesh)
    return {
        folder: mesh
        for folder, own in by_folder.items()
        for mesh in own
        if len(own) > 1 and stem_of(posixpath.basename(mesh)).lower() == "neutral"
    }


def _folder_files(folder: StoragePath) -> FileIndex:
    """The files directly in a folder; there may be many in its subfolders, which are not needed."""
    return FileIndex(folder, frozenset(folder.file_sizes()))


def _suffixes() -> str:
    return ", ".join(sorted(MESH_SUFFIXES))


def _with_unique_keys(inputs: Iterable[ScanInput]) -> Iterator[ScanInput]:
    keys: set[str] = set()
    for scan in inputs:
        key, number = scan.source.key, 1
        while key in keys:
            number += 1
            key = f"{scan.source.key[:70]}-{number}"
        keys.add(key)
        yield replace(scan, source=replace(scan.source, key=key))
